"""The learning-rate range test (Smith 2015; Smith 2017, "Cyclical Learning Rates for Training Neural Networks").

The rate rises exponentially over a few epochs, and the loss of each step is watched until it explodes. The steps are
taken on the player itself, and everything that they change is put back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lossbench.data import Batches
from lossbench.engine.buffers import Buffers
from lossbench.engine.guard import Verdict
from lossbench.engine.random_state import random_state_kept
from lossbench.engine.range_rule import RangeTest, Watch, judged
from lossbench.engine.step import Player
from lossbench.engine.tree import cloned
from lossbench.errors import Diverged

START, STOP, STEPS = 1e-7, 10.0, 100

_IDLE = 2  # a sweep makes at most so many times its steps: some may not be taken, and the rate waits for them


def range_test(
    player: Player,
    batches: Batches,
    groups: Sequence[dict[str, Any]],
    *,
    start: float = START,
    stop: float = STOP,
    steps: int = STEPS,
) -> RangeTest:
    """Sweep the rate from `start` to `stop` in so many optimizer steps, or until the loss explodes.

    Weights, buffers, optimizers, schedules, loss scale, average and random state are as before when it returns. The
    schedules do not move in it; accumulation, clipping and the guard are the player's own.

    Args:
        groups: the parameter groups whose rates sweep; those of others stay.

    Raises:
        Diverged: the loss is not finite in the first step, before any rate could be at fault, or no step counts.
    """
    with _untouched(player):
        rates, losses, stopped = _sweep(player, batches, groups, start=start, stop=stop, steps=steps)
    if not losses:
        raise Diverged("no step can be taken: in none is there an example that counts")
    if not math.isfinite(losses[0]):
        raise Diverged(f"step 1: the loss is {losses[0]} before any rate is tried; a run with a number says where from")
    return judged(rates, losses, stopped=stopped)


def _sweep(
    player: Player, batches: Batches, groups: Sequence[dict[str, Any]], *, start: float, stop: float, steps: int
) -> tuple[list[float], list[float], bool]:
    """The rates, the loss of each step, and whether it ended in an explosion.

    Steps that are not finite are no explosion where a run would skip them: no more in a row than it bears.
    """
    rates: list[float] = []
    losses: list[float] = []
    watch = Watch(decades_per_step=math.log10(stop / start) / (steps - 1))
    borne, in_a_row = player.guard.max_skips if player.guard.policy == "skip" else 0, 0
    for step in range(1, _IDLE * steps + 1):
        rate = start * (stop / start) ** (len(rates) / (steps - 1))
        for group in groups:
            _set(group, rate)
        player.begin(step)
        loss, _, scale, verdict, *_ = player.step(batches.at(step)).tolist()
        if verdict == Verdict.EMPTY:
            continue
        if verdict == Verdict.OVERFLOW and scale >= player.scale.floor:  # the first ones of fp16 find its scale
            continue
        in_a_row = in_a_row + 1 if verdict == Verdict.NONFINITE else 0
        if in_a_row and in_a_row <= borne and step < _IDLE * steps:  # a batch may be bad; a rate at fault stays so
            continue
        rates.append(rate)
        losses.append(loss)
        if verdict != Verdict.TAKEN or watch.exploded(loss):
            return rates, losses, True
        if len(rates) == steps:
            break
    return rates, losses, False


def _set(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


@contextmanager
def _untouched(player: Player) -> Iterator[None]:
    """Put back at the end all that a step changes."""
    state, now, schedules = cloned(player.state()), player.now, player.schedules
    gradients = [parameter.grad for parameter in player.parameters]
    buffers = Buffers(player.modules)  # those too that are in no state
    device = player.parameters[0].device
    player.schedules = []
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), random_state_kept():
            yield
    finally:
        player.schedules, player.now = schedules, now
        player.load(state)
        player.objective.begin(max(now, 1))
        player.thaw.begin(now)
        buffers.restore()
        for parameter, gradient in zip(player.parameters, gradients, strict=True):
            parameter.grad = gradient
