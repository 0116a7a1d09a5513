"""What a launcher takes jobs from, and tells how they went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lossbench.sweep.job import Row, Source, Task
from lossbench.sweep.ledger import Ledger
from lossbench.sweep.options import SweepOptions


class Watch(Protocol):
    """Shows a person how a sweep stands."""

    def started(self, task: Task, where: str) -> None: ...

    def evaluated(self, task: Task, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> None: ...

    def ended(self, task: Task, row: Row, *, earlier: bool) -> None:
        """How a job ended; `earlier`: in an earlier call of this sweep."""
        ...


class Feed:
    """The jobs of a source that are still to be run.

    Attributes:
        rows: how each job ended, now or in an earlier call, by its hash.
        stopped: a job failed, and nothing more is handed out (`sweep.on_failure=stop`).
    """

    def __init__(self, source: Source, ledger: Ledger, watch: Watch, options: SweepOptions) -> None:
        self.source, self.ledger, self.watch, self.options = source, ledger, watch, options
        self.rows: dict[str, Row] = {}
        self.stopped = False
        self._running: dict[str, list[Task]] = {}  # by hash, with the equal ones that came later

    @property
    def exhausted(self) -> bool:
        """Whether `next` gives no task any more."""
        return self.stopped or self.source.exhausted

    @property
    def is_over(self) -> bool:
        """Whether no task is left to run, and none runs."""
        return self.source.exhausted and not self._running

    @property
    def saved(self) -> int:
        """How many tasks have begun, not ended, and can be gone on with."""
        return sum(self.ledger.can_go_on(key) for key in self._running)

    def next(self) -> Task | None:
        """A task to run now; None where there is none, or none before one that runs has ended."""
        while not self.exhausted:
            job = self.source.next()
            if job is None:
                return None
            self.ledger.register([job])
            task, row = self.ledger.task(job), self.rows.get(job.hash) or self.ledger.ended(job)
            if row is not None:
                self._take(task, row, earlier=True)
            elif job.hash in self._running:
                self._running[job.hash].append(task)
            else:
                self._running[job.hash] = []
                return task
        return None

    def started(self, task: Task, where: str = "") -> None:
        """A task runs now; `where` is for people: a device, or a worker's number."""
        self.watch.started(task, where)

    def evaluated(self, task: Task, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """An evaluation of a task that runs; true if it should end now."""
        self.watch.evaluated(task, step, epoch, metrics)
        return self.source.evaluated(task.job, step, epoch, metrics)

    def ended(self, task: Task, row: Row) -> None:
        """A task has ended."""
        equal = self._running.pop(task.job.hash, [])
        self._take(task, row, earlier=False)
        for other in equal:
            self._take(other, row, earlier=True)
        if row["status"] == "failed" and self.options.on_failure == "stop":
            self.stopped = True

    def _take(self, task: Task, row: Row, *, earlier: bool) -> None:
        self.rows[task.job.hash] = row
        self.source.ended(task.job, row)
        self.watch.ended(task, row, earlier=earlier)
