"""Time to target: when a run's evaluations first reached a value."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lossbench.errors import ConfigError
from lossbench.report.runs import Run

_TARGET = re.compile(r"(?:(.+?)\s*(>=|<=|=))?\s*([^<>=]+)")
SPLIT = "val"  # what runs are evaluated on while they train


@dataclass(frozen=True)
class Target:
    """A value of a validation metric that is to be reached.

    Attributes:
        direction: `max` where it is reached from below.
    """

    name: str
    value: float
    direction: str

    def __str__(self) -> str:
        return f"validation {self.name} {'>=' if self.direction == 'max' else '<='} {self.value:g}"

    def reached_by(self, value: float) -> bool:
        return value >= self.value if self.direction == "max" else value <= self.value


@dataclass(frozen=True)
class Reached:
    """How soon the runs of an arm reached a target; None where no more than half of them did.

    Attributes:
        count: how many runs did.
        steps: the median, over all runs, of the step of the first evaluation that did.
        seconds: the same of the seconds, taken as that step's share of the run's.
    """

    count: int
    steps: float | None
    seconds: float | None


def read_target(text: str) -> tuple[str | None, str, float]:
    """The metric, the sign and the value of `accuracy>=0.95`, `accuracy=0.95` or `0.95`; None for no metric.

    Raises:
        ConfigError: it is none of these.
    """
    found = _TARGET.fullmatch(text.strip())
    try:
        value = float(found.group(3)) if found else math.nan
    except ValueError:
        value = math.nan
    if found is None or not math.isfinite(value):
        raise ConfigError(f"--target must be METRIC=NUMBER or a number, such as accuracy=0.95, got '{text}'")
    return found.group(1), found.group(2) or "=", value


def reached(runs: Sequence[Run], target: Target) -> Reached:
    """How soon an arm's runs reached a target; one that diverged or failed never did."""
    steps = [first_step(run.path, target) if run.status == "completed" else None for run in runs]
    seconds = [
        None if step is None or run.seconds is None else run.seconds * step / max(run.steps, step)
        for run, step in zip(runs, steps, strict=True)
    ]
    return Reached(sum(step is not None for step in steps), _median(steps), _median(seconds))


def first_step(path: Path, target: Target) -> int | None:
    """The step of the first evaluation that reached the target; None where none did, or it is not recorded."""
    try:
        with (path / "evals.csv").open(errors="replace") as file:
            header = file.readline().rstrip("\n").split(",")
            column = header.index(target.name, 3)
            for line in file:
                cells = line.rstrip("\n").split(",")
                if cells[2:3] == [SPLIT] and len(cells) == len(header) and target.reached_by(float(cells[column])):
                    return int(cells[0])
    except (OSError, ValueError):
        return None
    return None


def _median(values: Sequence[float | None]) -> float | None:
    """The median, where None is later than any; None where that is the middle one."""
    found = statistics.median(math.inf if value is None else value for value in values)
    return found if math.isfinite(found) else None
