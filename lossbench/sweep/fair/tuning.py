"""The arms of a fair sweep: what is tuned in each, over which values, at which points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import qmc

from lossbench.console import say
from lossbench.errors import ConfigError, plural
from lossbench.report.arms import typed
from lossbench.report.runs import GROUPS
from lossbench.signatures import show
from lossbench.sweep.compose import Composer
from lossbench.sweep.expand import labels
from lossbench.sweep.fair.protocol import Protocol, unknown_key
from lossbench.sweep.job import Job, different
from lossbench.sweep.search.space import Dimension

WIDTH = 30  # a default's range goes this factor either way: three decades in all
DIGITS = 3  # of a value that was drawn: it is for people to type again


@dataclass(frozen=True)
class Arm:
    """One of the swept choices.

    Attributes:
        name: what sets it apart, such as `focal`; empty where there is only one.
        default: the arm as it is, before anything is tuned.
        dimensions: what is tuned in it.
        around: the keys whose range goes around the default.
    """

    name: str
    default: Job
    dimensions: tuple[Dimension, ...]
    around: frozenset[str]

    def named(self, what: str, *more: str) -> str:
        """The name of a job of this arm."""
        return f"{what}-{','.join(filter(None, (self.name.replace(', ', ','), *more))) or 'default'}"


def compose_arms(protocol: Protocol, composer: Composer) -> list[Arm]:
    """The arms, composed with their defaults and with the ends of all ranges.

    Raises:
        ConfigError: something in it is refused, or there is no such key, or a range is missing.
    """
    every = zip(labels(protocol.arms), protocol.arms, strict=True)
    found = different(composer.job(words, f"tune-{label or 'default'}", "tune") for label, words in every)
    if equal := len(protocol.arms) - len(found):
        say(f"{plural(equal, 'arm')} equal to another: run once")
    known = list(dict.fromkeys(key for job in found for key in job.settings))
    for key in protocol.tuned:
        if key not in known and not key.startswith("+"):
            raise unknown_key(key, known)
    names = _names(found, protocol.swept)
    arms = [_arm(name, job, protocol.tuned) for name, job in zip(names, found, strict=True)]
    for arm in arms:
        for dimension in arm.dimensions:  # what it refuses is said before anything runs
            for value in dimension.choices or (dimension.low, dimension.high):
                trial_job(arm, [dimension.word(value)], composer)
    return arms


def sobol_trials(arms: Sequence[Arm], protocol: Protocol, composer: Composer, seed: int) -> list[list[Job]]:
    """The trials of each arm: first its default, then points of a Sobol sequence, the same ones in every arm.

    The default comes first so that tuning never loses to not tuning. Of equal trials one is left: it would give the
    same result again.

    Sobol's sequence, scrambled (Owen 1998), covers a range more evenly than random numbers do, and its first points
    are those of any longer one: more trials go on from fewer.

    Raises:
        ConfigError: one of the settings is refused.
    """
    columns = {key: column for column, key in enumerate(protocol.tuned)}
    points = unit_points(len(columns), protocol.trials - 1, seed)
    found = [[arm.default, *(_at(arm, point, columns, composer) for point in points)] for arm in arms]
    return [different(jobs) for jobs in found]


def unit_points(dimensions: int, n: int, seed: int) -> np.ndarray:  # (n, dimensions)
    """The first n points of a scrambled Sobol sequence in the unit cube."""
    if n == 0 or dimensions == 0:
        return np.zeros((n, dimensions))
    points: np.ndarray = qmc.Sobol(dimensions, seed=seed).random_base2(math.ceil(math.log2(n)))
    return points[:n]


def trial_job(arm: Arm, words: Sequence[str], composer: Composer) -> Job:
    """The trial of an arm with these settings beyond its own.

    Raises:
        ConfigError: one of them is refused.
    """
    try:
        return composer.job([*arm.default.overrides, *words], arm.named("tune", *words), "tune")
    except ConfigError as error:
        key = next((key for key in arm.around if key in str(error)), None)
        if key is None:
            raise
        form = "int(interval(LOW,HIGH))" if isinstance(arm.default.settings[key], int) else "interval(LOW,HIGH)"
        raise ConfigError(
            f"{error}; its range is {WIDTH} times its default either way: write another, '{key}={form}'"
        ) from error


def drawn(dimension: Dimension, u: float) -> Any:
    """The dimension's value at u, with few digits where it is a real number."""
    value = dimension.at(u)
    if dimension.kind == "float" and dimension.step is None:
        value = min(max(_short(value), dimension.low), dimension.high)
    return value


def as_typed(dimension: Dimension) -> str:
    """The dimension as it is typed on a command line."""
    if dimension.kind == "choice":
        return f"{dimension.key}={','.join(map(dimension.text, dimension.choices))}"
    low, high = (f"{_short(end):g}" if isinstance(end, float) else str(end) for end in (dimension.low, dimension.high))
    text = f"interval({low},{high})"
    if dimension.kind == "int" and dimension.step == 1:
        text = f"int({text})"
    elif dimension.step is not None:
        text = f"range({low},{dimension.high + dimension.step:g},{dimension.step:g})"
    return f"{dimension.key}=tag(log,{text})" if dimension.log else f"{dimension.key}={text}"


def _names(arms: Sequence[Job], swept: Sequence[str]) -> list[str]:
    """What sets each arm apart, as the leaderboard has it: a choice by its name alone, other settings with their keys.

    Where that does not tell them apart, as typed.
    """
    keys = [key for key in dict.fromkeys(key for job in arms for key in job.settings) if key in swept]
    texts = {key: [typed(job.settings[key]) if key in job.settings else None for job in arms] for key in keys}
    keys = sorted((key for key in keys if len(set(texts[key])) > 1), key=lambda key: (key not in GROUPS, "." in key))

    def named(i: int) -> str:
        values = [(key, texts[key][i]) for key in keys]
        return ", ".join(str(v) if k in GROUPS else f"{k}={v}" for k, v in values if v is not None)

    found = list(map(named, range(len(arms))))
    return found if len(set(found)) == len(found) else labels([job.overrides for job in arms])


def _arm(name: str, job: Job, tuned: Mapping[str, Dimension | None]) -> Arm:
    """The arm, with those of the keys tuned that it has."""
    has = {key: values for key, values in tuned.items() if key in job.settings or key.startswith("+")}
    dimensions = tuple(values or _around(key, job.settings[key], name) for key, values in has.items())
    arm = Arm(name, job, dimensions, frozenset(key for key, values in has.items() if values is None))
    return replace(arm, default=replace(job, name=arm.named("tune")))


def _around(key: str, default: Any, arm: str) -> Dimension:
    """All ratios to the default up to WIDTH either way, equally likely."""
    if isinstance(default, bool) or not isinstance(default, (int, float)) or not 0 < default < math.inf:
        where = f" in {arm}" if arm else ""
        raise ConfigError(
            f"sweep.tune: {key} is {show(default)}{where}, and no range of ratios goes around that; "
            f"give it one: '{key}=interval(LOW,HIGH)'"
        )
    return Dimension(key, "float", _short(default / WIDTH), _short(default * WIDTH), log=True)


def _short(number: float) -> float:
    """The number with few digits."""
    return float(f"{number:.{DIGITS}g}")


def _at(arm: Arm, point: np.ndarray, columns: Mapping[str, int], composer: Composer) -> Job:
    words = [dimension.word(drawn(dimension, float(point[columns[dimension.key]]))) for dimension in arm.dimensions]
    return trial_job(arm, words, composer) if words else arm.default
