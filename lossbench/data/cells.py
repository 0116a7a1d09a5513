"""The cells of a CSV file: columns of text, and text as numbers; each fault with its line."""

from __future__ import annotations

import csv as csv_module
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from lossbench.data.scale import LARGEST
from lossbench.data.table import Table
from lossbench.errors import ConfigError, DataError, plural

MISSING_WORDS = {"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "?"}
GROUPED = re.compile(r"[-+]?[\d.]+([,_]\d+)+(\.\d+)?")  # 1,5 and 1,234.5 and 1_000: numbers to people only

Column = NDArray[Any]
Where = Callable[[int], str]  # the place of a row in its file, such as `line 7`


def read_cells(path: Path, delimiter: str, encoding: str, keys: str = "dataset.") -> tuple[Table, Where, list[int]]:
    """The columns that have a name, as stripped text (None where missing).

    Args:
        keys: what stands before `path`, `delimiter` and `encoding` in the messages.

    Returns:
        The table, what says on which line of the file a row begins, and the numbers (from 1) of columns without a name.
    """
    header, rows, lines = _read(path, delimiter, encoding, keys)
    named = {name: i for i, name in enumerate(header) if name}
    table = Table({name: _text([row[i] for row in rows]) for name, i in named.items()})
    return table, lambda row: f"line {lines[row]}", [i for i, name in enumerate(header, 1) if not name]


def _read(path: Path, delimiter: str, encoding: str, keys: str) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows, and the line in the file on which each row begins."""
    try:
        with path.open(newline="", encoding=encoding) as file:
            records = list(_records(file, path, _delimiter(file, delimiter, keys)))
    except FileNotFoundError as error:
        raise DataError(f"{keys}path: there is no file '{path}'") from error
    except OSError as error:
        raise DataError(f"{keys}path: cannot read '{path}': {error.strerror}") from error
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding} text; try {keys}encoding=cp1252 or utf-16") from error
    except LookupError as error:
        raise ConfigError(f"{keys}encoding: there is no text encoding '{encoding}'") from error
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


def _delimiter(file: TextIO, stated: str, keys: str) -> str:
    """The stated one, or that which the header holds most of outside quotes."""
    if stated == "auto":
        unquoted = re.sub(r'"[^"]*"', "", file.read(1 << 20)).lstrip("\r\n")
        file.seek(0)
        header = re.split(r"[\r\n]", unquoted, maxsplit=1)[0]
        return max(",;\t|", key=header.count)
    delimiter = "\t" if stated in ("tab", r"\t") else stated
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise ConfigError(f"{keys}delimiter must be auto, tab or one character, got '{stated}'")
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


def as_numbers(column: Column) -> tuple[Column, list[int]]:
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


def refuse_text(what: str, column: Column, odd: list[int], where: Where) -> None:
    if odd:
        raise DataError(f"{what}, {where(odd[0])}: {quoted(column[odd[0]])} is not a number")


def refuse_huge(what: str, numbers: Column, where: Where) -> None:
    huge = np.flatnonzero(np.abs(numbers) > LARGEST)
    if len(huge):
        raise DataError(f"{what}, {where(huge[0])}: {numbers[huge[0]]:g} is too large a number")


def quoted(cell: str, limit: int = 40) -> str:
    """A cell for a message of one line."""
    text = " ".join(cell.split())
    return f"'{text[:limit]}...'" if len(text) > limit else f"'{text}'"
