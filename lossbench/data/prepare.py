"""From a source to splits on the device: split, thin, scale, check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossbench.data.rowwise import Rowwise, example
from lossbench.data.scale import LARGEST, moments, narrow, standardized, unusable
from lossbench.data.source import Source
from lossbench.data.table import Rows, Table
from lossbench.errors import ConfigError, DataError, plural
from lossbench.seeds import derive
from lossbench.tasks import Binary, Multiclass, Regression, Task


@dataclass(frozen=True)
class SplitShares:
    """How the rows are divided: `val` and `test` shares, the rest trains; classes keep their shares."""

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
    """The rows of one split. `inputs` are a tensor on the device, or read row by row if they do not fit."""

    inputs: Tensor | Rowwise
    target: Tensor
    weight: Tensor | None
    rows: Tensor  # each example's row in the source

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> Split:
        """Some of its examples, by their place in the split."""
        at = rows.to(self.target.device)
        inputs = self.inputs[at] if isinstance(self.inputs, Tensor) else self.inputs.take(rows.numpy())
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


def prepare(source: Source, options: DatasetOptions, shares: SplitShares, seed: int, device: torch.device) -> Data:
    """Split a source, scale it by its training rows, and put it on the device.

    The same seed gives the same rows in each split, whatever is trained on them. `imbalance` thins the
    training rows to a long tail: class k keeps imbalance^(k / (C - 1)) of the largest (Cui et al. 2019).

    Raises:
        ConfigError: options that this data set cannot have, or targets of the wrong kind or shape.
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
    shape = tuple(inputs.shape[1:] if isinstance(inputs, np.ndarray) else example(inputs, 0).shape)
    resident = isinstance(inputs, np.ndarray) and _fits(inputs.nbytes, device)

    def part(rows: Rows) -> Split:
        return Split(
            inputs=torch.from_numpy(inputs[rows]).to(device) if resident else Rowwise(inputs, rows, shape),
            target=torch.from_numpy(target[rows]).to(device),
            weight=None if weight is None else torch.from_numpy(weight[rows]).to(device),
            rows=torch.from_numpy(rows),
        )

    return Data(task, part(train), part(val), part(test), shape, source.classes, source.notes)


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
    labels = source.target if shares.stratify and source.task != "regression" else None
    if labels is not None:
        _check_strata(labels, held, source.classes)
    state = derive(seed, "split") % 2**32
    rest, parts = np.arange(n), []
    for size in held.values():
        strata = None if labels is None else labels[rest]
        rest, part = train_test_split(rest, test_size=size, random_state=state, stratify=strata)
        parts.append(np.sort(part))
    return np.sort(rest), parts[0], parts[1]


def long_tail(train: Rows, target: NDArray[Any], ratio: float, seed: int) -> Rows:
    """Training rows, of class k at most ratio^(k / (C - 1)) times the largest class's, and at least one."""
    classes, counts = np.unique(target[train], return_counts=True)
    generator = np.random.default_rng(derive(seed, "imbalance"))
    kept = []
    for k, label in enumerate(classes):
        rows = train[target[train] == label]
        size = round(counts.max() * ratio ** (k / max(1, len(classes) - 1)))
        kept.append(generator.permutation(rows)[: max(1, size)])
    return np.sort(np.concatenate(kept))


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


def _check_target(source: Source) -> None:
    target, features = source.target, source.features
    if target.ndim != 1:
        raise ConfigError(f"targets must have shape (N,), got {target.shape}")
    if len(target) == 0:
        raise DataError("the data set has 0 examples")
    if isinstance(features, np.ndarray) and features.ndim < 2:
        raise ConfigError(f"inputs must have shape (N, ...), got {features.shape}")
    if len(features) != len(target):  # type: ignore[arg-type]
        raise DataError(f"{len(features)} inputs, but {len(target)} targets")  # type: ignore[arg-type]
    if source.task == "regression":
        bad = unusable(target)
        if bad:
            raise DataError(f"the target of example {bad[0]} is {target[bad]}")
        return
    if source.task == "multiclass" and target.dtype.kind not in "iu":
        raise ConfigError(f"class ids must be whole numbers, got {target.dtype}; task 'regression' is for numbers")
    count = 2 if source.task == "binary" else len(source.classes) or int(target.max()) + 1
    wrong = np.flatnonzero((target < 0) | (target >= count) | (target != np.floor(target)))
    if len(wrong):
        raise DataError(
            f"label {target[wrong[0]]} at example {wrong[0]}, but there are {count} classes: 0 to {count - 1}"
        )


def _example_weights(features: Any, name: str) -> tuple[Any, NDArray[np.float32]]:
    if not isinstance(features, Table):
        raise ConfigError(f"dataset.weight={name} names a column, and this data set has none")
    column, features = features.pop(name, "dataset.weight")
    if column.dtype.kind not in "biuf":
        raise DataError(f"dataset.weight: column '{name}' holds text; weights are numbers of at least 0")
    wrong = np.flatnonzero(~((column >= 0) & (column <= LARGEST)))
    if len(wrong):
        raise DataError(
            f"dataset.weight: column '{name}' is {column[wrong[0]]} at example {wrong[0]}; "
            "weights are finite numbers of at least 0"
        )
    if not features.columns:
        raise DataError("no column is left as a feature")
    return features, column.astype(np.float32)


def _task(source: Source, train: Rows) -> tuple[Task, NDArray[Any]]:
    """The task with what it must know of the data, and the target as the losses take it."""
    values = source.target.astype(np.float64)
    mean, std = (float(moment.item()) for moment in moments(values[train]))
    if std == 0:
        raise DataError("every training row has the same target: nothing can be learned")
    if source.task == "multiclass":
        return Multiclass(len(source.classes) or int(values.max()) + 1), values.astype(np.int64)
    if source.task == "binary":
        return Binary(), values.astype(np.float32)
    return Regression(mean, std), narrow((values - mean) / std)


def _encode(features: Any, train: Rows, standardize: bool) -> Any:
    """Float32 inputs (N, ...); a Dataset stays as it is."""
    if isinstance(features, Table):
        return features.encode(train, standardize)
    if not isinstance(features, np.ndarray):
        return features
    bad = unusable(features)
    if bad:
        raise DataError(f"input of example {bad[0]} at {bad[1:]} is {features[bad]}")
    inputs = features.astype(np.result_type(features, np.float32), copy=False)
    if not standardize:
        return narrow(inputs)
    # Images by channel: a pixel that hardly varies in training would be blown up elsewhere.
    return narrow(standardized(inputs, train, axes=(0, 2, 3) if inputs.ndim == 4 else (0,)))


def _fits(nbytes: int, device: torch.device) -> bool:
    """Whether half of the device's free memory is left for the training; host memory holds them already."""
    return device.type != "cuda" or nbytes < torch.cuda.mem_get_info(device)[0] / 2
