"""The validation metric that a run is judged by, and which way it is better."""

from __future__ import annotations

from typing import Any

from lossbench.config import Config
from lossbench.data import Data
from lossbench.errors import ConfigError, did_you_mean
from lossbench.tasks import Task


def monitor_of(config: Config, data: Data) -> str:
    """The validation metric that chooses the best weights: the task's first, unless one is named.

    Raises:
        ConfigError: the task has no such metric.
    """
    name = monitored(config, data.task)
    direction_of(config, data, name)
    return name


def monitored(config: Config, task: Task) -> str:
    """The same, whether the task has it or not."""
    return config.trainer.monitor or next(iter(task.directions))


def directions_of(config: Config, task: Task) -> dict[str, str]:
    """Which way each of the task's metrics is better, `max` or `min`, and the loss.

    `trainer.direction` turns that of the metric which the run is judged by.
    """
    found = {"loss": "min", **task.directions}
    name = monitored(config, task)
    if config.trainer.direction and name in found:
        found[name] = config.trainer.direction
    return found


def direction_of(config: Config, data: Data, metric: str, key: str = "trainer.monitor") -> Any:
    """`min` or `max`.

    Raises:
        ConfigError: the task has no such metric; `key` is who asked for it.
    """
    directions = directions_of(config, data.task)
    if metric not in directions:
        raise ConfigError(
            f"{key}: task {data.task.name} has no metric '{metric}'{did_you_mean(metric, directions)} "
            f"(has: {', '.join(name for name in directions if '/' not in name)})"
        )
    return directions[metric]
