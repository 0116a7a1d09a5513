"""A comparison in columns of text, whatever shows them."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lossbench.errors import plural, printable
from lossbench.report.comparison import Comparison
from lossbench.report.pairs import Pair
from lossbench.report.statistics import Interval

_DASH = "-"  # where there is no value
_LEAST = 1e-6  # a scale below which numbers are shown with powers of ten


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        rank: 0 where the table is nothing without it; else the higher ones go first where there is no room.
        is_name: whether it holds names, which may be broken into lines.
    """

    head: str
    cells: Sequence[str]
    rank: int = 0
    is_name: bool = False


def headline(comparison: Comparison) -> str:
    """What is compared."""
    better = "larger" if comparison.metric.direction == "max" else "smaller"
    runs = plural(sum(arm.runs for arm in comparison.arms), "run")
    paired = ", paired by seed" if comparison.pairs else ""
    text = f"{comparison.metric} ({better} is better): {plural(len(comparison.arms), 'arm')}, {runs}{paired}"
    return printable(text)


def arm_columns(comparison: Comparison) -> list[Column]:
    """A row an arm, the best first."""
    arms = comparison.arms
    number = _numbers(comparison)
    counts = [
        Column(name, [str(count) for count in found], 3)
        for name, found in (
            ("diverged", [arm.diverged for arm in arms]),
            ("failed", [arm.failed for arm in arms]),
            ("no number", [arm.empty for arm in arms]),
        )
        if any(found)
    ]
    return [
        Column("arm", [arm.name for arm in arms], is_name=True),
        Column("n", [str(arm.spread.n) for arm in arms], 2),
        Column("mean", [number(arm.spread.mean) for arm in arms]),
        Column("sd", [number(arm.spread.sd) for arm in arms], 4),
        Column("95 % CI\n(t)", [_interval(arm.spread.interval, number) for arm in arms], 1),
        Column("95 % CI\n(bootstrap)", [_interval(arm.spread.bootstrap, number) for arm in arms], 9),
        Column("median", [number(arm.spread.median) for arm in arms], 6),
        Column("best", [number(arm.best) for arm in arms], 7),
        Column("seconds\n(wall)", [_seconds(arm.seconds) for arm in arms], 8),
        *_timed(comparison),
        *counts,
    ]


def pair_columns(comparison: Comparison) -> list[Column]:
    """A row a pair."""
    pairs = comparison.pairs
    number = _numbers(comparison)
    return [
        Column("arm", [pair.first for pair in pairs], is_name=True),
        Column("against", [pair.second for pair in pairs], is_name=True),
        Column("n", [str(pair.n) for pair in pairs], 3),
        Column("difference", [number(pair.difference) for pair in pairs]),
        Column("95 % CI", [_interval(pair.interval if pair.effect is not None else None, number) for pair in pairs], 1),
        Column("p\n(Holm)", [_p(pair.p_holm) for pair in pairs], 2),  # of the test that decides
        Column("Wilcoxon\np (Holm)", [_p(pair.wilcoxon_p_holm) for pair in pairs], 6),
        Column("t p\n(Holm)", [_p(pair.t_p_holm) for pair in pairs], 7),
        Column("effect\n(d_z)", [_two(pair.effect) for pair in pairs], 5),
        Column("P(better)", [_two(pair.improvement) for pair in pairs], 4),
    ]


def verdicts(pairs: Sequence[Pair]) -> list[tuple[str, bool]]:
    """The pairs in words, each with whether an arm is better; those that are no better are counted where many are."""
    alike = Counter(pair.verdict for pair in pairs if _of_better(pair) is None)
    lines = {}
    for pair in pairs:
        plain = f"{pair.first} against {pair.second}" if alike[pair.verdict] == 1 else f"{alike[pair.verdict]} pairs"
        lines[_of_better(pair) or f"{plain}: {pair.verdict}"] = pair.better is not None
    return list(lines.items())


def _of_better(pair: Pair) -> str | None:
    """A verdict that says which arm is better, with the other one in it."""
    for name, other in ((pair.first, pair.second), (pair.second, pair.first)):
        for start in (f"{name} is better", f"mixed: {name} is better"):
            if pair.verdict.startswith(f"{start} by "):
                return f"{start} than {other}{pair.verdict.removeprefix(start)}"
    return None


def _timed(comparison: Comparison) -> list[Column]:
    """The time to the target, and how many runs reached it."""
    if comparison.target is None:
        return []
    goal = printable(f"{comparison.target.name} {comparison.target.value:g}")
    found = [arm.reached for arm in comparison.arms if arm.reached]
    steps = [f"{_whole(each.steps)} ({plural(each.count, 'run')})" for each in found]
    return [
        Column(f"steps to\n{goal}", steps, 4),
        Column(f"seconds to\n{goal}", [_seconds(each.seconds) for each in found], 10),
    ]


def _numbers(comparison: Comparison) -> Callable[[float | None], str]:
    """Writes values of the metric, all with the decimals that two digits of a standard deviation have."""
    spreads = [arm.spread.sd for arm in comparison.arms if arm.spread.sd]
    largest = max(abs(value) for arm in comparison.arms for value in arm.values.values())
    scale = statistics.median_low(spreads) if spreads else largest / 100
    if scale and (scale < _LEAST or largest >= 1e7):
        return _written(lambda value: f"{value + 0.0:.4g}")
    decimals = max(0, 1 - math.floor(math.log10(scale))) if scale else 0
    return _written(lambda value: f"{round(value, decimals) + 0.0:,.{decimals}f}")  # no -0


def _written(form: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: _DASH if value is None else form(value)


def _interval(interval: Interval | None, number: Callable[[float | None], str]) -> str:
    return _DASH if interval is None else f"{number(interval[0])} to {number(interval[1])}"


_seconds = _written(lambda value: f"{value:,.1f}" if value < 1000 else f"{value:,.0f}")
_whole = _written(lambda value: f"{value:,.0f}")
_two = _written(lambda value: f"{round(value, 2) + 0.0:.2f}")
_p = _written(lambda value: "<0.001" if value < 0.001 else f"{value:.3f}")
