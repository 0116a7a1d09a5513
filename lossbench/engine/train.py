"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

from lossbench.data import Batches
from lossbench.engine.best import Best
from lossbench.engine.record import Metrics, Recorder
from lossbench.engine.step import Player

Reason = Literal["length", "max_time", "early_stop"]


@dataclass(frozen=True)
class Length:
    """When to stop and when to evaluate, in optimizer steps; `max_time` is in seconds."""

    steps: int
    eval_every: int
    max_time: float | None = None


def train(
    player: Player,
    batches: Batches,
    length: Length,
    evaluate: Callable[[], Mapping[str, Metrics]],
    recorder: Recorder,
    best: Best,
) -> Reason:
    """Train until the length, the time or the patience is used up; returns which it was.

    Every step is recorded on the device; the records come to the host every so many steps, and there the guard
    reviews them. At each evaluation the best weights are kept, and the schedules that follow a metric look at it.

    Raises:
        Diverged: the guard's policy ended the run; the weights are those before the first bad step.
    """
    started = time.perf_counter()
    step = 0
    for epoch in count(1):
        for micro_batches in batches.epoch(epoch - 1):
            step += 1
            lr = player.lr
            recorder.push(step, epoch, lr, player.step(micro_batches))
            out_of_time = length.max_time is not None and time.perf_counter() - started >= length.max_time
            last = step == length.steps or out_of_time
            evaluation = last or step % length.eval_every == 0
            if evaluation or recorder.due() or player.guard.urgent:
                player.guard.review(recorder.flush())
            if evaluation:
                metrics = evaluate()
                recorder.evaluated(step, epoch, metrics)
                player.guard.review_outputs(step, metrics["val"])
                best.update(step, epoch, metrics["val"])
                for schedule in player.schedules:
                    schedule.evaluated(metrics["val"])
            if last or best.exhausted:
                return "length" if step == length.steps else "max_time" if out_of_time else "early_stop"
    raise AssertionError("unreachable")
