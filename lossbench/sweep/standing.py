"""How a sweep stands: what ended in which way, what runs, the best so far, and how long the rest may take."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lossbench.sweep.job import Row, Task


@dataclass
class Running:
    """A job that runs.

    Attributes:
        where: a device or a worker, for people.
        began: in seconds of the clock.
        metrics: validation metrics of the last evaluation.
    """

    task: Task
    where: str
    began: float
    step: int = 0
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """The best validation value of a metric so far, and the job that reached it."""

    metric: str
    value: float
    name: str


class Standing:
    """Takes note of what happens in a sweep.

    Args:
        clock: gives seconds.
        earlier: how many jobs are known to have ended before; they are counted at once, and not again as they come.

    Attributes:
        ended: how many jobs ended in this call, by their status.
        skipped: how many had ended before.
        best: by metric.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, earlier: int = 0) -> None:
        self.clock = clock
        self.running: dict[str, Running] = {}  # by the job's hash
        self.ended: Counter[str] = Counter()
        self.skipped = self._to_come = earlier
        self.best: dict[str, Best] = {}
        self._seconds: list[float] = []  # that jobs took
        self._workers = 0  # the most jobs that ran at once

    @property
    def count(self) -> int:
        """How many jobs need not be run any more."""
        return self.ended.total() + self.skipped

    @property
    def has_begun(self) -> bool:
        """Whether a job has been started."""
        return self._workers > 0

    def begin(self, task: Task, where: str) -> None:
        self.running[task.job.hash] = Running(task, where, self.clock())
        self._workers = max(self._workers, len(self.running))

    def evaluate(self, task: Task, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        job = self.running.get(task.job.hash)
        if job is not None:
            job.step, job.epoch, job.metrics = step, epoch, metrics.get("val", {})

    def end(self, task: Task, row: Row, *, earlier: bool) -> None:
        job = self.running.pop(task.job.hash, None)
        if earlier and self._to_come:
            self._to_come -= 1
        elif earlier:
            self.skipped += 1
        else:
            self.ended[row["status"]] += 1
        if job is not None and row["status"] != "failed":  # a failed one says little of how long others take
            self._seconds.append(self.clock() - job.began)
        self._rate(task, row)

    def _rate(self, task: Task, row: Row) -> None:
        """A diverged run is no candidate, whatever it had reached."""
        found = row.get("best") or {}
        if row["status"] != "completed" or found.get("value") is None or not math.isfinite(found["value"]):
            return
        metric, value = found["metric"], found["value"]
        best, sign = self.best.get(metric), -1 if row.get("directions", {}).get(metric) == "min" else 1
        if best is None or sign * value > sign * best.value:
            self.best[metric] = Best(metric, value, task.job.name)

    def seconds_left(self, total: int | None) -> float | None:
        """How long the sweep may still take if its jobs take as long as those that ended; None where nothing tells."""
        if total is None or not self._seconds:
            return None
        mean, now = sum(self._seconds) / len(self._seconds), self.clock()
        begun = sum(max(0.0, mean - (now - job.began)) for job in list(self.running.values()))
        waiting = max(0, total - self.count - len(self.running))
        return (waiting * mean + begun) / max(1, self._workers)


def duration(seconds: float) -> str:
    """`45 s`, `7 min`, `2 h 05 min`."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
