"""What runs say of the arms that they belong to, and of each arm against the others."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from lossbench.errors import ConfigError, did_you_mean, plural
from lossbench.report.arms import SEED, Arm, group
from lossbench.report.metric import Metric, choose, direction_of
from lossbench.report.pairs import Pair, compare_pairs
from lossbench.report.runs import Found, Run
from lossbench.report.statistics import BOUNDS, Spread, spread, worst
from lossbench.report.target import SPLIT, Reached, Target, reached, read_target

MOST = 6  # arms of which every pair is compared, where no baseline is named
_SHOWN = 6  # names in a message


@dataclass(frozen=True)
class Question:
    """What is asked of runs; `lossbench compare --help` says what each is."""

    metric: str | None = None
    by: tuple[str, ...] = ()
    baseline: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class Standing:
    """What the runs of an arm say of it.

    Attributes:
        settings: what sets the arm apart, as text.
        values: of each seed: its run's, or the mean of its runs; a run without a number has the worst.
        spread: of the values; `interval` ends where the metric does, and there is none where all are equal.
        best: of the values.
        runs: how many there are.
        seconds: the median of the completed runs, of wall time.
        reached: how soon the target was, where there is one.
        diverged, failed, empty: how many runs have no number because they diverged, failed, or completed without one.
    """

    name: str
    settings: Mapping[str, str]
    values: Mapping[str | None, float]
    spread: Spread
    best: float
    runs: int
    seconds: float | None
    reached: Reached | None
    diverged: int
    failed: int
    empty: int


@dataclass(frozen=True)
class Comparison:
    """Arms, the best one first, and pairs of them.

    Attributes:
        keys: the settings that set arms apart.
        averaged: those whose values each seed's value is the mean over.
        notes: what is to be said of it, a line each.
    """

    metric: Metric
    target: Target | None
    keys: Sequence[str]
    averaged: Sequence[str]
    arms: Sequence[Standing]
    pairs: Sequence[Pair]
    notes: Sequence[str]


def compare(found: Found, question: Question = Question()) -> Comparison:
    """The answer.

    Raises:
        ConfigError: it cannot be answered; the message says what can be asked instead.
    """
    measured = [run for run in found.runs if run.status == "completed" and run.metrics]
    if not measured:
        raise ConfigError(f"nothing to compare: {_how_they_ended(found.runs)}, and none has metrics")
    metric = choose(measured, question.metric or found.metric)
    grouped = group(found.runs, question.by, found.arms, short=found.is_search)
    if metric.name == "loss" and any(key.partition(".")[0] == "loss" for key in grouped.keys):
        raise ConfigError("the values of different losses cannot be compared; --metric takes one that is no loss")
    target = _target(question.target, metric, measured) if question.target else None
    values = [value for run in measured if (value := _value(run, metric)) is not None]
    last = worst(values, metric.name, metric.direction)
    if not values or last is None:
        raise ConfigError(f"nothing to compare: no run has a finite {metric}")
    arms = sorted((_standing(arm, metric, target, last) for arm in grouped.arms), key=lambda arm: _order(arm, metric))
    notes = [*found.notes, *grouped.notes, *_of_the_worst(arms, metric, last)]
    if found.is_search:
        notes.append(
            "trials of a search: each is another setting with one seed, and was chosen by looking at the validation "
            "values of earlier ones; the best is the best partly by chance"
        )
    baseline = _baseline(question.baseline, arms)
    pairs = _pairs(arms, metric, baseline)
    if SEED in grouped.keys:
        notes.append("seeds set the arms apart: there are no others by which to tell a difference from chance")
        pairs = []
    elif max(len(arm.values) for arm in arms) == 1:
        seeds = "sweep.seeds=8" if found.is_fair else "'seed=range(0,8)'"
        few = f"one {'seed' if grouped.averaged else 'run'} per arm: too few seeds to tell; add seeds (such as {seeds})"
        notes += [] if found.is_search else [few]
        pairs = []
    else:
        notes += _of_pairs(pairs, arms, is_asked=baseline is not None)
    return Comparison(metric, target, grouped.keys, grouped.averaged, arms, pairs, notes)


def _target(text: str, metric: Metric, runs: Sequence[Run]) -> Target:
    """The target, of the compared metric where it names none.

    Raises:
        ConfigError: no such metric is evaluated while runs train, or it is not reached from that side.
    """
    name, sign, value = read_target(text)
    name = metric.name if name is None else name.removeprefix(f"{SPLIT}/")
    known = {known for run in runs for known in run.metrics.get(SPLIT, {})}
    if name not in known:
        names = ", ".join(sorted(each for each in known if "/" not in each))
        raise ConfigError(f"--target: no run is validated by '{name}', but by {names}{did_you_mean(name, known)}")
    direction = direction_of(runs, name)
    better = ">=" if direction == "max" else "<="
    if sign not in ("=", better):
        raise ConfigError(f"--target: {name} is better when it is {'larger' if direction == 'max' else 'smaller'}")
    return Target(name, value, direction)


def _value(run: Run, metric: Metric) -> float | None:
    return run.metrics.get(metric.split, {}).get(metric.name) if run.status == "completed" else None


def _standing(arm: Arm, metric: Metric, target: Target | None, last: float) -> Standing:
    """An arm's figures; `last` is what a run without a number counts as."""
    runs = [run for of_seed in arm.runs.values() for run in of_seed]
    ended = Counter(run.status for run in runs)
    numbers = {run.path: _value(run, metric) for run in runs}
    values = {
        seed: sum((last if (value := numbers[run.path]) is None else value) / len(of_seed) for run in of_seed)
        for seed, of_seed in arm.runs.items()
    }
    seconds = [run.seconds for run in runs if run.status == "completed" and run.seconds is not None]
    return Standing(
        name=arm.name,
        settings=arm.settings,
        values=values,
        spread=_shown(spread(list(values.values())), metric),
        best=max(values.values()) if metric.direction == "max" else min(values.values()),
        runs=len(runs),
        seconds=statistics.median(seconds) if seconds else None,
        reached=reached(runs, target) if target else None,
        diverged=ended["diverged"],
        failed=ended["failed"],
        empty=sum(value is None for value in numbers.values()) - ended["diverged"] - ended["failed"],
    )


def _shown(found: Spread, metric: Metric) -> Spread:
    """A spread whose t interval ends where the metric does, and without intervals where all values are equal."""
    if not found.sd or found.interval is None:
        return replace(found, interval=None, bootstrap=None)
    lowest, highest = BOUNDS.get(metric.name.partition("/")[0], (None, None))
    low, high = found.interval
    low, high = low if lowest is None else max(low, lowest), high if highest is None else min(high, highest)
    return replace(found, interval=(low, high))


def _order(arm: Standing, metric: Metric) -> tuple[float, str]:
    mean = arm.spread.mean
    assert mean is not None  # an arm has runs
    return (-mean if metric.direction == "max" else mean), arm.name


def _baseline(asked: str | None, arms: Sequence[Standing]) -> str | None:
    """The arm that is asked for.

    Raises:
        ConfigError: there is none of this name.
    """
    if asked is None:
        return None
    names = {_squeezed(arm.name): arm.name for arm in arms}
    if _squeezed(asked) in names:
        return names[_squeezed(asked)]
    begun = [name for squeezed, name in names.items() if squeezed.startswith(_squeezed(asked))]
    if begun:
        listed = ", ".join(f"'{name}'" for name in begun[:_SHOWN]) + (", ..." if begun[_SHOWN:] else "")
        raise ConfigError(f"no arm is called '{asked}'; --baseline takes a whole name: {listed}")
    raise ConfigError(f"no arm is called '{asked}'{did_you_mean(asked, names.values())}")


def _pairs(arms: Sequence[Standing], metric: Metric, baseline: str | None) -> list[Pair]:
    """The arms in pairs: each with the baseline, or with every other, or with the best where they are many."""
    values = {arm.name: dict[Hashable, float](arm.values.items()) for arm in arms}
    if baseline is None and len(arms) > MOST:
        return compare_pairs(values, metric.direction, arms[0].name, chosen_by_values=True)
    return compare_pairs(values, metric.direction, baseline)


def _of_pairs(pairs: Sequence[Pair], arms: Sequence[Standing], *, is_asked: bool) -> list[str]:
    """What is to be said of the pairs; `is_asked` where the baseline was."""
    notes = []
    if not is_asked and len(arms) > MOST:
        notes.append(
            f"{len(arms)} arms: each is compared with the best one, and p corrected for that choice; "
            "--baseline NAME compares with one that was chosen before"
        )
    sizes = {arm.name: len(arm.values) for arm in arms}
    if any(pair.n < max(sizes[pair.first], sizes[pair.second]) for pair in pairs):
        notes.append("not all arms have runs of the same seed: a pair is compared in those that both have")
    return notes


def _squeezed(name: str) -> str:
    return name.replace(", ", ",")


def _of_the_worst(arms: Sequence[Standing], metric: Metric, last: float) -> list[str]:
    """That runs without a number count as the worst."""
    counts = {
        "diverged": sum(arm.diverged for arm in arms),
        "failed": sum(arm.failed for arm in arms),
        "gave no number": sum(arm.empty for arm in arms),
    }
    said = " and ".join(f"{plural(count, 'run')} {how}" for how, count in counts.items() if count)
    return [f"{said}: counted as the worst outcome, {metric} {last:.4g}"] if said else []


def _how_they_ended(runs: Sequence[Run]) -> str:
    return ", ".join(f"{plural(count, 'run')} {status}" for status, count in Counter(r.status for r in runs).items())
