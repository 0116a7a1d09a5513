"""What a user sees while a sweep runs."""

from __future__ import annotations

from collections.abc import Mapping

from lossbench.console import say
from lossbench.sweep.job import Row, Task


class Screen:
    """A line for each job that ended."""

    def __init__(self, total: int | None) -> None:
        self.total = total

    def started(self, task: Task, where: str) -> None:
        pass

    def evaluated(self, task: Task, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        pass

    def ended(self, task: Task, row: Row, *, earlier: bool) -> None:
        outcome = row.get("error") or f"val {row['best']['metric']} {row['best']['value']:.4g}, {row['seconds']:.1f} s"
        say(f"{task.path.name}: {row['status']}; {outcome}")
