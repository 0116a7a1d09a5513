"""What a search looks for: metrics of a run, each with the direction that is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lossbench.build import load_data, suit
from lossbench.compose import check_composed
from lossbench.config import Config
from lossbench.data import Data
from lossbench.errors import ConfigError, did_you_mean
from lossbench.monitor import directions_of, monitored
from lossbench.sweep.job import Job, Row
from lossbench.tasks import Task

NUMBERS = {"parameters": "min", "seconds": "min", "steps": "min", "examples_per_second": "max"}  # of a summary
SPLITS = ("val", "train")


@dataclass(frozen=True)
class Objective:
    """A metric such as `val/accuracy`, or a number of the summary such as `seconds`.

    Attributes:
        direction: `min` or `max`.
    """

    name: str
    direction: str

    @property
    def split(self) -> str:
        """The split of a metric; empty for a number of the summary."""
        return "" if self.name in NUMBERS else self.name.partition("/")[0]

    @property
    def metric(self) -> str:
        """The name without the split."""
        return self.name.removeprefix(f"{self.split}/")

    def of(self, row: Row) -> float:
        """What a run reached, with its best weights; NaN where it has no such number."""
        found = row.get("metrics", {}).get(self.split, {}) if self.split else row
        value = found.get(self.metric)
        return math.nan if value is None else float(value)

    def of_evaluation(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        """What an evaluation during the training measured."""
        return float(metrics[self.split][self.metric])


def objectives(asked: str | Sequence[str] | None, jobs: Sequence[Job]) -> list[Objective]:
    """What is asked for, or else the monitored metric. Loads each data set that the jobs name.

    Args:
        asked: `val/accuracy`; a name alone is of the validation split.

    Raises:
        ConfigError: a metric that a job's task does not have, the test split, or jobs that are judged differently.
    """
    names = [asked] if isinstance(asked, str) else asked
    loaded: dict[str, Data] = {}
    found: list[Objective] = []
    for job in _representative(jobs):
        config = check_composed(job.config)
        data = loaded.get(str(job.settings["dataset"]))
        if data is None:
            data, _ = load_data(config, torch.device("cpu"))
            loaded[str(job.settings["dataset"])] = data
        task, _ = suit(config, data.task)
        here = [_objective(name, config, task) for name in names or [f"val/{monitored(config, task)}"]]
        if found and here != found:
            raise ConfigError(
                f"jobs are judged by {_said(found)} or by {_said(here)}; "
                "name what is searched for, such as sweep.metric=val/loss"
            )
        found = here
    if len({objective.name for objective in found}) < len(found):
        raise ConfigError(f"sweep.metric names a metric twice: {', '.join(objective.name for objective in found)}")
    return found


def _representative(jobs: Sequence[Job]) -> list[Job]:
    """A job for each data set and loss: on these depends which metrics there are."""
    found: dict[tuple[str, str], Job] = {}
    for job in jobs:
        found.setdefault((str(job.settings["dataset"]), str(job.settings["loss"])), job)
    return list(found.values())


def _objective(name: str, config: Config, task: Task) -> Objective:
    if name in NUMBERS:
        return Objective(name, NUMBERS[name])
    directions = directions_of(config, task)
    split, _, metric = name.partition("/")
    if split == "test":
        raise ConfigError("sweep.metric: the test split is looked at once, at the end; search by val/...")
    if split not in SPLITS:
        split, metric = "val", name
    if metric not in directions:
        has = [each for each in directions if "/" not in each] + list(NUMBERS)
        raise ConfigError(
            f"sweep.metric: task {task.name} has no metric '{metric}'{did_you_mean(metric, has)} "
            f"(has: {', '.join(has)})"
        )
    return Objective(f"{split}/{metric}", directions[metric])


def _said(found: Sequence[Objective]) -> str:
    return " and ".join(f"{objective.name} ({objective.direction})" for objective in found)
