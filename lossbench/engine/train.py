"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

from lossbench.data import Batches
from lossbench.engine.average import Averaged
from lossbench.engine.best import Best
from lossbench.engine.checkpoints import Checkpoints
from lossbench.engine.record import Metrics, Recorder
from lossbench.engine.recovery import Recovery
from lossbench.engine.step import Player
from lossbench.tasks import Batch

Reason = Literal["length", "max_time", "early_stop", "pruned", "stopped"]


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
    checkpoints: Checkpoints | None = None,
    *,
    averaged: Averaged | None = None,
    start: int = 0,
    stopped: Callable[[], bool] = lambda: False,
    pruned: Callable[[], bool] = lambda: False,
) -> Reason:
    """Train from the step `start` until the length, the time or the patience is used up; returns which it was.

    Every step is recorded on the device; the records come to the host every so many steps, and there the recovery
    looks at them, which may send the training back to an earlier step. At each evaluation the best weights are kept.
    Those of every `eval_every` steps move the schedules that go by them; the one at a run's end does not, since a run
    that is gone on with equals one that was longer from the start. An average of the weights is measured beside them,
    with a best of its own; it decides nothing. When `stopped` says so, the step is finished and saved. When `pruned`
    says so after an evaluation, the training ends there: it does worse than others that it is compared with.

    Raises:
        Diverged: the guard's policy ended the run; the weights are those before the first bad step.
        ResourceError: a checkpoint cannot be written.
    """
    if start >= length.steps:  # it was interrupted in what comes after the training
        return "length"
    if start and best.exhausted:
        return "early_stop"
    recovery = Recovery(player, batches, recorder, checkpoints)
    recovery.remember()
    if checkpoints and player.guard.policy == "rollback":  # there must be somewhere to go back to
        checkpoints.save(start, -(-start // batches.steps_per_epoch))
    step, stream = start, _steps(batches, start)
    while True:
        epoch, micro_batches = next(stream)
        step += 1
        player.begin(step)
        lr, settings = player.lr, player.settings  # those of this step, which moves the rates
        recorder.push(step, epoch, lr, player.step(micro_batches), settings)
        reason = _reason(step, length, recorder) or ("stopped" if stopped() else None)
        evaluation = step % length.eval_every == 0 or reason in ("length", "max_time")
        saving = reason is not None or (checkpoints is not None and checkpoints.due(step, evaluated=evaluation))
        if not (evaluation or saving or recorder.due() or player.guard.urgent):
            continue
        reached = recovery.look(step)
        if evaluation and reached == step:
            with player.evaluating(batches):
                metrics = evaluate()
                best.update(step, epoch, metrics["val"])
            if averaged is not None:
                metrics = {**metrics, **averaged.measure(step, epoch)}
            recorder.evaluated(step, epoch, metrics)
            reached = recovery.look_at_outputs(step, metrics["val"])
        if reached != step:
            step, stream = reached, _steps(batches, reached)
            recovery.remember()
            continue
        if evaluation:
            for schedule in player.schedules if step % length.eval_every == 0 else ():
                schedule.evaluated(metrics["val"])
            reason = reason or ("early_stop" if best.exhausted else "pruned" if pruned() else None)
        recovery.remember()
        if checkpoints and (saving or reason):
            checkpoints.save(step, epoch)
        if reason:
            return reason


def _steps(batches: Batches, after: int) -> Iterator[tuple[int, list[Batch]]]:
    """The epoch, from 1, and the micro-batches of each step after `after`, for ever."""
    first, skip = divmod(after, batches.steps_per_epoch)
    for epoch in count(first):
        for micro_batches in batches.epoch(epoch, skip if epoch == first else 0):
            yield epoch + 1, micro_batches


def _reason(step: int, length: Length, recorder: Recorder) -> Reason | None:
    """Why the run ends after this step, if it does."""
    if step == length.steps:
        return "length"
    return "max_time" if length.max_time is not None and recorder.elapsed() >= length.max_time else None
