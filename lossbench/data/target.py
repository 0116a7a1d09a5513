"""Targets: checked, and as the losses take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.data.scale import moments, narrow, unusable
from lossbench.data.source import Source
from lossbench.data.table import Rows
from lossbench.errors import ConfigError, DataError
from lossbench.tasks import Binary, Multiclass, Multilabel, Regression, SoftLabels, Task

ROW_SUM = 1e-4  # how far from 1 the probabilities of an example may sum


def task_of(source: Source) -> str:
    """The name of the task that a source's target is for."""
    return "soft_labels" if source.task == "multiclass" and source.target.ndim == 2 else source.task


def check_target(source: Source) -> None:
    """Refuse targets that are not what the task takes: a number, a class id, a row of labels or of probabilities.

    Raises:
        ConfigError: targets or inputs of the wrong kind or shape.
        DataError: no examples, not as many inputs as targets, a target that is not finite, no class's id, no label, or
            probabilities that do not sum to 1.
    """
    target, features = source.target, source.features
    _check_shape(source)
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
    elif source.task == "multilabel":
        wrong = np.argwhere((target != 0) & (target != 1))
        if len(wrong):
            row, label = wrong[0]
            raise DataError(f"label {label} of example {row} is {target[row, label]}; labels are 0 or 1")
    elif target.ndim == 2:
        _check_shares(target)
    else:
        _check_ids(source)


def _check_shape(source: Source) -> None:
    """One number per example, or a row where the task has rows."""
    target = source.target
    if source.task == "multilabel":
        if target.ndim != 2:
            raise ConfigError(f"targets of several labels must have shape (N, K), got {target.shape}")
    elif target.ndim != 1 and (source.task != "multiclass" or target.ndim != 2 or target.shape[1] == 1):
        raise ConfigError(f"targets must have shape (N,), got {target.shape}")
    if target.ndim == 1:
        return
    if source.task == "multiclass" and target.dtype.kind != "f":
        raise ConfigError(
            f"targets are rows of whole numbers, of shape {target.shape}: pass class ids (N,), as target.argmax(1) "
            "gives them of one-hot rows, or rows of floats that sum to 1"
        )
    if source.classes and len(source.classes) != target.shape[1]:
        raise ConfigError(f"{len(source.classes)} classes are named, and targets have shape {target.shape}")


def _check_shares(target: NDArray[Any]) -> None:
    """Each row is a distribution over the classes."""
    negative = np.argwhere(target < 0)
    if len(negative):
        row, label = negative[0]
        raise DataError(f"the soft label of example {row} is {target[row, label]:g} for class {label}: below 0")
    total = target.sum(1, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(total - 1) <= ROW_SUM))
    if len(wrong):
        raise DataError(f"the soft label of example {wrong[0]} sums to {total[wrong[0]]:g}; it must sum to 1")


def _check_ids(source: Source) -> None:
    """Each target is the id of a class."""
    target = source.target
    if source.task == "multiclass" and target.dtype.kind not in "iu":
        raise ConfigError(f"class ids must be whole numbers, got {target.dtype}; task 'regression' is for numbers")
    count = id_count(source)
    wrong = np.flatnonzero((target < 0) | (target >= count) | (target != np.floor(target)))
    if len(wrong):
        raise DataError(
            f"label {target[wrong[0]]} at example {wrong[0]}, but there are {count} classes: 0 to {count - 1}"
        )


def id_count(source: Source) -> int:
    """How many classes a data set of class ids has."""
    return 2 if source.task == "binary" else len(source.classes) or int(source.target.max()) + 1


def learn_task(source: Source, train: Rows, standardize: bool = True) -> Task:
    """The task with what it must know of the training rows; numbers stay as they are without `standardize`."""
    values = source.target[train].astype(np.float64)
    mean, std = moments(values)
    if not std.any():
        raise DataError("every training row has the same target: nothing can be learned")
    if source.task == "regression":
        return Regression(float(mean.item()), float(std.item())) if standardize else Regression()
    if source.task == "binary":
        return Binary()
    if source.task == "multilabel":
        return Multilabel(values.shape[1])
    if values.ndim == 2:
        return SoftLabels(values.shape[1], tuple(values.sum(0).tolist()))
    classes = id_count(source)
    counts = np.bincount(values.astype(np.int64), minlength=classes)
    return Multiclass(classes, tuple(map(float, counts)))


def check_counts(target: NDArray[Any], task: Task) -> None:
    """Refuse targets that are no counts where the model gives a rate.

    Raises:
        DataError: the first target below 0.
    """
    below = np.flatnonzero(target < 0)
    if isinstance(task, Regression) and task.head == "log_rate" and len(below):
        raise DataError(
            f"the loss needs counts of 0 or more, and the target of example {below[0]} is {target[below[0]]}"
        )


def as_task(target: NDArray[Any], task: Task) -> NDArray[Any]:
    """The targets as the task's losses take them."""
    if isinstance(task, SoftLabels) and target.ndim == 1:
        target = np.eye(task.classes)[target]
    values = target.astype(np.float64)
    if isinstance(task, Regression):
        with np.errstate(over="ignore", invalid="ignore"):  # `narrow` says where
            scaled = (values - task.mean) / task.std
        return narrow(scaled)
    return values.astype(np.int64 if isinstance(task, Multiclass) else np.float32)


def as_trained(source: Source, task: Task, classes: tuple[str, ...]) -> NDArray[Any]:
    """The targets of other data, with the class ids or the columns of the training, whose classes are named here.

    Raises:
        DataError: a class that the training did not have, other columns, or no counts for a model that gives rates.
    """
    if isinstance(task, Regression):
        check_counts(source.target, task)
        return source.target
    if source.target.ndim == 2:
        return by_column(source.target, source.classes, classes, task.outputs)
    return by_name(source.target, source.classes, classes, class_count(task))


def class_count(task: Task) -> int:
    """How many classes or labels there are; 0 for numbers."""
    if isinstance(task, Regression):
        return 0
    return 2 if isinstance(task, Binary) else task.outputs


def by_column(target: NDArray[Any], names: tuple[str, ...], classes: tuple[str, ...], count: int) -> NDArray[Any]:
    """Columns of other data in the order of the training, by name where both have names.

    Raises:
        DataError: a column too many or too few.
    """
    if not names or not classes:
        if target.shape[1] != count:
            raise DataError(f"targets have {target.shape[1]} columns, and the model was trained on {count}")
        return target
    odd = [*(name for name in names if name not in classes), *(name for name in classes if name not in names)]
    if odd:
        has = "these data have" if odd[0] in names else "these data lack"
        raise DataError(f"{has} '{odd[0]}', and the model was trained on {count} classes{listed(classes)}")
    return target[:, [names.index(name) for name in classes]]


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
