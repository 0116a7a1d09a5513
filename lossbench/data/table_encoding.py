"""How the columns of a table become inputs: numbers are filled and scaled, words are one-hot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossbench.data import strict
from lossbench.data.scale import Scale, narrow, unusable
from lossbench.data.table import Rows, Table, is_missing, is_text
from lossbench.errors import ConfigError, DataError

MAX_LEVELS = 32
MISSING = "(missing)"

Column = NDArray[Any]


@dataclass(frozen=True)
class Number:
    """A numeric column: what fills its gaps, and whether a column of its own flags them."""

    name: str
    fill: float
    flag: bool


@dataclass(frozen=True)
class Word:
    """A column of text: its levels, one column each; where `pooled`, the rare levels share one more."""

    name: str
    levels: tuple[str, ...]
    pooled: bool


@dataclass(frozen=True)
class TableEncoding:
    """Columns by their name, with statistics of the training rows only.

    Numbers: the median where missing, a flag column for columns that have gaps, then zero mean and unit variance.
    Words: one column per level (at most 32, the rare ones pooled); a missing word is a level of its own, and one that
    training never saw counts as a rare one, or as none. Words that do not vary in training are left out.

    Attributes:
        scale: of the numbers and then the flags; None where they are not scaled.
    """

    numbers: tuple[Number, ...]
    scale: Scale | None
    words: tuple[Word, ...]

    kind: ClassVar[str] = "table"

    @classmethod
    def learn(cls, table: Table, train: Rows, standardize: bool) -> TableEncoding:
        names = [name for name, column in table.columns.items() if not is_text(column)]
        values = _stacked(table, names)[train]
        numbers = _learn_numbers(names, values)
        texts = {name: _words(column)[train] for name, column in table.columns.items() if is_text(column)}
        words = _learn_words({name: column for name, column in texts.items() if len(set(column)) > 1})
        plain = cls(numbers, None, words)
        if not standardize:
            return plain
        return cls(numbers, Scale.learn(plain._filled(values)), words)

    @property
    def columns(self) -> dict[str, str]:
        """The columns that it needs, and what they hold: `numbers` or `text`."""
        numbers = dict.fromkeys((number.name for number in self.numbers), "numbers")
        return {**numbers, **dict.fromkeys((word.name for word in self.words), "text")}

    @property
    def input_shape(self) -> tuple[int]:
        flags = sum(number.flag for number in self.numbers)
        return (len(self.numbers) + flags + sum(map(_width, self.words)),)

    def apply(self, features: Any) -> NDArray[np.float32]:
        """Inputs (N, F); columns are found by name, and those that training did not have are ignored."""
        if not isinstance(features, Table):
            kind = "an array" if isinstance(features, np.ndarray) else f"a {type(features).__name__}"
            raise ConfigError(f"the model was trained on a table of named columns, and these data are {kind}")
        for name in self.columns:
            if name not in features.columns:
                raise DataError(f"the model was trained with a column that is not there: {features.lacks(name)}")
        filled = self._filled(_stacked(features, [number.name for number in self.numbers]))
        numbers = filled if self.scale is None else self.scale.apply(filled, (1, filled.shape[1]))
        return narrow(np.hstack([numbers, *(_one_hot(_texts(features, word.name), word) for word in self.words)]))

    def _filled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns of numbers without their gaps, and the flags behind them."""
        gaps = np.isnan(values)
        filled = np.where(gaps, [number.fill for number in self.numbers], values)
        return np.hstack([filled, gaps[:, [number.flag for number in self.numbers]]])

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "numbers": [asdict(number) for number in self.numbers],
            "scale": None if self.scale is None else self.scale.to_json(),
            "words": [asdict(word) | {"levels": list(word.levels)} for word in self.words],
        }

    @classmethod
    def from_json(cls, saved: Any, place: str) -> TableEncoding:
        found = cls(
            **strict.read(
                saved,
                place,
                numbers=strict.list_of(_read_number),
                scale=strict.optional(Scale.from_json),
                words=strict.list_of(_read_word),
            )
        )
        scaled = len(found.numbers) + sum(number.flag for number in found.numbers)
        if found.scale is not None and len(found.scale.mean) != scaled:
            raise strict.damaged(f"{place}.scale", f"has {len(found.scale.mean)} numbers, not {scaled}")
        return found


def _read_number(saved: Any, place: str) -> Number:
    return Number(**strict.read(saved, place, name=strict.text, fill=strict.number, flag=strict.flag))


def _read_word(saved: Any, place: str) -> Word:
    return Word(**strict.read(saved, place, name=strict.text, levels=strict.list_of(strict.text), pooled=strict.flag))


def _learn_numbers(names: list[str], values: NDArray[np.float64]) -> tuple[Number, ...]:
    from sklearn.impute import SimpleImputer

    if not names:
        return ()
    fill = SimpleImputer(strategy="median", keep_empty_features=True).fit(values).statistics_
    flags = [bool(gaps.any()) for gaps in np.isnan(values).T]
    return tuple(Number(*column) for column in zip(names, fill.tolist(), flags, strict=True))


def _learn_words(columns: Mapping[str, Column]) -> tuple[Word, ...]:
    from sklearn.preprocessing import OneHotEncoder

    if not columns:
        return ()
    # No column is dropped: an unseen word must not look like the dropped one.
    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_LEVELS)
    encoder.fit(np.column_stack(list(columns.values())))
    words = []
    for name, levels, rare in zip(columns, encoder.categories_, encoder.infrequent_categories_, strict=True):
        pooled = set() if rare is None else set(rare.tolist())
        words.append(Word(name, tuple(level for level in levels.tolist() if level not in pooled), bool(pooled)))
    return tuple(words)


def _width(word: Word) -> int:
    return len(word.levels) + word.pooled


def _one_hot(column: Column, word: Word) -> NDArray[np.float64]:
    """One column per level and one for the rare and the unseen; where none is rare, the unseen are in no column."""
    places = {level: i for i, level in enumerate(word.levels)}
    found = np.array([places.get(cell, len(word.levels)) for cell in column.tolist()], dtype=np.intp)
    return np.eye(len(word.levels) + 1, _width(word))[found]


def _stacked(table: Table, names: list[str]) -> NDArray[np.float64]:
    """Columns of numbers side by side, NaN where missing.

    Raises:
        DataError: text, or an infinite value.
    """
    values = np.empty((len(table), len(names)))
    for i, name in enumerate(names):
        column = table.columns[name]
        if is_text(column) and not all(map(is_missing, column)):
            raise DataError(f"column '{name}' holds text, and the model was trained on numbers there")
        values[:, i] = np.nan if is_text(column) else column
    bad = unusable(np.where(np.isnan(values), 0, values))
    if bad:
        raise DataError(f"column '{names[bad[1]]}' of example {bad[0]} is {values[bad]}")
    return values


def _texts(table: Table, name: str) -> Column:
    column = table.columns[name]
    if not is_text(column) and not np.isnan(column.astype(np.float64)).all():
        raise DataError(
            f"column '{name}' holds numbers, and the model was trained on text there; "
            f"dataset.categorical=[{name}] reads the column of a CSV file as text"
        )
    return _words(column)


def _words(column: Column) -> Column:
    """Text throughout, also where a column holds None, NaN or numbers."""
    return np.array([MISSING if is_missing(c) else str(c) for c in column], dtype=object)
