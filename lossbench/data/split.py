"""Splits: which rows of a data set serve which purpose, and what they hold, on the device where it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossbench.data.options import SplitShares, strata
from lossbench.data.rowwise import Rowwise
from lossbench.data.source import Source
from lossbench.data.table import Rows
from lossbench.errors import ConfigError, DataError, plural
from lossbench.seeds import derive


@dataclass(frozen=True)
class Split:
    """The rows of one split. `inputs` are a tensor on the device, or read row by row if they do not fit."""

    inputs: Tensor | Rowwise
    target: Tensor
    weight: Tensor | None
    rows: Tensor  # each example's row in the source
    group: Tensor | None = None  # int64, from 0

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> Split:
        """Some of its examples, by their place in the split."""
        at = rows.to(self.target.device)
        inputs = self.inputs[at] if isinstance(self.inputs, Tensor) else self.inputs.take(rows.numpy())
        weight, group = (None if column is None else column[at] for column in (self.weight, self.group))
        return Split(inputs, self.target[at], weight, self.rows[rows], group)


@dataclass(frozen=True)
class Ready:
    """Every row of a data set as a model and a loss take it, in host memory.

    Attributes:
        inputs: float32 (N, *input_shape), or a map-style `Dataset`.
        timeout: seconds to wait for a loader process.
    """

    inputs: Any
    target: NDArray[Any]
    weight: NDArray[np.float32] | None
    input_shape: tuple[int, ...]
    timeout: float
    group: NDArray[np.int64] | None = None

    def splits(self, device: torch.device, *parts: Rows) -> list[Split]:
        """A split of each of these rows, on the device if all of the inputs fit there."""
        resident = isinstance(self.inputs, np.ndarray) and _fits(self.inputs.nbytes, device)
        return [self._split(device, rows, resident) for rows in parts]

    def _split(self, device: torch.device, rows: Rows, resident: bool) -> Split:
        def moved(column: NDArray[Any]) -> Tensor:
            return torch.from_numpy(column[rows]).to(device)

        return Split(
            inputs=moved(self.inputs) if resident else Rowwise(self.inputs, rows, self.input_shape, self.timeout),
            target=moved(self.target),
            weight=None if self.weight is None else moved(self.weight),
            rows=torch.from_numpy(rows),
            group=None if self.group is None else moved(self.group),
        )


def _fits(nbytes: int, device: torch.device) -> bool:
    """Whether half of the device's free memory is left for the training; host memory holds them already."""
    return device.type != "cuda" or nbytes < torch.cuda.mem_get_info(device)[0] / 2


def split_rows(source: Source, shares: SplitShares, seed: int) -> tuple[Rows, Rows, Rows]:
    """Train, validation and test rows, each sorted; stratified by class where there are classes.

    Raises:
        ConfigError: shares that leave nothing to train on.
        DataError: too few rows, or a class too small to be in every split.
    """
    from sklearn.model_selection import train_test_split

    n = len(source.target)
    rest, test = np.split(np.arange(n), [max(0, n - source.held_out)])
    held = _sizes(len(rest), shares, own_test=len(test) > 0)
    labels = strata(source, shares)
    if labels is not None:
        _check_strata(labels[rest], held, source.classes)
    state, parts = derive(seed, "split") % 2**32, {"test": test}
    for name, size in held.items():
        stratify = None if labels is None else labels[rest]
        rest, parts[name] = train_test_split(rest, test_size=size, random_state=state, stratify=stratify)
    return np.sort(rest), np.sort(parts["val"]), np.sort(parts["test"])


def _sizes(n: int, shares: SplitShares, *, own_test: bool) -> dict[str, int]:
    """How many of n rows go into each split that is to be made, the training rows apart."""
    wanted = {"val": shares.val} if own_test else {"val": shares.val, "test": shares.test}
    if sum(wanted.values()) >= 1:
        raise ConfigError(
            f"dataset.split: val {shares.val:g} and test {shares.test:g} leave nothing to train on; "
            "together they must be below 1"
        )
    sizes = {name: max(1, round(share * n)) for name, share in wanted.items()}
    if sum(sizes.values()) >= n:
        parts = "training and validation" if own_test else "training, validation and test"
        raise DataError(f"{n} rows are too few to split into {parts} rows")
    return sizes


def _check_strata(labels: NDArray[Any], held: Mapping[str, int], classes: tuple[str, ...]) -> None:
    """Refuse what no seed could stratify: two rows of each class must outlast the validation split."""
    n, (found, counts) = len(labels), np.unique(labels, return_counts=True)
    mend = "or set dataset.split.stratify=false"
    if counts.min() * (n - held["val"]) // n < 2:
        rare = int(found[counts.argmin()])
        name = classes[rare] if classes else rare
        raise DataError(
            f"class '{name}' has {plural(int(counts.min()), 'row')}, too few to be in every split; leave it out, {mend}"
        )
    smallest = min(*held.values(), n - sum(held.values()))
    if smallest < len(found):
        raise DataError(
            f"a split of {plural(smallest, 'row')} cannot hold all {len(found)} classes; "
            f"change dataset.split.val and dataset.split.test, {mend}"
        )
