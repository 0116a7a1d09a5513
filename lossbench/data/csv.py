"""A user's own table from a CSV file: column types and the task are inferred, or stated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lossbench.data.cells import GROUPED, Column, as_numbers, quoted, read_cells, refuse_huge
from lossbench.data.source import Source, TaskName
from lossbench.data.table import Table
from lossbench.errors import ConfigError, DataError, plural

MOSTLY = 0.9  # a column with this share of numbers is a numeric one, and text in it a mistake
MAX_CLASSES = 20  # whole numbers with at most this many values are classes, unless the task is stated


def csv(
    *,
    path: str,
    target: str,
    task: Literal["auto", "regression", "binary", "multiclass"] = "auto",
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    delimiter: str = "auto",
    encoding: str = "utf-8-sig",
) -> Source:
    """Read a CSV file with a header line.

    Empty cells and words such as NA, NaN, null and ? are missing values. Blank lines and columns without a
    name or without values are left out.

    Args:
        path: the file.
        target: the column to predict.
        task: what the target means; `auto`: two values are binary, text or up to 20 whole numbers that repeat
            are classes, any other number is a regression target. Classes are in the order of numbers, or of
            the alphabet.
        categorical: numeric columns to read as categories, such as postal codes.
        drop: columns to leave out.
        delimiter: one character, or `tab`; `auto` takes the one of `,` `;` tab `|` that the header holds most
            of.
        encoding: as Python names it, such as utf-8-sig, cp1252 or utf-16.

    Raises:
        ConfigError: an unknown encoding or delimiter, or a target that is also dropped or categorical.
        DataError: no such file or column, a ragged row, text in a numeric column, or a missing target, each
            with its line in the file.
    """
    check_names(target, drop, categorical)
    texts, lines, nameless = read_cells(Path(path).expanduser(), delimiter, encoding)
    for name in dict.fromkeys(drop):
        _, texts = texts.pop(name, "dataset.drop")
    for name in categorical:
        texts.pop(name, "dataset.categorical")
    wanted, texts = texts.pop(target, "dataset.target")
    kind, values, classes = _target(wanted, target, task, lines)
    notes = [f"column {i} has no name: left out" for i in nameless]
    if task == "auto":
        found = plural(len(classes), "class") if classes else "numbers"
        notes.append(f"task {kind}, inferred from column '{target}' ({found}); dataset.task=... states another")
    features, left_out = _features(texts, set(categorical), lines)
    if not features:
        raise DataError(f"{path}: no column is left as a feature beside the target '{target}'")
    return Source(Table(features), values, kind, classes, (*notes, *left_out))


def check_names(target: str, drop: Sequence[str], categorical: Sequence[str]) -> None:
    """Refuse a target that is also dropped or categorical."""
    if target in (*drop, *categorical):
        key = "drop" if target in drop else "categorical"
        raise ConfigError(f"dataset.{key} names the target '{target}'; take it out of the list")


def refuse_gaps(what: str, wanted: Column, lines: list[int]) -> None:
    gaps = [i for i, cell in enumerate(wanted) if cell is None]
    if gaps:
        raise DataError(f"{what} is missing in {plural(len(gaps), 'row')}, first at line {lines[gaps[0]]}")


def refuse_text(what: str, wanted: Column, odd: list[int], lines: list[int]) -> None:
    if odd:
        raise DataError(f"{what}, line {lines[odd[0]]}: {quoted(wanted[odd[0]])} is not a number")


def class_name(level: float) -> str:
    """What a class is called that the file has as a number."""
    return str(int(level)) if level.is_integer() else repr(level)


def _target(wanted: Column, name: str, task: str, lines: list[int]) -> tuple[TaskName, NDArray[Any], tuple[str, ...]]:
    """The task, the target as numbers or class indices, and the classes' names."""
    what, n = f"the target '{name}'", len(wanted)
    refuse_gaps(what, wanted, lines)
    numbers, odd = as_numbers(wanted)
    if task == "regression":
        refuse_text(what, wanted, odd, lines)
    if task == "auto":
        _refuse_stray(what, wanted, odd, lines, "dataset.task=multiclass")
    if not odd:
        refuse_huge(what, numbers, lines)
    levels: list[Any] = sorted(set(wanted)) if odd else np.unique(numbers).tolist()
    if len(levels) == 1:
        raise DataError(f"{what} has one value only, {quoted(wanted[0])}: nothing can be learned")
    if task == "auto":
        few = not odd and len(levels) <= min(MAX_CLASSES, n / 2) and all(v.is_integer() for v in levels)
        task = "binary" if len(levels) == 2 else "multiclass" if odd or few else "regression"
    if task == "regression":
        return "regression", numbers, ()
    if task == "binary" and len(levels) != 2:
        raise DataError(f"dataset.task=binary, but {what} has {len(levels)} values")
    if len(levels) > max(2, n / 2):
        raise DataError(f"{what} has {len(levels)} different values in {plural(n, 'row')}: is it the right column?")
    index = {level: i for i, level in enumerate(levels)}
    found = np.array([index[cell] for cell in (wanted if odd else numbers.tolist())])
    names = levels if odd else [class_name(v) for v in levels]
    return ("binary" if task == "binary" else "multiclass"), found, tuple(names)


def _features(texts: Table, categorical: set[str], lines: list[int]) -> tuple[dict[str, Column], list[str]]:
    """Each column as numbers or as categories, and notes on those that are left out."""
    features: dict[str, Column] = {}
    notes = []
    for name, column in texts.columns.items():
        present = sum(cell is not None for cell in column)
        keep = f"dataset.categorical=[{name}]"
        if not present:
            notes.append(f"column '{name}' is empty: left out")
            continue
        if name in categorical:
            features[name] = column
            continue
        numbers, odd = as_numbers(column)
        _refuse_stray(f"column '{name}'", column, odd, lines, keep)
        if not odd:
            refuse_huge(f"column '{name}'", numbers, lines)
            features[name] = numbers
        elif len(set(column)) > max(50, present / 2):
            notes.append(f"column '{name}' has a different text in most rows: left out ({keep} keeps it)")
        else:
            features[name] = column
    return features, notes


def _refuse_stray(what: str, column: Column, odd: list[int], lines: list[int], mend: str) -> None:
    """Refuse text among numbers, and numbers as people write them; a column that is mostly words is none."""
    present = sum(cell is not None for cell in column)
    words = sum(GROUPED.fullmatch(column[i]) is None for i in odd)
    if odd and present - words >= MOSTLY * present:
        cell = column[odd[0]]
        why = " (write 1234.5)" if GROUPED.fullmatch(cell) else ", as nearly all others are"
        line = lines[odd[0]]
        raise DataError(f"{what}, line {line}: {quoted(cell)} is not a number{why}; mend the file, or set {mend}")
