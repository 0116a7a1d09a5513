"""A user's own table from a Parquet file: the columns' types are the file's, the task is inferred, or stated."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lossbench.data.cells import Column
from lossbench.data.columns import TableTask, check_names, names_of, select, table_source
from lossbench.data.source import Source
from lossbench.data.table import Table, is_missing
from lossbench.errors import ConfigError, DataError, first_line

INDEX = "__index_level_"  # how pandas begins the name of a column that holds its row index


def parquet(
    *,
    path: str,
    target: str | Sequence[str],
    task: TableTask = "auto",
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
) -> Source:
    """Read a Parquet file; needs pyarrow.

    Numbers and truth values are numbers, text and dictionaries of text are words; nulls and NaN are missing values.
    Dates and other types are left out, with a note.

    Args:
        path: the file.
        target: the column to predict; a list of columns of 0 and 1 is multilabel.
        task: what the target means, as for CSV files.
        categorical: columns of any other type to read as words.
        drop: columns to leave out.

    Raises:
        ConfigError: no pyarrow, or a target that is also dropped or categorical.
        DataError: no such file or column, a damaged file, or a target that is missing or neither numbers nor words.
    """
    check_names(target, drop, categorical)
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"dataset.path: there is no file '{file}'")
    with reading_parquet(file) as reader:
        found = reader.read_table(file)
    if found.num_rows == 0:
        raise DataError(f"{path} has no rows")
    every = Table({name: np.empty(found.num_rows, dtype=object) for name in found.column_names})
    columns, notes = {}, []
    for name in select(every, target, drop, categorical).columns:
        if name.startswith(INDEX):
            continue
        kind, column = found.schema.field(name).type, found.column(name)
        if name in categorical or _are_words(kind):
            columns[name] = as_words(column.to_pylist())
        elif _are_numbers(kind):
            columns[name] = column.cast("float64", safe=False).to_numpy()
        elif name in names_of(target):
            raise DataError(f"the target '{name}' holds {kind}: a target must be numbers or words")
        else:
            notes.append(f"column '{name}' holds {kind}: left out (dataset.categorical=[{name}] reads it as words)")
    return table_source(
        path, Table(columns), lambda row: f"row {row}", target=target, task=task, categorical=categorical, notes=notes
    )


@contextmanager
def reading_parquet(path: Path) -> Iterator[Any]:
    """Gives `pyarrow.parquet`, to read this file with.

    Raises:
        ConfigError: pyarrow is not installed.
        DataError: a file that is damaged or is no Parquet file.
    """
    try:
        reader = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError("reading .parquet files needs pyarrow: pip install pyarrow") from error
    try:
        yield reader
    except (OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from error


def as_words(cells: list[Any]) -> Column:
    """Text, None where missing."""
    column = np.empty(len(cells), dtype=object)
    column[:] = [None if is_missing(cell) else str(cell) for cell in cells]
    return column


def _are_numbers(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    value = kind.value_type if types.is_dictionary(kind) else kind
    return any(test(value) for test in (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal))


def _are_words(kind: Any) -> bool:
    types = importlib.import_module("pyarrow.types")
    value = kind.value_type if types.is_dictionary(kind) else kind
    return any(test(value) for test in (types.is_string, types.is_large_string, types.is_null))
