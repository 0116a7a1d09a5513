"""A job's config as a launcher of Hydra's hands it to the process that runs it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, open_dict, read_write


def placed(config: DictConfig, number: int, path: Path) -> DictConfig:
    """The config with Hydra's own part of the job of that number in the directory `path`."""
    found = config.copy()
    with read_write(found.hydra), open_dict(found.hydra):
        found.hydra.sweep.dir, found.hydra.sweep.subdir = str(path.parent.absolute()), path.name
        found.hydra.job.num, found.hydra.job.id = number, str(number)
    return found
