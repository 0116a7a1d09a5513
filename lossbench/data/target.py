"""Targets and example weights: checked, and as the losses take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.data.scale import LARGEST, moments, narrow, unusable
from lossbench.data.source import Source
from lossbench.data.table import Rows, Table
from lossbench.errors import ConfigError, DataError
from lossbench.tasks import Binary, Multiclass, Regression, Task


def check_target(source: Source) -> None:
    """Refuse targets that are not one number or class id per example.

    Raises:
        ConfigError: targets or inputs of the wrong kind or shape.
        DataError: no examples, not as many inputs as targets, a target that is not finite, or no class's id.
    """
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


def learn_task(source: Source, train: Rows) -> Task:
    """The task with what it must know of the training rows."""
    values = source.target.astype(np.float64)
    mean, std = (float(moment.item()) for moment in moments(values[train]))
    if std == 0:
        raise DataError("every training row has the same target: nothing can be learned")
    if source.task == "multiclass":
        return Multiclass(len(source.classes) or int(values.max()) + 1)
    return Binary() if source.task == "binary" else Regression(mean, std)


def as_task(target: NDArray[Any], task: Task) -> NDArray[Any]:
    """The targets as the task's losses take them."""
    values = target.astype(np.float64)
    if isinstance(task, Regression):
        with np.errstate(over="ignore", invalid="ignore"):  # `narrow` says where
            scaled = (values - task.mean) / task.std
        return narrow(scaled)
    return values.astype(np.int64 if isinstance(task, Multiclass) else np.float32)


def by_name(target: NDArray[Any], names: tuple[str, ...], classes: tuple[str, ...], count: int) -> NDArray[Any]:
    """Class ids of other data as those of the training, by name where both have names.

    Raises:
        DataError: a class that the training did not have.
    """
    known = {name: i for i, name in enumerate(classes)}
    if not names or not known:
        ids = target.astype(np.int64)
        names = tuple(map(str, range(int(ids.max()) + 1)))
    else:
        ids = np.array([known.get(name, count) for name in names])[target.astype(np.int64)]
    unknown = np.flatnonzero(ids >= count)
    if len(unknown):
        first = int(unknown[0])
        raise DataError(
            f"class '{names[int(target[first])]}' of example {first} is not among the {count} classes that the model "
            f"was trained on{listed(classes)}"
        )
    return ids


def listed(names: tuple[str, ...], n: int = 12) -> str:
    """The names in brackets, to follow what they are; nothing where there are none."""
    more = f", ... {len(names) - n} more" if len(names) > n else ""
    return f" ({', '.join(names[:n])}{more})" if names else ""


def example_weights(features: Any, name: str) -> tuple[Any, NDArray[np.float32]]:
    """The features without the column of example weights, and that column.

    Raises:
        ConfigError: the data set has no columns.
        DataError: no such column, or weights that cannot be.
    """
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
