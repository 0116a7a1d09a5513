"""A user's own table from a CSV file: column types and the task are inferred, or stated."""

from __future__ import annotations

import csv as csv_module
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from lossbench.data.scale import LARGEST
from lossbench.data.source import Source, TaskName
from lossbench.data.table import Table
from lossbench.errors import ConfigError, DataError, plural

MISSING_WORDS = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "?"}
MOSTLY = 0.9  # a column with this share of numbers is a numeric one, and text in it a mistake
MAX_CLASSES = 20  # whole numbers with at most this many values are classes, unless the task is stated
GROUPED = re.compile(r"[-+]?[\d.]+([,_]\d+)+(\.\d+)?")  # 1,5 and 1,234.5 and 1_000: numbers to people only

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
    if target in (*drop, *categorical):
        key = "drop" if target in drop else "categorical"
        raise ConfigError(f"dataset.{key} names the target '{target}'; take it out of the list")
    header, rows, lines = _read(Path(path).expanduser(), delimiter, encoding)
    named = {name: i for i, name in enumerate(header) if name}
    texts = Table({name: _text([row[i] for row in rows]) for name, i in named.items()})
    for name in dict.fromkeys(drop):
        _, texts = texts.pop(name, "dataset.drop")
    for name in categorical:
        texts.pop(name, "dataset.categorical")
    wanted, texts = texts.pop(target, "dataset.target")
    kind, values, classes = _target(wanted, target, task, lines)
    notes = [f"column {i} has no name: left out" for i, name in enumerate(header, 1) if not name]
    if task == "auto":
        found = plural(len(classes), "class") if classes else "numbers"
        notes.append(f"task {kind}, inferred from column '{target}' ({found}); dataset.task=... states another")
    features, left_out = _features(texts, set(categorical), lines)
    if not features:
        raise DataError(f"{path}: no column is left as a feature beside the target '{target}'")
    return Source(Table(features), values, kind, classes, (*notes, *left_out))


def _read(path: Path, delimiter: str, encoding: str) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows, and the line in the file on which each row begins."""
    try:
        with path.open(newline="", encoding=encoding) as file:
            records = list(_records(file, path, _delimiter(file, delimiter)))
    except FileNotFoundError as error:
        raise DataError(f"dataset.path: there is no file '{path}'") from error
    except OSError as error:
        raise DataError(f"dataset.path: cannot read '{path}': {error.strerror}") from error
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding} text; try dataset.encoding=cp1252 or utf-16") from error
    except LookupError as error:
        raise ConfigError(f"dataset.encoding: there is no text encoding '{encoding}'") from error
    if len(records) < 2:
        raise DataError(f"{path} has no rows below its header")
    (_, names), *rows = records
    header = [" ".join(name.split()) for name in names]
    repeated = [name for name, count in Counter(header).items() if name and count > 1]
    if repeated:
        raise DataError(f"{path}: the header has '{repeated[0]}' more than once")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {plural(len(row), 'value')}, but the header has {len(header)}")
    return header, [row for _, row in rows], [line for line, _ in rows]


def _delimiter(file: TextIO, stated: str) -> str:
    """The stated one, or that which the header holds most of outside quotes."""
    if stated == "auto":
        unquoted = re.sub(r'"[^"]*"', "", file.read(1 << 20)).lstrip("\r\n")
        file.seek(0)
        header = re.split(r"[\r\n]", unquoted, maxsplit=1)[0]
        return max(",;\t|", key=header.count)
    delimiter = "\t" if stated in ("tab", r"\t") else stated
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError(f"dataset.delimiter must be auto, tab or one character, got '{stated}'")
    return delimiter


def _records(file: TextIO, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the line on which it begins."""
    reader = csv_module.reader(file, delimiter=delimiter, skipinitialspace=delimiter != " ", strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv_module.Error as error:
            raise DataError(f"{path}, line {line}: a quote is not closed, or out of place ({error})") from error
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield line, row


def _text(cells: list[str]) -> Column:
    """Stripped text, None where missing."""
    column = np.empty(len(cells), dtype=object)
    for i, cell in enumerate(cells):
        word = cell.strip()
        column[i] = None if word.lower() in MISSING_WORDS else word
    return column


def _numbers(column: Column) -> tuple[Column, list[int]]:
    """The column as floats (NaN where missing), and the rows that are neither missing nor a number."""
    found = [_number(cell) for cell in column.tolist()]
    odd = [i for i, number in enumerate(found) if number is None]
    return np.array(found, dtype=np.float64), odd


def _number(cell: str | None) -> float | None:
    """NaN where missing, None where it is text."""
    if cell is None:
        return math.nan
    if "_" in cell:  # Python alone takes 1_000 for a number
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def _target(wanted: Column, name: str, task: str, lines: list[int]) -> tuple[TaskName, NDArray[Any], tuple[str, ...]]:
    """The task, the target as numbers or class indices, and the classes' names."""
    what, n = f"the target '{name}'", len(wanted)
    gaps = [i for i, cell in enumerate(wanted) if cell is None]
    if gaps:
        raise DataError(f"{what} is missing in {plural(len(gaps), 'row')}, first at line {lines[gaps[0]]}")
    numbers, odd = _numbers(wanted)
    if odd and task == "regression":
        raise DataError(f"{what}, line {lines[odd[0]]}: {_quoted(wanted[odd[0]])} is not a number")
    if task == "auto":
        _refuse_stray(what, wanted, odd, lines, "dataset.task=multiclass")
    if not odd:
        _refuse_huge(what, numbers, lines)
    levels: list[Any] = sorted(set(wanted)) if odd else np.unique(numbers).tolist()
    if len(levels) == 1:
        raise DataError(f"{what} has one value only, {_quoted(wanted[0])}: nothing can be learned")
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
    names = levels if odd else [str(int(v)) if v.is_integer() else repr(v) for v in levels]
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
        numbers, odd = _numbers(column)
        _refuse_stray(f"column '{name}'", column, odd, lines, keep)
        if not odd:
            _refuse_huge(f"column '{name}'", numbers, lines)
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
        raise DataError(f"{what}, line {line}: {_quoted(cell)} is not a number{why}; mend the file, or set {mend}")


def _refuse_huge(what: str, numbers: Column, lines: list[int]) -> None:
    huge = np.flatnonzero(np.abs(numbers) > LARGEST)
    if len(huge):
        raise DataError(f"{what}, line {lines[huge[0]]}: {numbers[huge[0]]:g} is too large a number")


def _quoted(cell: str, limit: int = 40) -> str:
    """A cell for a message of one line."""
    text = " ".join(cell.split())
    return f"'{text[:limit]}...'" if len(text) > limit else f"'{text}'"
