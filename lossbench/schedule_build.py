"""From the config's schedule to one for each optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lossbench.config import Config
from lossbench.data import Batches, Data
from lossbench.engine import Length
from lossbench.errors import ConfigError
from lossbench.monitor import direction_of, monitor_of
from lossbench.optim import Schedule, SchedulerOptions
from lossbench.optim.lengths import by_optimizer, fill_lengths, never_reached
from lossbench.optim.schedule import follows_a_metric, warmup_steps
from lossbench.schedule_config import check_metric
from lossbench.signatures import parameters, required
from lossbench.targets import Call, make


def build_schedules(
    config: Config, optimizers: Sequence[Optimizer], length: Length, batches: Batches, data: Data
) -> list[Schedule]:
    """The schedule of each optimizer.

    Raises:
        ConfigError: the target is no schedule, or one that cannot be had so.
    """
    options = config.scheduler_options
    metric = options.metric or monitor_of(config, data)
    direction = direction_of(config, data, metric, "scheduler.metric")
    every = {"step": 1, "epoch": batches.steps_per_epoch, "evaluation": length.eval_every}[options.interval]
    warmup = warmup_steps(options.warmup, length.steps) / every

    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    given = by_optimizer(config.scheduler.target, config.scheduler.values, rates, config.optim.values.get("lr"))

    def main(values: Mapping[str, Any]) -> Callable[[Optimizer, int], LRScheduler]:
        call = replace(config.scheduler, values=values)
        return lambda optimizer, moves: _main(call, options, optimizer, moves, warmup, direction)

    return [
        Schedule(
            optimizer,
            main(values),
            options,
            total_steps=length.steps,
            steps_per_epoch=batches.steps_per_epoch,
            eval_every=length.eval_every,
            metric=metric,
        )
        for optimizer, values in zip(optimizers, given, strict=True)
    ]


def schedule_notes(config: Config, schedule: Schedule) -> tuple[str, ...]:
    """What of a schedule lies beyond the end of the run."""
    note = never_reached(config.scheduler.target, config.scheduler.values, schedule.moves, schedule.interval)
    return (note,) if note else ()


def _main(
    call: Call, options: SchedulerOptions, optimizer: Optimizer, moves: int, warmup: float, direction: str
) -> LRScheduler:
    """Torch's own schedule."""
    rates = [group["lr"] for group in optimizer.param_groups]
    values = fill_lengths(call.target, call.values, required(call.target), moves, rates, warmup)
    known = parameters(call.target)
    if "mode" in known and follows_a_metric(call.target) and values.get("mode") is None:
        values["mode"] = direction
    if "cycle_momentum" in known and not has_momentum(optimizer):
        values["cycle_momentum"] = False
    built = make("scheduler", replace(call, values=values), {"optimizer": optimizer})
    if not isinstance(built, LRScheduler):
        kind = type(built).__name__
        raise ConfigError(f"scheduler '{call.name}' must be a torch.optim.lr_scheduler.LRScheduler, got {kind}")
    check_metric(call.name, type(built), options)
    return built


def has_momentum(optimizer: Optimizer) -> bool:
    """Whether there is a momentum to cycle: one that was chosen to be 0 stays there."""
    if "betas" in optimizer.defaults:
        return any(group["betas"][0] > 0 for group in optimizer.param_groups)
    return any(group.get("momentum", 0) > 0 for group in optimizer.param_groups)
