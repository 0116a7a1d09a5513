"""What a sweep's jobs have in common: a later call may add jobs, and may not make another experiment of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lossbench.errors import ConfigError
from lossbench.signatures import typed

# By its key, every value that a setting has in some job.
Values = Mapping[str, list[Any]]


def values(jobs: Iterable[Mapping[str, Any]]) -> Values:
    """The values of each setting over the jobs' settings, each once."""
    return _each_once(pair for settings in jobs for pair in settings.items())


def joined(first: Values, second: Values) -> Values:
    """The values of both."""
    return _each_once((key, value) for some in (first, second) for key, each in some.items() for value in each)


def refuse_changes(sweep: Path, earlier: Values, now: Values) -> None:
    """Refuse settings that had one value in all jobs, and now have another one in all.

    The seed may differ: more seeds are more of the same experiment.

    Raises:
        ConfigError: names every such setting with both values.
    """
    changed = [
        (f"{key}={typed(earlier[key][0])}", f"{key}={typed(each[0])}")
        for key, each in now.items()
        if len(each) == len(earlier.get(key, ())) == 1 and _text(each[0]) != _text(earlier[key][0]) and key != "seed"
    ]
    if changed:
        were, are = (", ".join(side) for side in zip(*changed, strict=True))
        verb = "is" if len(changed) == 1 else "are"
        raise ConfigError(
            f"sweep '{sweep.name}' was run with {were}, and {are} {verb} asked for; choose another sweep.name"
        )


def _each_once(settings: Iterable[tuple[str, Any]]) -> Values:
    found: dict[str, dict[str, Any]] = {}
    for key, value in settings:
        found.setdefault(key, {}).setdefault(_text(value), value)
    return {key: list(each.values()) for key, each in found.items()}


def _text(value: Any) -> str:
    """By which values are told apart."""
    return json.dumps(value, sort_keys=True, default=str)
