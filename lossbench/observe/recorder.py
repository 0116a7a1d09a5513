"""Steps as they happen: kept on the device, fetched every so many steps, handed to the sinks as rows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lossbench.engine.record import SKIPPED, Metrics, StepRow

MAX_SILENCE = 1.0  # seconds between flushes at the most, so that the progress bar lives on slow steps


class Sink(Protocol):
    """Something that takes rows and writes or shows them."""

    def steps(self, rows: Sequence[StepRow]) -> None: ...

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None: ...

    def close(self) -> None: ...


AnySink = TypeVar("AnySink", bound=Sink)


class DeviceRecorder:
    """Holds up to `flush_every` steps in one tensor on the device, so that a step never waits for the host.

    Its memory does not grow with the number of steps.
    """

    def __init__(self, sinks: Sequence[Sink], *, device: torch.device, flush_every: int = 100) -> None:
        self.sinks, self.flush_every = list(sinks), flush_every
        self.buffer = torch.empty(flush_every, 4, device=device)
        self.heads: list[tuple[int, int, float]] = []
        self.flushed_at = time.perf_counter()
        self.started = self.flushed_at
        self.last: StepRow | None = None
        self.skipped = 0

    def add(self, sink: AnySink) -> AnySink:
        """Hand the rows to one more sink, and close it at the end."""
        self.sinks.append(sink)
        return sink

    @property
    def seconds(self) -> float:
        """From the start to the last flush: the training, without what is measured after it."""
        return self.flushed_at - self.started

    def push(self, step: int, epoch: int, lr: float, row: Tensor) -> None:
        self.buffer[len(self.heads)].copy_(row)
        self.heads.append((step, epoch, lr))

    def due(self) -> bool:
        return len(self.heads) == self.flush_every or time.perf_counter() - self.flushed_at > MAX_SILENCE

    def flush(self) -> Sequence[StepRow]:
        values = self.buffer[: len(self.heads)].tolist()
        rows = [
            StepRow(step, epoch, loss, lr, norm, scale, SKIPPED[int(verdict)])
            for (step, epoch, lr), (loss, norm, scale, verdict) in zip(self.heads, values, strict=True)
            if SKIPPED[int(verdict)] != "latched"
        ]
        self.heads.clear()
        if rows:
            self.last = rows[-1]
            self.skipped += sum(bool(row.skipped) for row in rows)
            for sink in self.sinks:
                sink.steps(rows)
        self.flushed_at = time.perf_counter()
        return rows

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        for sink in self.sinks:
            sink.evaluated(step, epoch, metrics)

    def close(self) -> None:
        """Write what is left and close every sink, each whatever becomes of the others."""
        with ExitStack() as stack:
            for sink in reversed(self.sinks):
                stack.callback(sink.close)
            self.flush()
