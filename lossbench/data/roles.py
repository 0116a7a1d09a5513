"""Columns of a table that are not features: each example's weight, and the group that it belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.data.scale import LARGEST
from lossbench.data.table import Table, is_missing, is_text
from lossbench.data.table_encoding import MISSING
from lossbench.errors import ConfigError, DataError


def example_weights(features: Any, name: str) -> tuple[Table, NDArray[np.float32]]:
    """The features without the column of example weights, and that column.

    Raises:
        ConfigError: the data set has no columns.
        DataError: no such column, weights that cannot be, or no column is left as a feature.
    """
    column, features = _taken(features, name, "dataset.weight")
    if is_text(column):
        raise DataError(f"dataset.weight: column '{name}' holds text; weights are numbers of at least 0")
    wrong = np.flatnonzero(~((column >= 0) & (column <= LARGEST)))
    if len(wrong):
        raise DataError(
            f"dataset.weight: column '{name}' is {column[wrong[0]]} at example {wrong[0]}; "
            "weights are finite numbers of at least 0"
        )
    return features, column.astype(np.float32)


def group_ids(features: Any, name: str) -> tuple[Table, NDArray[np.int64], tuple[str, ...]]:
    """The features without the column of groups, each example's group, and the groups' names in their order.

    Groups are the column's values, sorted; examples without one are a last group together.

    Raises:
        ConfigError: the data set has no columns.
        DataError: no such column, or none is left as a feature.
    """
    column, features = _taken(features, name, "dataset.group")
    missing = np.array([is_missing(cell) for cell in column.tolist()], dtype=bool)
    known = column[~missing]
    values, found = np.unique(known.astype(str) if is_text(known) else known, return_inverse=True)
    ids = np.full(len(column), len(values), dtype=np.int64)
    ids[~missing] = found
    return features, ids, (*map(_name, values.tolist()), *([MISSING] if missing.any() else []))


def _taken(features: Any, name: str, key: str) -> tuple[NDArray[Any], Table]:
    """A column, and the table without it."""
    if not isinstance(features, Table):
        raise ConfigError(f"{key}={name} names a column, and this data set has none")
    column, rest = features.pop(name, key)
    if not rest.columns:
        raise DataError("no column is left as a feature")
    return column, rest


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
