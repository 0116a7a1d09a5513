"""From a source to splits on the device: split, thin, scale, check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lossbench.data.source import Source
from lossbench.data.table import Table
from lossbench.errors import ConfigError, DataError
from lossbench.seeds import derive
from lossbench.tasks import Binary, Multiclass, Regression, Task

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class SplitShares:
    """How the rows are divided: `val` and `test` shares, the rest trains; classes keep their shares in each."""

    val: Annotated[float, "(0, 1)"] = 0.15
    test: Annotated[float, "(0, 1)"] = 0.15
    stratify: bool = True


@dataclass(frozen=True)
class DatasetOptions:
    """What every data set takes, beside its own options."""

    split: Mapping[str, Any]
    standardize: bool = True
    weight: str | None = None
    imbalance: Annotated[float | None, "(0, 1]"] = None
    workers: Annotated[int, "[0, inf)"] = 0


@dataclass(frozen=True)
class Split:
    """The rows of one split. `inputs` are a tensor, or a map-style Dataset where they do not fit on the device."""

    inputs: Tensor | Dataset[Any]
    target: Tensor
    weight: Tensor | None
    rows: Tensor  # each example's row in the source

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> Split:
        """Some of its examples, by their place in the split."""
        at = rows.to(self.target.device)
        inputs = self.inputs[at] if isinstance(self.inputs, Tensor) else Rowwise(self.inputs, rows.numpy())
        weight = None if self.weight is None else self.weight[at]
        return Split(inputs, self.target[at], weight, self.rows[rows])


@dataclass(frozen=True)
class Data:
    """A data set ready to train on."""

    task: Task
    train: Split
    val: Split
    test: Split
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def prepare(
    source: Source, options: DatasetOptions, shares: SplitShares, seed: int, device: torch.device
) -> Data:
    """Split a source, scale it by its training rows, and put it on the device.

    The same seed gives the same rows in each split, whatever is trained on them. `imbalance` thins the training rows
    to a long tail: class k keeps imbalance^(k / (C - 1)) of the largest class (Cui et al. 2019).

    Raises:
        DataError: values that are not finite, a class too small to split, or impossible weights.
    """
    features, weight = source.features, None
    if options.weight is not None:
        features, weight = _example_weights(features, options.weight)
    _check_target(source)
    train, val, test = split_rows(source, shares, seed)
    if options.imbalance is not None:
        if source.task == "regression":
            raise ConfigError("dataset.imbalance thins classes, and this data set has numbers to predict")
        train = long_tail(train, source.target, options.imbalance, seed)
    if weight is not None and not weight[train].any():
        raise DataError(f"dataset.weight={options.weight} is 0 for every training row: nothing would be learned")
    task, target = _task(source, train)
    inputs = _encode(features, train, options.standardize)
    place = _placer(inputs, device)

    def part(rows: Rows) -> Split:
        return Split(
            inputs=place(rows),
            target=torch.from_numpy(target[rows]).to(device),
            weight=None if weight is None else torch.from_numpy(weight[rows]).to(device),
            rows=torch.from_numpy(rows),
        )

    splits = [part(rows) for rows in (train, val, test)]
    shape = tuple(inputs[0].shape)
    return Data(task, *splits, input_shape=shape, classes=source.classes, notes=source.notes)


def split_rows(source: Source, shares: SplitShares, seed: int) -> tuple[Rows, Rows, Rows]:
    """Train, validation and test rows, each sorted; stratified by class where there are classes."""
    from sklearn.model_selection import train_test_split

    n = len(source.target)
    if shares.val + shares.test >= 1:
        raise ConfigError(
            f"dataset.split: val {shares.val:g} and test {shares.test:g} leave nothing to train on; "
            "together they must be below 1"
        )
    held = {name: max(1, round(share * n)) for name, share in (("val", shares.val), ("test", shares.test))}
    if sum(held.values()) >= n:
        raise DataError(f"{n} rows are too few to split into training, validation and test rows")
    stratify = shares.stratify and source.task != "regression"
    state = derive(seed, "split") % 2**32
    rest = np.arange(n)
    parts = []
    for size in held.values():
        labels = source.target[rest] if stratify else None
        if labels is not None:
            _check_stratum(labels, source.classes, size, len(rest))
        rest, part = train_test_split(rest, test_size=size, random_state=state, stratify=labels)
        parts.append(np.sort(part))
    return np.sort(rest), parts[0], parts[1]


def long_tail(train: Rows, target: NDArray[Any], ratio: float, seed: int) -> Rows:
    """Training rows thinned so that class k keeps ratio^(k / (C - 1)) of the largest class, and at least one row."""
    classes, counts = np.unique(target[train], return_counts=True)
    generator = np.random.default_rng(derive(seed, "imbalance"))
    kept = []
    for k, label in enumerate(classes):
        rows = train[target[train] == label]
        size = round(counts.max() * ratio ** (k / max(1, len(classes) - 1)))
        kept.append(generator.permutation(rows)[: max(1, size)])
    return np.sort(np.concatenate(kept))


def _check_stratum(labels: NDArray[Any], classes: tuple[str, ...], size: int, n: int) -> None:
    found, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2 or size < len(found) or n - size < len(found):
        rare = int(found[counts.argmin()])
        name = classes[rare] if classes else str(rare)
        raise DataError(
            f"class '{name}' has too few rows ({counts.min()}) for every split to hold one of each of "
            f"{len(found)} classes; drop it, widen dataset.split, or set dataset.split.stratify=false"
        )


def _check_target(source: Source) -> None:
    target = source.target
    if len(target) == 0:
        raise DataError("the data set has 0 examples")
    if len(source.features) != len(target):  # type: ignore[arg-type]
        raise DataError(f"{len(source.features)} inputs, but {len(target)} targets")  # type: ignore[arg-type]
    if target.ndim != 1:
        raise DataError(f"targets must have shape (N,), got {target.shape}")
    if source.task == "regression":
        bad = np.flatnonzero(~np.isfinite(target.astype(float)))
        if len(bad):
            raise DataError(f"the target of example {bad[0]} is {target[bad[0]]}")
        return
    if not np.issubdtype(target.dtype, np.integer):
        raise DataError(f"class labels must be whole numbers, got {target.dtype}; use task 'regression' for numbers")
    count = 2 if source.task == "binary" else len(source.classes) or int(target.max()) + 1
    bad = np.flatnonzero((target < 0) | (target >= count))
    if len(bad):
        raise DataError(f"label {target[bad[0]]} at example {bad[0]}, but there are {count} classes: 0 to {count - 1}")
    if len(np.unique(target)) < 2:
        raise DataError("all examples are of one class: nothing can be learned")


def _example_weights(features: Any, name: str) -> tuple[Any, NDArray[np.float32]]:
    if not isinstance(features, Table):
        raise ConfigError(f"dataset.weight={name} names a column, and this data set has none")
    column, features = features.pop(name, "dataset.weight")
    if column.dtype == object or not np.all(np.isfinite(column)) or np.any(column < 0):
        raise DataError(f"dataset.weight: column '{name}' must hold finite numbers of at least 0")
    if not features.columns:
        raise DataError("no column is left as a feature")
    return features, column.astype(np.float32)


def _task(source: Source, train: Rows) -> tuple[Task, NDArray[Any]]:
    """The task with what it must know of the data, and the target as the losses take it."""
    if source.task == "multiclass":
        return Multiclass(len(source.classes) or int(source.target.max()) + 1), source.target.astype(np.int64)
    if source.task == "binary":
        return Binary(), source.target.astype(np.float32)
    values = source.target.astype(np.float64)
    mean, std = float(values[train].mean()), float(values[train].std())
    if std == 0:
        raise DataError("the target is the same number in every training row: nothing can be learned")
    return Regression(mean, std), ((values - mean) / std).astype(np.float32)


def _encode(features: Any, train: Rows, standardize: bool) -> Any:
    """Float32 inputs (N, ...); a Dataset stays as it is."""
    if isinstance(features, Table):
        return features.encode(train, standardize)
    if isinstance(features, Dataset):
        return features
    inputs = np.asarray(features, dtype=np.float32)
    bad = np.argwhere(~np.isfinite(inputs))
    if len(bad):
        row, *place = bad[0].tolist()
        raise DataError(f"input of example {row} at {tuple(place)} is {inputs[tuple(bad[0])]}")
    if not standardize:
        return inputs
    # Images by channel, so that a pixel that never varies in training stays harmless; features one by one.
    axes = (0, 2, 3) if inputs.ndim == 4 else (0,)
    mean = inputs[train].mean(axes, keepdims=True, dtype=np.float64)
    std = inputs[train].std(axes, keepdims=True, dtype=np.float64)
    return ((inputs - mean) / np.where(std > 0, std, 1)).astype(np.float32)


class Rowwise(Dataset[Any]):
    """Some rows of a map-style data set, or of an array that stays in host memory."""

    def __init__(self, items: Any, rows: Rows) -> None:
        self.items, self.rows = items, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Tensor:
        item = self.items[int(self.rows[i])]
        return item if isinstance(item, Tensor) else torch.from_numpy(item)


def _placer(inputs: Any, device: torch.device) -> Any:
    """How a split's inputs are held: a tensor on the device if all of them fit, else row by row."""
    if isinstance(inputs, np.ndarray) and _fits(inputs.nbytes, device):
        return lambda rows: torch.from_numpy(inputs[rows]).to(device)
    return lambda rows: Rowwise(inputs, rows)


def _fits(nbytes: int, device: torch.device) -> bool:
    """Whether the inputs leave half of the device's free memory to the training; host memory holds them already."""
    return device.type != "cuda" or nbytes < torch.cuda.mem_get_info(device)[0] / 2
