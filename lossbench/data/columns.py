"""From the typed columns of a file to a source: the task and the classes are inferred, or stated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lossbench.data.cells import Column, Where, quoted, refuse_huge
from lossbench.data.source import Source, TaskName
from lossbench.data.table import Table, is_missing, is_text
from lossbench.errors import ConfigError, DataError, plural

TableTask = Literal["auto", "regression", "binary", "multiclass", "multilabel"]

MAX_CLASSES = 20  # whole numbers with at most this many values are classes, unless the task is stated


def table_source(
    path: str,
    table: Table,
    where: Where,
    *,
    target: str | Sequence[str],
    task: TableTask,
    categorical: Sequence[str],
    notes: Sequence[str],
) -> Source:
    """The source that a file's columns make: numbers (NaN where missing) or text (None where missing).

    Raises:
        DataError: a target that is missing or cannot be for the task, an infinite number, or no column as a feature.
    """
    targets = names_of(target)
    wanted: dict[str, Column] = {}
    for name in targets:
        wanted[name], table = table.pop(name, "dataset.target")
    kind: TaskName = "multilabel"
    if not isinstance(target, str):
        values, classes = _labels(wanted, task, where), tuple(targets)
    elif task == "multilabel":
        raise ConfigError("dataset.task=multilabel takes a list of columns of 0 and 1: dataset.target=[A,B,C]")
    else:
        kind, values, classes = infer_target(f"the target '{target}'", wanted[target], task, where)
    inferred = []
    if task == "auto" and isinstance(target, str):
        found = plural(len(classes), "class") if classes else "numbers"
        inferred = [f"task {kind}, inferred from column '{target}' ({found}); dataset.task=... states another"]
    features, left_out = _features(table, set(categorical), where)
    if not features:
        named = f"the target '{target}'" if isinstance(target, str) else f"the targets {', '.join(targets)}"
        raise DataError(f"{path}: no column is left as a feature beside {named}")
    return Source(Table(features), values, kind, classes, (*notes, *inferred, *left_out))


def names_of(target: str | Sequence[str]) -> list[str]:
    """The columns that `dataset.target` names: one, or several for multilabel."""
    names = [target] if isinstance(target, str) else list(target)
    if not names:
        raise ConfigError("dataset.target is an empty list; name a column, or the columns of several labels")
    if len(set(names)) < len(names):
        raise ConfigError(f"dataset.target names '{next(n for n in names if names.count(n) > 1)}' more than once")
    return names


def check_names(target: str | Sequence[str], drop: Sequence[str], categorical: Sequence[str]) -> None:
    """Refuse a target that is also dropped or categorical."""
    for name in names_of(target):
        if name in (*drop, *categorical):
            key = "drop" if name in drop else "categorical"
            raise ConfigError(f"dataset.{key} names the target '{name}'; take it out of the list")


def select(table: Table, target: str | Sequence[str], drop: Sequence[str], categorical: Sequence[str]) -> Table:
    """The table without the columns to drop.

    Raises:
        DataError: it lacks a column that is named.
    """
    for name in dict.fromkeys(drop):
        _, table = table.pop(name, "dataset.drop")
    for key, names in {"categorical": categorical, "target": names_of(target)}.items():
        for name in names:
            table.pop(name, f"dataset.{key}")
    return table


def refuse_gaps(what: str, wanted: Column, where: Where) -> None:
    gaps = [i for i, cell in enumerate(wanted.tolist()) if is_missing(cell)]
    if gaps:
        raise DataError(f"{what} is missing in {plural(len(gaps), 'row')}, first at {where(gaps[0])}")


def class_name(level: float) -> str:
    """What a class is called that the file has as a number."""
    return str(int(level)) if level.is_integer() else repr(level)


def infer_target(
    what: str, wanted: Column, task: TableTask, where: Where
) -> tuple[TaskName, NDArray[Any], tuple[str, ...]]:
    """The task, the target as numbers or class indices, and the classes' names, of one column.

    `auto`: two values are binary, text or up to 20 whole numbers that repeat are classes, any other number is a
    regression target. Classes are in the order of numbers, or of the alphabet.
    """
    refuse_gaps(what, wanted, where)
    words, n = is_text(wanted), len(wanted)
    if words and task == "regression":
        raise DataError(f"{what} holds words, and dataset.task=regression needs numbers")
    if not words:
        refuse_huge(what, wanted, where)
    levels: list[Any] = sorted(set(wanted.tolist())) if words else np.unique(wanted).tolist()
    if len(levels) == 1:
        only = levels[0] if words else class_name(levels[0])
        raise DataError(f"{what} has one value only, {quoted(only)}: nothing can be learned")
    if task == "auto":
        few = not words and len(levels) <= min(MAX_CLASSES, n / 2) and all(v.is_integer() for v in levels)
        task = "binary" if len(levels) == 2 else "multiclass" if words or few else "regression"
    if task == "regression":
        return "regression", wanted, ()
    if task == "binary" and len(levels) != 2:
        raise DataError(f"dataset.task=binary, but {what} has {len(levels)} values")
    if len(levels) > max(2, n / 2):
        raise DataError(f"{what} has {len(levels)} different values in {plural(n, 'row')}: is it the right column?")
    index = {level: i for i, level in enumerate(levels)}
    found = np.array([index[cell] for cell in wanted.tolist()])
    names = levels if words else [class_name(v) for v in levels]
    return ("binary" if task == "binary" else "multiclass"), found, tuple(names)


def _labels(wanted: dict[str, Column], task: TableTask, where: Where) -> NDArray[np.int64]:
    """Columns of 0 and 1 side by side, which each must vary."""
    if task not in ("auto", "multilabel"):
        raise ConfigError(f"dataset.target names {plural(len(wanted), 'column')}: that is dataset.task=multilabel")
    labels = label_columns(wanted, where)
    for name, column in zip(wanted, labels.T, strict=True):
        if (column == column[0]).all():
            raise DataError(f"the target '{name}' has one value only, '{column[0]}': nothing can be learned")
    return labels


def label_columns(wanted: Mapping[str, Column], where: Where) -> NDArray[np.int64]:
    """Columns of 0 and 1 side by side."""
    for name, column in wanted.items():
        what = f"the target '{name}'"
        refuse_gaps(what, column, where)
        for i, cell in enumerate(column.tolist()):
            if cell not in (0, 1):
                shown = quoted(cell if isinstance(cell, str) else class_name(float(cell)))
                raise DataError(f"{what}, {where(i)}: {shown} is not 0 or 1, as each of several labels is")
    return np.column_stack(list(wanted.values())).astype(np.int64)


def _features(table: Table, categorical: set[str], where: Where) -> tuple[dict[str, Column], list[str]]:
    """The columns that are of use, and notes on those that are left out."""
    features: dict[str, Column] = {}
    notes = []
    for name, column in table.columns.items():
        present = sum(not is_missing(cell) for cell in column.tolist())
        if not present:
            notes.append(f"column '{name}' is empty: left out")
        elif not is_text(column):
            refuse_huge(f"column '{name}'", column, where)
            features[name] = column
        elif name not in categorical and len(set(column.tolist())) > max(50, present / 2):
            notes.append(
                f"column '{name}' has a different text in most rows: left out (dataset.categorical=[{name}] keeps it)"
            )
        else:
            features[name] = column
    return features, notes
