"""The group that each example belongs to, such as a hospital, for losses that look at groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.data.table import Table
from lossbench.errors import ConfigError, DataError

MISSING = "(missing)"


def group_ids(features: Any, name: str) -> tuple[Any, NDArray[np.int64], tuple[str, ...]]:
    """The features without the column of groups, each example's group, and the groups' names in their order.

    Groups are the column's values, sorted; examples without one are a last group together.

    Raises:
        ConfigError: the data set has no columns.
        DataError: no such column, or none is left as a feature.
    """
    if not isinstance(features, Table):
        raise ConfigError(f"dataset.group={name} names a column, and this data set has none")
    column, features = features.pop(name, "dataset.group")
    if not features.columns:
        raise DataError("no column is left as a feature")
    missing = np.array([cell is None or bool(cell != cell) for cell in column.tolist()], dtype=bool)
    known = column[~missing]
    values, found = np.unique(known if known.dtype.kind in "biuf" else known.astype(str), return_inverse=True)
    ids = np.full(len(column), len(values), dtype=np.int64)
    ids[~missing] = found
    return features, ids, (*map(_name, values.tolist()), *([MISSING] if missing.any() else []))


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
