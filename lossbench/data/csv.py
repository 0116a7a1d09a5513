"""A user's own table from a CSV file: column types and the task are inferred, or stated."""

from __future__ import annotations

import csv as csv_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lossbench.data.source import Source, TaskName
from lossbench.data.table import Table
from lossbench.errors import DataError, plural

MISSING_WORDS = {"", "na", "n/a", "nan", "null", "none", "?"}
MOSTLY = 0.9  # a column with this share of numbers is a numeric one, and text in it a mistake
MAX_CLASSES = 20  # whole numbers with at most this many values are classes, unless the task is stated

Column = NDArray[Any]


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

    Args:
        path: the file.
        target: the column to predict.
        task: what the target means; `auto`: two values are binary, text or up to 20 whole numbers are classes, any
            other number is a regression target.
        categorical: numeric columns to read as categories, such as postal codes.
        drop: columns to leave out.
        delimiter: `auto` takes the one of `,` `;` tab `|` that the header holds most of.

    Raises:
        DataError: no such file or column, a ragged row, text in a numeric column, or a missing target, each with its
            line in the file.
    """
    header, rows, lines = _read(Path(path).expanduser(), delimiter, encoding)
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    texts = Table({name: _text(cells) for name, cells in columns.items()})
    for name in drop:
        _, texts = texts.pop(name, "dataset.drop")
    for name in categorical:
        texts.pop(name, "dataset.categorical")
    wanted, texts = texts.pop(target, "dataset.target")
    _refuse_gaps(wanted, target, lines)
    kind, values, classes = _target(wanted, target, task, lines)
    notes = []
    if task == "auto":
        found = plural(len(classes), "class") if classes else "numbers"
        notes.append(f"task {kind}, inferred from column '{target}' ({found}); dataset.task=... states another")
    features, left_out = _features(texts, set(categorical), lines)
    notes += left_out
    if not features:
        raise DataError(f"{path}: no column is left as a feature beside the target '{target}'")
    return Source(Table(features), values, kind, classes, tuple(notes))


def _read(path: Path, delimiter: str, encoding: str) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows, and each row's line in the file."""
    if not path.exists():
        raise DataError(f"dataset.path: there is no file '{path}'")
    try:
        with path.open(newline="", encoding=encoding) as file:
            if delimiter == "auto":
                first = file.readline()
                delimiter = max(",;\t|", key=first.count)
                file.seek(0)
            reader = csv_module.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows, lines = [], []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {plural(len(row), 'value')}, but the header has {len(header)}"
                    )
                rows.append(row)
                lines.append(reader.line_num)
    except OSError as error:
        raise DataError(f"dataset.path: cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {encoding} text; try dataset.encoding=latin-1") from error
    except csv_module.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise DataError(f"{path}: the header has '{sorted(repeated)[0]}' more than once")
    if not rows:
        raise DataError(f"{path} has no rows below its header")
    return header, rows, lines


def _text(cells: list[str]) -> Column:
    """Stripped text, None where missing."""
    column = np.empty(len(cells), dtype=object)
    for i, cell in enumerate(cells):
        word = cell.strip()
        column[i] = None if word.lower() in MISSING_WORDS else word
    return column


def _refuse_gaps(wanted: Column, name: str, lines: list[int]) -> None:
    gaps = [i for i, cell in enumerate(wanted) if cell is None]
    if gaps:
        raise DataError(f"the target '{name}' is missing in {plural(len(gaps), 'row')}, first at line {lines[gaps[0]]}")


def _numbers(column: Column) -> tuple[Column, list[int]]:
    """The column as floats (NaN where missing), and the rows that are neither missing nor a number."""
    numbers, odd = np.full(len(column), np.nan), []
    for i, cell in enumerate(column):
        if cell is not None:
            try:
                numbers[i] = float(cell)
            except ValueError:
                odd.append(i)
    return numbers, odd


def _target(
    wanted: Column, name: str, task: str, lines: list[int]
) -> tuple[TaskName, NDArray[Any], tuple[str, ...]]:
    """The task, the target as numbers or class indices, and the classes' names."""
    numbers, odd = _numbers(wanted)
    levels = sorted(set(wanted)) if odd else [f"{v:g}" for v in np.unique(numbers)]
    if task == "auto":
        whole = not odd and bool(np.all(numbers == np.round(numbers)))
        few = bool(odd) or (whole and len(levels) <= MAX_CLASSES)
        task = "binary" if len(levels) == 2 else "multiclass" if few else "regression"
    if task == "regression":
        if odd:
            raise DataError(f"the target '{name}' holds text, first '{wanted[odd[0]]}' at line {lines[odd[0]]}")
        return "regression", numbers, ()
    if len(levels) < 2:
        raise DataError(f"the target '{name}' has one value only, '{levels[0]}': nothing can be learned")
    if task == "binary" and len(levels) != 2:
        raise DataError(f"dataset.task=binary, but the target '{name}' has {len(levels)} values")
    if odd and len(levels) > len(wanted) / 2:
        raise DataError(
            f"the target '{name}' has {len(levels)} different texts in {plural(len(wanted), 'row')}: "
            "is it the right column?"
        )
    found = np.unique(np.asarray(wanted, dtype=str) if odd else numbers, return_inverse=True)[1]
    return ("binary" if task == "binary" else "multiclass"), found, tuple(levels)


def _features(
    texts: Table, categorical: set[str], lines: list[int]
) -> tuple[dict[str, Column], list[str]]:
    """Each column as numbers or as categories, and notes on those that are left out."""
    features: dict[str, Column] = {}
    notes = []
    for name, column in texts.columns.items():
        present = sum(cell is not None for cell in column)
        numbers, odd = _numbers(column)
        if not present:
            notes.append(f"column '{name}' is empty: left out")
        elif name in categorical:
            features[name] = column
        elif not odd:
            _refuse_infinite(numbers, name, lines)
            features[name] = numbers
        elif len(odd) <= (1 - MOSTLY) * present:
            raise DataError(
                f"column '{name}', line {lines[odd[0]]}: '{column[odd[0]]}' is not a number, as nearly all others are; "
                f"mend the file, or set dataset.categorical=[{name}]"
            )
        elif len(set(column)) > max(50, present / 2):
            notes.append(
                f"column '{name}' has a different text in most rows: left out (dataset.categorical=[{name}] keeps it)"
            )
        else:
            features[name] = column
    return features, notes


def _refuse_infinite(numbers: Column, name: str, lines: list[int]) -> None:
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise DataError(f"column '{name}', line {lines[infinite[0]]}: an infinite value")
