"""The metric by which runs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lossbench.errors import ConfigError, did_you_mean
from lossbench.report.runs import Run

DEFAULT_SPLIT = "test"
# Of the metrics of our tasks, for runs of older versions, which do not record it.
_LARGER = (
    *("accuracy", "balanced_accuracy", "exact_match", "recall", "worst_recall", "f1", "macro_f1", "micro_f1"),
    *("auroc", "average_precision", "coverage", "r2"),
)
_SMALLER = (
    "error_rate",
    "nll",
    "brier",
    "ece",
    "rmse",
    "mae",
    "pinball",
    "deviance",
    "interval_width",
    "crossing_rate",
)


@dataclass(frozen=True)
class Metric:
    """A metric of a split, and whether it is better when it is larger (`max`) or smaller (`min`)."""

    split: str
    name: str
    direction: Literal["min", "max"]

    def __str__(self) -> str:
        return f"{'validation' if self.split == 'val' else self.split} {self.name}"


def choose(runs: Sequence[Run], asked: str | None) -> Metric:
    """The metric that was asked for, or that which chose the best weights in every run; of the test split by default.

    Args:
        runs: completed ones with metrics.
        asked: NAME or SPLIT/NAME.

    Raises:
        ConfigError: not all runs have it, or they were not followed by the same one.
    """
    if asked is None:
        monitors = sorted({run.monitor for run in runs if run.monitor})
        if len(monitors) != 1:
            what = f"different metrics ({', '.join(monitors)})" if monitors else "no metric"
            raise ConfigError(f"the best weights were chosen by {what}; {_mend(runs, DEFAULT_SPLIT)}")
        asked = monitors[0]
    head, slash, name = asked.partition("/")
    split, name = (head, name) if slash and any(head in run.metrics for run in runs) else (DEFAULT_SPLIT, asked)
    if name not in _shared(runs, split):
        have = sum(name in run.metrics.get(split, {}) for run in runs)
        if have:
            raise ConfigError(f"{have} of {len(runs)} runs have {split} {name}; {_mend(runs, split)}")
        raise ConfigError(f"no run has {split} {name}; {_mend(runs, split)}{did_you_mean(name, _shared(runs, split))}")
    return Metric(split, name, direction_of(runs, name))


def direction_of(runs: Sequence[Run], name: str) -> Literal["min", "max"]:
    """Which way a metric is better.

    Raises:
        ConfigError: the runs do not say.
    """
    found = {run.directions[name] for run in runs if name in run.directions}
    kind = name.partition("/")[0]
    if found == {"max"} or (not found and kind in _LARGER):
        return "max"
    if found == {"min"} or (not found and kind in _SMALLER):
        return "min"
    raise ConfigError(f"the runs do not say, or not all the same, whether {name} is better when it is larger")


def _shared(runs: Sequence[Run], split: str) -> list[str]:
    """The metrics of a split that all runs have."""
    first, *others = (run.metrics.get(split, {}) for run in runs)
    return [name for name in first if all(name in other for other in others)]


def _mend(runs: Sequence[Run], split: str) -> str:
    names = [name for name in _shared(runs, split) if name != "loss" and "/" not in name]
    if not names:
        return "they have no metric in common: compare the runs of one task at a time, each in a call of its own"
    return f"--metric takes one that all have: {', '.join(names)}"
