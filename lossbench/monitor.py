"""The validation metric that a run is judged by, and which way it is better."""

from __future__ import annotations

from typing import Any

from lossbench.config import Config
from lossbench.data import Data
from lossbench.errors import ConfigError, did_you_mean


def monitor_of(config: Config, data: Data) -> str:
    """The validation metric that chooses the best weights: the task's first, unless one is named.

    Raises:
        ConfigError: the task has no such metric.
    """
    name = config.trainer.monitor or next(iter(data.task.directions))
    direction_of(data, name)
    return name


def direction_of(data: Data, metric: str, key: str = "trainer.monitor") -> Any:
    """`min` or `max`.

    Raises:
        ConfigError: the task has no such metric; `key` is who asked for it.
    """
    directions = {"loss": "min", **data.task.directions}
    if metric not in directions:
        raise ConfigError(
            f"{key}: task {data.task.name} has no metric '{metric}'{did_you_mean(metric, directions)} "
            f"(has: {', '.join(name for name in directions if '/' not in name)})"
        )
    return directions[metric]
