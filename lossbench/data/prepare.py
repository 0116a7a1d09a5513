"""From a source to splits on the device: split, thin, scale, check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossbench.data.encoding import learn
from lossbench.data.fitted import Fitted
from lossbench.data.rowwise import TIMEOUT
from lossbench.data.source import Source
from lossbench.data.split import Ready, Split
from lossbench.data.table import Rows, Table
from lossbench.data.target import as_task, check_target, example_weights, learn_task
from lossbench.errors import ConfigError, DataError, plural
from lossbench.seeds import derive
from lossbench.tasks import Task


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
    timeout: Annotated[float, "(0, inf)"] = TIMEOUT


@dataclass(frozen=True)
class Data:
    """A data set ready to train on; `fitted` is what goes with the trained weights."""

    fitted: Fitted
    train: Split
    val: Split
    test: Split
    notes: tuple[str, ...]

    @property
    def task(self) -> Task:
        return self.fitted.task

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.fitted.input_shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.fitted.classes


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
        features, weight = example_weights(features, options.weight)
    check_target(source)
    train, val, test = split_rows(source, shares, seed)
    if options.imbalance is not None:
        if source.task == "regression":
            raise ConfigError("dataset.imbalance thins classes, and this data set has numbers to predict")
        train = long_tail(train, source.target, options.imbalance, seed)
    if weight is not None and not weight[train].any():
        raise DataError(f"dataset.weight={options.weight} is 0 for every training row: nothing would be learned")
    task = learn_task(source, train)
    target = as_task(source.target, task)
    encoding = learn(features, train, options.standardize)
    inputs = encoding.apply(features)
    if isinstance(features, Table) and not np.ptp(inputs[train], axis=0).any():
        raise DataError("no column varies in the training rows: nothing can be learned")
    fitted = Fitted(task, encoding.input_shape, tuple(map(str, source.classes)), encoding)
    ready = Ready(inputs, target, weight, encoding.input_shape, options.timeout)
    splits = ready.splits(device, train, val, test)
    return Data(fitted, splits[0], splits[1], splits[2], source.notes)


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
