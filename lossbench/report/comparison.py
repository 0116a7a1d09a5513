"""What runs say of the arms that they belong to, and of each arm against the others."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from lossbench.errors import ConfigError, did_you_mean, plural
from lossbench.report.arms import SEED, Arm, Cells, Grouped, group
from lossbench.report.metric import Metric, choose, direction_of
from lossbench.report.pairs import Pair, compare_pairs
from lossbench.report.runs import Found, Run
from lossbench.report.statistics import Spread, spread, worst
from lossbench.report.target import SPLIT, Reached, Target, reached, read_target

MOST = 10  # arms of which every pair is compared, where no baseline is named


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
        values: of each run, by what it is paired by; a run without a number has the worst.
        best: of the values.
        seconds: the median of the completed runs.
        reached: how soon the target was, where there is one.
        diverged, failed, empty: how many runs have no number because they diverged, failed, or completed without one.
    """

    name: str
    settings: Mapping[str, str]
    values: Mapping[Cells, float]
    spread: Spread
    best: float
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
        paired_by: those by which runs are paired, the seed among them.
        notes: what is to be said of it, a line each.
    """

    metric: Metric
    target: Target | None
    keys: Sequence[str]
    paired_by: Sequence[str]
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
    metric = choose(measured, question.metric)
    grouped = group(found.runs, question.by)
    if metric.name == "loss" and any(key.partition(".")[0] == "loss" for key in grouped.keys):
        raise ConfigError("the values of different losses cannot be compared; --metric takes one that is no loss")
    target = _target(question.target, metric, measured) if question.target else None
    values = [value for run in measured if (value := _value(run, metric)) is not None]
    last = worst(values, metric.name, metric.direction)
    if not values or last is None:
        raise ConfigError(f"nothing to compare: no run has a finite {metric}")
    arms = sorted((_standing(arm, metric, target, last) for arm in grouped.arms), key=lambda arm: _order(arm, metric))
    notes = [*found.notes, *grouped.notes, *_of_the_worst(arms, metric, last)]
    pairs, said = _pairs(arms, metric, grouped, question.baseline)
    return Comparison(metric, target, grouped.keys, grouped.paired_by, arms, pairs, [*notes, *said])


def _target(text: str, metric: Metric, runs: Sequence[Run]) -> Target:
    """The target, of the compared metric where it names none.

    Raises:
        ConfigError: no such metric is evaluated while runs train, or it is not reached from that side.
    """
    name, sign, value = read_target(text)
    name = metric.name if name is None else name.removeprefix(f"{SPLIT}/")
    known = {known for run in runs for known in run.metrics.get(SPLIT, {})}
    if name not in known:
        raise ConfigError(f"--target: no run is validated by '{name}'{did_you_mean(name, known)}")
    direction = direction_of(runs, name)
    better = ">=" if direction == "max" else "<="
    if sign not in ("=", better):
        raise ConfigError(f"--target: {name} is better when it is {'larger' if direction == 'max' else 'smaller'}")
    return Target(name, value, direction)


def _value(run: Run, metric: Metric) -> float | None:
    return run.metrics.get(metric.split, {}).get(metric.name) if run.status == "completed" else None


def _standing(arm: Arm, metric: Metric, target: Target | None, last: float) -> Standing:
    """An arm's figures; `last` is what a run without a number counts as."""
    runs = list(arm.runs.values())
    ended = Counter(run.status for run in runs)
    found = {pairing: _value(run, metric) for pairing, run in arm.runs.items()}
    values = {pairing: last if value is None else value for pairing, value in found.items()}
    seconds = [run.seconds for run in runs if run.status == "completed" and run.seconds is not None]
    return Standing(
        name=arm.name,
        settings=arm.settings,
        values=values,
        spread=spread(list(values.values())),
        best=max(values.values()) if metric.direction == "max" else min(values.values()),
        seconds=statistics.median(seconds) if seconds else None,
        reached=reached(runs, target) if target else None,
        diverged=ended["diverged"],
        failed=ended["failed"],
        empty=sum(value is None for value in found.values()) - ended["diverged"] - ended["failed"],
    )


def _order(arm: Standing, metric: Metric) -> tuple[float, str]:
    mean = arm.spread.mean
    assert mean is not None  # an arm has runs
    return (-mean if metric.direction == "max" else mean), arm.name


def _pairs(
    arms: Sequence[Standing], metric: Metric, grouped: Grouped, baseline: str | None
) -> tuple[list[Pair], list[str]]:
    """The arms in pairs, and what is to be said of them."""
    names, notes = [arm.name for arm in arms], []
    if baseline is not None:
        baseline = next((name for name in names if _squeezed(name) == _squeezed(baseline)), baseline)
    elif len(arms) > MOST:
        baseline = names[0]
        notes.append(
            f"{len(arms)} arms: each is compared with the best one, which is the best partly by chance; "
            "--baseline NAME compares with one that was chosen before"
        )
    pairs = compare_pairs(
        {arm.name: dict[Hashable, float](arm.values.items()) for arm in arms}, metric.direction, baseline
    )
    if max(len(arm.values) for arm in arms) == 1:
        return [], [f"one run of each arm says nothing of chance: add seeds, such as {_with_seeds(grouped)}"]
    sizes = {arm.name: len(arm.values) for arm in arms}
    if any(pair.n < max(sizes[pair.first], sizes[pair.second]) for pair in pairs):
        what = " and ".join(grouped.paired_by)
        notes.append(f"not all arms have runs of the same {what}: a pair is compared in those that both have")
    return pairs, notes


def _squeezed(name: str) -> str:
    return name.replace(", ", ",")


def _with_seeds(grouped: Grouped) -> str:
    """A command that runs the arms over seeds, as far as one can be told from them."""
    words = ["..."]
    if len(grouped.keys) == 1 and all(arm.settings for arm in grouped.arms):
        (key,) = grouped.keys
        words = [shlex.quote(f"{key}={','.join(arm.settings[key] for arm in grouped.arms)}")]
    return " ".join(["lossbench train -m", *words, f"'{SEED}=range(0,8)'"])


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
