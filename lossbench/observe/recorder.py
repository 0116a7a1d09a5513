"""Steps as they happen: kept on the device, fetched every so many steps, handed to the sinks as rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor

from lossbench.engine.record import Incident, Metrics, StepRow, step_row

MAX_SILENCE = 1.0  # seconds between flushes at the most, so that the progress bar lives on slow steps


class Sink:
    """Something that takes rows and writes or shows them; what it does not care for it need not define."""

    def steps(self, rows: Sequence[StepRow]) -> None:
        """Take steps, in order."""

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        """Take an evaluation."""

    def incident(self, incident: Incident) -> None:
        """Take note of a step that was not finite."""

    def rewind(self, step: int) -> None:
        """Forget what came after this step: the training has returned to it."""

    def sync(self) -> None:
        """See to it that what was taken outlives a power loss: a checkpoint is about to be made."""

    def close(self) -> None:
        """Write what is left."""


AnySink = TypeVar("AnySink", bound=Sink)


class DeviceRecorder:
    """Holds up to `flush_every` steps in one tensor on the device, so that a step never waits for the host.

    Its memory does not grow with the number of steps.

    Args:
        details: how many numbers a step gives beside its own four.
    """

    def __init__(
        self, sinks: Sequence[Sink], *, device: torch.device, flush_every: int = 200, details: int = 0
    ) -> None:
        self.sinks, self.flush_every = list(sinks), flush_every
        self.buffer = torch.empty(flush_every, 4 + details, device=device)
        self.heads: list[tuple[int, int, float]] = []
        self.settings: list[tuple[float, ...]] = []
        self.fetched_at = time.perf_counter()
        self.started = self.fetched_at
        self.seconds_before = 0.0
        self.last: StepRow | None = None
        self.skipped = dict.fromkeys(("empty", "overflow", "nonfinite"), 0)

    def add(self, sink: AnySink) -> AnySink:
        """Hand the rows to one more sink, and close it at the end."""
        self.sinks.append(sink)
        return sink

    @property
    def seconds(self) -> float:
        """From the start to the last fetch: the training, without what is measured after it."""
        return self.seconds_before + self.fetched_at - self.started

    def elapsed(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds of it, once everything taken so far is safe on the disk."""
        for sink in self.sinks:
            sink.sync()
        last = None if self.last is None else tuple(self.last)
        return {"seconds": self.seconds, "skipped": dict(self.skipped), "last": last}

    def resume(self, progress: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self.seconds_before = progress["seconds"]
        self._count_from(progress)

    def rewind(self, step: int, progress: Mapping[str, Any]) -> None:
        self.heads.clear()
        self.settings.clear()
        self._count_from(progress)
        for sink in self.sinks:
            sink.rewind(step)

    def _count_from(self, progress: Mapping[str, Any]) -> None:
        self.skipped = dict(progress["skipped"])
        self.last = None if progress["last"] is None else StepRow(*progress["last"])

    def push(self, step: int, epoch: int, lr: float, row: Tensor, settings: tuple[float, ...] = ()) -> None:
        self.buffer[len(self.heads)].copy_(row)
        self.heads.append((step, epoch, lr))
        self.settings.append(settings)

    def due(self) -> bool:
        return len(self.heads) == self.flush_every or time.perf_counter() - self.fetched_at > MAX_SILENCE

    def fetch(self) -> list[StepRow]:
        values = self.buffer[: len(self.heads)].tolist()
        taken = zip(self.heads, values, self.settings, strict=True)
        rows = [step_row(*head, row, settings) for head, row, settings in taken]
        self.heads.clear()
        self.settings.clear()
        self.fetched_at = time.perf_counter()
        return [row for row in rows if row.skipped != "latched"]

    def write(self, rows: Sequence[StepRow]) -> None:
        if not rows:
            return
        self.last = rows[-1]
        for row in rows:
            if row.skipped:
                self.skipped[row.skipped] += 1
        for sink in self.sinks:
            sink.steps(rows)

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        for sink in self.sinks:
            sink.evaluated(step, epoch, metrics)

    def incident(self, incident: Incident) -> None:
        for sink in self.sinks:
            sink.incident(incident)

    def close(self) -> None:
        """Write what is left and close every sink, each whatever becomes of the others."""
        with ExitStack() as stack:
            for sink in reversed(self.sinks):
                stack.callback(sink.close)
            self.write(self.fetch())
