"""Tables of named columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.errors import DataError, did_you_mean

Rows = NDArray[np.intp]


@dataclass(frozen=True)
class Table:
    """Columns of equal length: arrays of numbers (NaN where missing) or of text (None where missing)."""

    columns: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        lengths = {len(column): name for name, column in self.columns.items()}
        if len(lengths) > 1:
            (n, one), (m, other) = list(lengths.items())[:2]
            raise DataError(f"column '{one}' has {n} rows, and column '{other}' has {m}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def pop(self, name: str, key: str) -> tuple[NDArray[Any], Table]:
        """A column and the table without it; `key` is the config key that named it, for the message."""
        if name not in self.columns:
            raise DataError(f"{key}: {self.lacks(name)}")
        return self.columns[name], Table({k: v for k, v in self.columns.items() if k != name})

    def lacks(self, name: str) -> str:
        """What to say of a column that is not there: `no column 'x'`, the nearest, and those that are."""
        return f"no column '{name}'{did_you_mean(name, self.columns)} (has: {_some(list(self.columns))})"


def numeric_table(features: NDArray[Any], names: Sequence[str]) -> Table:
    """A table of the columns of a float array (N, F)."""
    return Table({str(name): features[:, i].astype(np.float64) for i, name in enumerate(names)})


def is_text(column: NDArray[Any]) -> bool:
    return column.dtype.kind not in "biuf"


def is_missing(cell: Any) -> bool:
    return cell is None or bool(cell != cell)


def _some(names: list[str], n: int = 12) -> str:
    return ", ".join(names[:n]) + (f", ... {len(names) - n} more" if len(names) > n else "")
