"""A user's own table from a CSV file: column types and the task are inferred, or stated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lossbench.data.cells import GROUPED, Column, Where, as_numbers, quoted, read_cells, refuse_text
from lossbench.data.columns import TableTask, check_names, names_of, refuse_gaps, select, table_source
from lossbench.data.source import Source
from lossbench.data.table import Table
from lossbench.errors import DataError

MOSTLY = 0.9  # a column with this share of numbers is a numeric one, and text in it a mistake


def csv(
    *,
    path: str,
    target: str | Sequence[str],
    task: TableTask = "auto",
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
        target: the column to predict; a list of columns of 0 and 1 is multilabel.
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
    texts, where, nameless = read_cells(Path(path).expanduser(), delimiter, encoding)
    columns = {}
    for name, column in select(texts, target, drop, categorical).columns.items():
        if name in names_of(target):
            columns[name] = _typed_target(f"the target '{name}'", column, task, where)
        else:
            columns[name] = column if name in categorical else _typed(name, column, where)
    return table_source(
        path,
        Table(columns),
        where,
        target=target,
        task=task,
        categorical=categorical,
        notes=[f"column {i} has no name: left out" for i in nameless],
    )


def _typed(name: str, column: Column, where: Where) -> Column:
    """A column as numbers, or as the text that it is."""
    numbers, odd = as_numbers(column)
    _refuse_stray(f"column '{name}'", column, odd, where, f"dataset.categorical=[{name}]")
    return column if odd else numbers


def _typed_target(what: str, column: Column, task: TableTask, where: Where) -> Column:
    refuse_gaps(what, column, where)
    numbers, odd = as_numbers(column)
    if task == "regression":
        refuse_text(what, column, odd, where)
    if task == "auto":
        _refuse_stray(what, column, odd, where, "dataset.task=multiclass")
    return column if odd else numbers


def _refuse_stray(what: str, column: Column, odd: list[int], where: Where, mend: str) -> None:
    """Refuse text among numbers, and numbers as people write them; a column that is mostly words is none."""
    present = sum(cell is not None for cell in column)
    words = sum(GROUPED.fullmatch(column[i]) is None for i in odd)
    if odd and present - words >= MOSTLY * present:
        cell = column[odd[0]]
        why = " (write 1234.5)" if GROUPED.fullmatch(cell) else ", as nearly all others are"
        raise DataError(f"{what}, {where(odd[0])}: {quoted(cell)} is not a number{why}; mend the file, or set {mend}")
