"""What a sweep's jobs have in common: a later call may add jobs, and may not make another experiment of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lossbench.errors import ConfigError
from lossbench.signatures import show

# By its key, every value that a setting has in some job.
Values = Mapping[str, list[Any]]


def values(jobs: Iterable[Mapping[str, Any]]) -> Values:
    """The values of each setting over the jobs' settings, each once."""
    found: dict[str, dict[str, Any]] = {}
    for settings in jobs:
        for key, value in settings.items():
            found.setdefault(key, {}).setdefault(_text(value), value)
    return {key: list(each.values()) for key, each in found.items()}


def joined(first: Values, second: Values) -> Values:
    """The values of both."""
    both: dict[str, dict[str, Any]] = {}
    for some in (first, second):
        for key, each in some.items():
            both.setdefault(key, {}).update({_text(value): value for value in each})
    return {key: list(each.values()) for key, each in both.items()}


def refuse_changes(sweep: Path, earlier: Values, now: Values) -> None:
    """Refuse settings that had one value in all jobs, and now have another one in all.

    The seed may differ: more seeds are more of the same experiment.

    Raises:
        ConfigError: names every such setting with both values.
    """
    changed = [
        (f"{key}={_typed(earlier[key][0])}", f"{key}={_typed(each[0])}")
        for key, each in now.items()
        if len(each) == len(earlier.get(key, ())) == 1 and _text(each[0]) != _text(earlier[key][0]) and key != "seed"
    ]
    if changed:
        were, are = (", ".join(side) for side in zip(*changed, strict=True))
        verb = "is" if len(changed) == 1 else "are"
        raise ConfigError(
            f"sweep '{sweep.name}' was run with {were}, and {are} {verb} asked for; choose another sweep.name"
        )


def _text(value: Any) -> str:
    """By which values are told apart."""
    return json.dumps(value, sort_keys=True, default=str)


def _typed(value: Any) -> str:
    """A value as one types it after `key=`."""
    return value if isinstance(value, str) else show(value)
