"""Tables of named columns: numbers are scaled, words are one-hot, missing values are filled, by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.errors import DataError, did_you_mean

MAX_LEVELS = 32
MISSING = "(missing)"


@dataclass(frozen=True)
class Table:
    """Columns of equal length: float arrays (NaN where missing) or object arrays of text (None where missing)."""

    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def pop(self, name: str, key: str) -> tuple[NDArray[Any], Table]:
        """A column and the table without it; `key` is the config key that named it, for the message."""
        if name not in self.columns:
            near = did_you_mean(name, self.columns)
            raise DataError(f"{key}: no column '{name}'{near} (has: {_some(list(self.columns))})")
        return self.columns[name], Table({k: v for k, v in self.columns.items() if k != name})

    def encode(self, train: NDArray[np.intp], standardize: bool) -> NDArray[np.float32]:
        """Every row as numbers (N, F), with statistics of the training rows only.

        Numbers: the median where missing, a flag column for columns that have gaps, then zero mean and unit variance.
        Words: one column per level (at most 32, the rare ones pooled); a missing word is a level of its own.
        """
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        numbers = [i for i, c in enumerate(self.columns.values()) if c.dtype != object]
        words = [i for i, c in enumerate(self.columns.values()) if c.dtype == object]
        cells = np.empty((len(self), len(self.columns)), dtype=object)
        for i, column in enumerate(self.columns.values()):
            cells[:, i] = np.where(column == None, MISSING, column) if i in words else column  # noqa: E711
        scale = [StandardScaler()] if standardize else []
        fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        levels = OneHotEncoder(
            drop="if_binary", handle_unknown="infrequent_if_exist", max_categories=MAX_LEVELS, sparse_output=False
        )
        encoder = ColumnTransformer(
            [("numbers", make_pipeline(fill, *scale), numbers), ("words", levels, words)], sparse_threshold=0
        )
        encoder.fit(cells[train])
        encoded: NDArray[np.float32] = np.asarray(encoder.transform(cells), dtype=np.float32)
        return encoded


def numeric_table(features: NDArray[Any], names: Sequence[str]) -> Table:
    """A table of the columns of a float array (N, F)."""
    return Table({str(name): features[:, i].astype(np.float64) for i, name in enumerate(names)})


def _some(names: list[str], n: int = 12) -> str:
    return ", ".join(names[:n]) + (f", ... {len(names) - n} more" if len(names) > n else "")
