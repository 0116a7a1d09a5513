"""Saved state read back from JSON: every key is checked, so that a damaged file is said and never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from lossbench.errors import CheckpointError

Kind = Callable[[Any, str], Any]  # takes a value and its place in the file; gives the value, or raises


def read(saved: Any, place: str, **kinds: Kind) -> dict[str, Any]:
    """The values of an object that has exactly these keys.

    Raises:
        CheckpointError: a key too many or too few, or a value of another kind.
    """
    if not isinstance(saved, Mapping):
        raise damaged(place, "is not an object")
    for key in kinds:
        if key not in saved:
            raise damaged(place, f"has no '{key}'")
    for key in saved:
        if key not in kinds:
            raise damaged(place, f"has an unknown key '{key}'")
    return {key: kind(saved[key], f"{place}.{key}") for key, kind in kinds.items()}


def damaged(place: str, what: str) -> CheckpointError:
    """The error for a saved value that cannot be so."""
    return CheckpointError(f"the checkpoint is damaged ({place} {what}); use another one, or train again")


def number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise damaged(place, "is not a finite number")
    return float(value)


def deviation(value: Any, place: str) -> float:
    if number(value, place) < 0:
        raise damaged(place, "is below 0")
    return float(value)


def positive(value: Any, place: str) -> float:
    if number(value, place) <= 0:
        raise damaged(place, "is not above 0")
    return float(value)


def count(value: Any, place: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise damaged(place, "is not a whole number of at least 0")
    if value >= 2**63:
        raise damaged(place, "is too large a number")
    return value


def text(value: Any, place: str) -> str:
    if not isinstance(value, str):
        raise damaged(place, "is not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair: it could not be written anywhere
        raise damaged(place, "is not whole text") from error
    return value


def flag(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise damaged(place, "is not true or false")
    return value


def one_of(*words: str) -> Kind:
    def kind(value: Any, place: str) -> str:
        if value not in words:
            raise damaged(place, f"is not one of {', '.join(words)}")
        return str(value)

    return kind


def list_of(item: Kind) -> Kind:
    def kind(value: Any, place: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise damaged(place, "is not a list")
        return tuple(item(v, f"{place}[{i}]") for i, v in enumerate(value))

    return kind


def optional(inner: Kind) -> Kind:
    def kind(value: Any, place: str) -> Any:
        return None if value is None else inner(value, place)

    return kind
