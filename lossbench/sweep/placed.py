"""A job as a launcher of Hydra's hands it to the process that runs it: composed, or as words."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, open_dict, read_write

from lossbench.sweep.job import Task
from lossbench.sweep.search.space import as_text


def place(config: DictConfig, number: int, path: Path) -> None:
    """Write Hydra's own part of the job of that number in the directory `path` into its config."""
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(path.parent.absolute()), path.name
        config.hydra.job.num, config.hydra.job.id = number, str(number)


def words(task: Task) -> list[str]:
    """The job's overrides, and where Hydra should put it."""
    place, name = as_text(str(task.path.parent.absolute())), as_text(task.path.name)
    return [*task.job.overrides, f"hydra.sweep.dir={place}", f"hydra.sweep.subdir={name}"]
