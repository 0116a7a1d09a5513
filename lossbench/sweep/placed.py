"""A job as a launcher of Hydra's hands it to the process that runs it: composed, or as words."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, open_dict, read_write

from lossbench.sweep.job import Task
from lossbench.sweep.search.space import as_text


def placed(config: DictConfig, number: int, path: Path) -> DictConfig:
    """The config with Hydra's own part of the job of that number in the directory `path`."""
    found = config.copy()
    with read_write(found.hydra), open_dict(found.hydra):
        found.hydra.sweep.dir, found.hydra.sweep.subdir = str(path.parent.absolute()), path.name
        found.hydra.job.num, found.hydra.job.id = number, str(number)
    return found


def words(task: Task) -> list[str]:
    """The job's overrides, and where Hydra should put it."""
    place, name = as_text(str(task.path.parent.absolute())), as_text(task.path.name)
    return [*task.job.overrides, f"hydra.sweep.dir={place}", f"hydra.sweep.subdir={name}"]
