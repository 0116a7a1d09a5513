"""From the config's schedule to one for each optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lossbench.config import Config
from lossbench.data import Batches, Data
from lossbench.engine import Length
from lossbench.errors import ConfigError
from lossbench.monitor import direction_of, monitor_of
from lossbench.optim import Schedule
from lossbench.optim.schedule import fill_lengths
from lossbench.signatures import required
from lossbench.targets import Call, make


def build_schedules(
    config: Config, optimizers: Sequence[Optimizer], length: Length, batches: Batches, data: Data
) -> list[Schedule]:
    """The schedule of each optimizer.

    Raises:
        ConfigError: the target is no schedule, or one that cannot be had so.
    """
    call, options, monitor = config.scheduler, config.scheduler_options, monitor_of(config, data)
    metric = options.metric or monitor
    direction = direction_of(data, metric, "scheduler.metric")
    if metric == monitor:
        direction = config.trainer.direction or direction

    def main(optimizer: Optimizer, moves: int) -> Any:
        values = fill_lengths(call.values, required(call.target), moves, optimizer.param_groups[0]["lr"])
        follows = isinstance(call.target, type) and issubclass(call.target, ReduceLROnPlateau)
        mode = {"mode": direction} if follows and "mode" not in values else {}
        cycles = values.get("cycle_momentum") and not {"momentum", "betas"} & optimizer.defaults.keys()
        if cycles:
            values["cycle_momentum"] = False  # the optimizer has none to cycle
        built = make("scheduler", Call(call.name, call.target, values), {"optimizer": optimizer, **mode})
        if not isinstance(built, LRScheduler):
            kind = type(built).__name__
            raise ConfigError(f"scheduler '{call.name}' must be a torch.optim.lr_scheduler.LRScheduler, got {kind}")
        if "metrics" in required(built.step) and options.interval != "evaluation":
            raise ConfigError(f"scheduler '{call.name}' follows a metric: set scheduler.interval=evaluation")
        return built

    return [
        Schedule(
            optimizer,
            main,
            options,
            total_steps=length.steps,
            steps_per_epoch=batches.steps_per_epoch,
            eval_every=length.eval_every,
            metric=metric,
        )
        for optimizer in optimizers
    ]
