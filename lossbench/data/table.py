"""Tables of named columns: numbers are filled and scaled, words are one-hot, all by the training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.data.scale import narrow, standardized, unusable
from lossbench.errors import DataError, did_you_mean

MAX_LEVELS = 32
MISSING = "(missing)"

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
            near = did_you_mean(name, self.columns)
            raise DataError(f"{key}: no column '{name}'{near} (has: {_some(list(self.columns))})")
        return self.columns[name], Table({k: v for k, v in self.columns.items() if k != name})

    def encode(self, train: Rows, standardize: bool) -> NDArray[np.float32]:
        """Every row as numbers (N, F), with statistics of the training rows only.

        Numbers: the median where missing, a flag column for columns that have gaps, then zero mean and unit
        variance. Words: one column per level (at most 32, the rare ones pooled); a missing word is a level of
        its own, and one that training never saw counts as a rare one, or as none.

        Raises:
            DataError: an infinite value, or nothing that varies.
        """
        numbers = {k: c for k, c in self.columns.items() if not _is_text(c)}
        words = [_words(c) for c in self.columns.values() if _is_text(c)]
        words = [c for c in words if len(set(c[train])) > 1]
        blocks = [np.empty((len(self), 0))]
        if numbers:
            blocks.append(_encode_numbers(numbers, train, standardize))
        if words:
            blocks.append(_encode_words(np.column_stack(words), train))
        encoded = narrow(np.hstack(blocks))
        if not np.ptp(encoded[train], axis=0).any():
            raise DataError("no column varies in the training rows: nothing can be learned")
        return encoded


def numeric_table(features: NDArray[Any], names: Sequence[str]) -> Table:
    """A table of the columns of a float array (N, F)."""
    return Table({str(name): features[:, i].astype(np.float64) for i, name in enumerate(names)})


def _encode_numbers(columns: Mapping[str, NDArray[Any]], train: Rows, standardize: bool) -> NDArray[Any]:
    from sklearn.impute import SimpleImputer

    values = np.column_stack([column.astype(np.float64) for column in columns.values()])
    bad = unusable(np.where(np.isnan(values), 0, values))
    if bad:
        raise DataError(f"column '{list(columns)[bad[1]]}' of example {bad[0]} is {values[bad]}")
    fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    filled = fill.fit(values[train]).transform(values)
    return standardized(filled, train) if standardize else filled


def _encode_words(cells: NDArray[Any], train: Rows) -> NDArray[Any]:
    from sklearn.preprocessing import OneHotEncoder

    # No column is dropped: an unseen word must not look like the dropped one.
    levels = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_LEVELS, sparse_output=False)
    encoded: NDArray[Any] = levels.fit(cells[train]).transform(cells)
    return encoded


def _is_text(column: NDArray[Any]) -> bool:
    return column.dtype.kind not in "biuf"


def _words(column: NDArray[Any]) -> NDArray[Any]:
    """Text throughout, also where a column holds None, NaN or numbers."""
    return np.array([MISSING if c is None or c != c else str(c) for c in column], dtype=object)


def _some(names: list[str], n: int = 12) -> str:
    return ", ".join(names[:n]) + (f", ... {len(names) - n} more" if len(names) > n else "")
