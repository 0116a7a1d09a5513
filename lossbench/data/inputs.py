"""Files of inputs, with targets or without, read as a trained model's encoding needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lossbench.data.cells import Column, Where, as_numbers, quoted, read_cells, refuse_huge, refuse_text
from lossbench.data.columns import check_names, class_name, label_columns, names_of, refuse_gaps
from lossbench.data.encoding import check_array
from lossbench.data.fitted import Fitted
from lossbench.data.npz import reading_arrays
from lossbench.data.parquet import as_words, reading_parquet
from lossbench.data.source import Source, TaskName
from lossbench.data.table import Table
from lossbench.data.table_encoding import TableEncoding
from lossbench.data.target import class_count, listed
from lossbench.errors import ConfigError, DataError
from lossbench.tasks import Multilabel, Regression

TABLES, ARRAYS = (".csv", ".tsv", ".parquet"), (".npy", ".npz")
NAMES = ("input", "inputs")  # of the array to take from an .npz file that holds several
NUMBERS_THERE = "and the model was trained on numbers there"


def read_inputs(
    path: Path, fitted: Fitted, delimiter: str = "auto", encoding: str = "utf-8-sig"
) -> Table | NDArray[Any]:
    """The features in a file, for `fitted.inputs`.

    Tables come from .csv, .tsv and .parquet: the columns that the encoding needs, as it needs them; others, such as
    the target, are ignored. Arrays come from .npy and .npz, as the data set gave them, before any scaling.

    Raises:
        ConfigError: a file of the wrong kind, an unknown delimiter or text encoding, or no pyarrow for .parquet.
        DataError: no such file, one that is empty or damaged, a column too few, text among numbers, a wrong shape.
    """
    kind, needs = path.suffix.lower(), fitted.encoding
    wanted, what = (TABLES, "a table of named columns") if isinstance(needs, TableEncoding) else (ARRAYS, "arrays")
    if kind not in wanted:
        raise ConfigError(f"the model was trained on {what}: the input must be a file {_either(wanted)}, got '{path}'")
    if not path.is_file():
        raise DataError(f"there is no file '{path}'")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")
    features: Table | NDArray[Any]
    if not isinstance(needs, TableEncoding):
        features = _array(path)
        check_array(features, fitted.input_shape)
    elif kind == ".parquet":
        features = _parquet(path, needs.columns)
    else:
        features = _csv(path, needs.columns, "tab" if (kind, delimiter) == (".tsv", "auto") else delimiter, encoding)
    if len(features) == 0:
        raise DataError(f"{path} holds 0 examples")
    return features


def read_source(
    fitted: Fitted,
    *,
    path: str,
    target: str | Sequence[str],
    task: str = "auto",
    categorical: Sequence[str] = (),
    drop: Sequence[str] = (),
    delimiter: str = "auto",
    encoding: str = "utf-8-sig",
) -> Source:
    """A CSV file with targets, for `fitted.split`: `data.csv.csv` with nothing inferred.

    What the columns hold, the task and the classes are known from the training, so that few rows or one class are
    enough. Columns that the encoding does not need are ignored.

    Args:
        fitted: of a model that was trained on a table.

    Raises:
        ConfigError: another task, or a target or dropped column that the model takes as a feature.
        DataError: as `read_inputs`, or a target that is missing, is no number, or is a class that the training did
            not have, each with its line.
    """
    needs = fitted.encoding.columns if isinstance(fitted.encoding, TableEncoding) else {}
    check_names(target, drop, categorical)
    targets, several = names_of(target), isinstance(fitted.task, Multilabel)
    if several == isinstance(target, str):
        wants = "a list of columns" if several else "one column"
        raise ConfigError(f"the model was trained for task {fitted.task.name}: dataset.target must be {wants}")
    for key, names in {"target": targets, "drop": drop}.items():
        for name in names:
            if name in needs:
                raise ConfigError(
                    f"dataset.{key} names '{name}', and the model was trained with that column as a feature"
                )
    if task not in ("auto", fitted.task.name):
        raise ConfigError(f"dataset.task={task}, and the model was trained for task {fitted.task.name}")
    file = Path(path).expanduser()
    rest, where, _ = read_cells(file, delimiter, encoding)
    wanted = {}
    for name in targets:
        wanted[name], rest = rest.pop(name, "dataset.target")
    features, kind = _columns(file, rest, needs, where), cast(TaskName, fitted.task.name)
    if several:
        return Source(features, _labels(wanted, where), kind, tuple(targets))
    return Source(features, _target(wanted[targets[0]], targets[0], fitted, where), kind, fitted.classes)


def _labels(wanted: Mapping[str, Column], where: Where) -> NDArray[np.int64]:
    """The targets as labels 0 and 1."""
    read = {name: (column, *as_numbers(column)) for name, column in wanted.items()}
    return label_columns({name: text if odd else numbers for name, (text, numbers, odd) in read.items()}, where)


def _target(wanted: Column, name: str, fitted: Fitted, where: Where) -> Column:
    """The target as numbers or class ids of the training."""
    what = f"the target '{name}'"
    refuse_gaps(what, wanted, where)
    numbers, odd = as_numbers(wanted)
    if isinstance(fitted.task, Regression):
        refuse_text(what, wanted, odd, where)
        refuse_huge(what, numbers, where)
        return numbers
    count = class_count(fitted.task)
    classes = fitted.classes or tuple(map(str, range(count)))
    names = wanted.tolist()
    if not as_numbers(np.array(classes, dtype=object))[1]:  # 1, 1.0 and 01 are then the same class
        others = set(odd)
        names = [cell if i in others else class_name(float(cell)) for i, cell in enumerate(names)]
    ids = {known: i for i, known in enumerate(classes)}
    for i, found in enumerate(names):
        if found not in ids:
            raise DataError(
                f"{what}, {where(i)}: class {quoted(wanted[i])} is not among the {count} classes that the model "
                f"was trained on{listed(classes)}"
            )
    return np.array([ids[found] for found in names])


def _either(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _csv(path: Path, needs: dict[str, str], delimiter: str, encoding: str) -> Table:
    texts, where, _ = read_cells(path, delimiter, encoding, keys="--")
    return _columns(path, texts, needs, where)


def _columns(path: Path, texts: Table, needs: dict[str, str], where: Where) -> Table:
    """The columns of text that are needed, as numbers where these are."""
    _refuse_lacking(path, texts, needs)
    columns = {}
    for name, kind in needs.items():
        column = texts.columns[name]
        if kind == "numbers":
            column, odd = as_numbers(column)
            if odd:
                cell = quoted(texts.columns[name][odd[0]])
                raise DataError(f"{path}, {where(odd[0])}: column '{name}' is {cell}, {NUMBERS_THERE}")
            refuse_huge(f"{path}: column '{name}'", column, where)
        columns[name] = column
    return Table(columns)


def _parquet(path: Path, needs: dict[str, str]) -> Table:
    with reading_parquet(path) as reader:
        names = reader.read_schema(path).names
        _refuse_lacking(path, Table({name: np.empty(0) for name in names}), needs)
        read = reader.read_table(path, columns=list(needs))
        cells = {name: read.column(name).to_pylist() for name in needs}
    return Table({name: _typed(path, name, kind, cells[name]) for name, kind in needs.items()})


def _typed(path: Path, name: str, kind: str, cells: list[Any]) -> Column:
    """A column of Python values, None where missing, as numbers or as text."""
    if kind == "text":
        return as_words(cells)
    for i, cell in enumerate(cells):
        if not isinstance(cell, (int, float, Decimal, type(None))):
            raise DataError(f"{path}: column '{name}' of example {i} is {quoted(str(cell))}, {NUMBERS_THERE}")
    return np.array([np.nan if cell is None else float(cell) for cell in cells], dtype=np.float64)


def _refuse_lacking(path: Path, table: Table, needs: dict[str, str]) -> None:
    for name in needs:
        if name not in table.columns:
            raise DataError(f"{path} has {table.lacks(name)}")


def _array(path: Path) -> NDArray[Any]:
    with reading_arrays(path) as found:
        array = found if isinstance(found, np.ndarray) else _chosen(path, found)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path} must hold numbers, got {array.dtype}")
    return array


def _chosen(path: Path, arrays: Any) -> NDArray[Any]:
    """The one array of an .npz file, or the one that is named for it."""
    names = list(arrays.files)
    named = names if len(names) == 1 else [name for name in names if name in NAMES]
    if len(named) != 1:
        raise DataError(
            f"{path} must hold one array, or one named {' or '.join(NAMES)}; it has {', '.join(names) or 'none'}"
        )
    array: NDArray[Any] = arrays[named[0]]
    return array
