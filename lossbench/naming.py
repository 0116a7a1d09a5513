"""Names of runs and their directories, and the resolvers that conf/config.yaml takes them from."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossbench.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAMED_BY = ("dataset", "model", "loss", "optim")


def run_name(name: str | None, choices: Mapping[str, Any]) -> str:
    """The run's name, by default dataset-model-loss-optim.

    Raises:
        ConfigError: a name that could leave the output directory or does not fit a file name.
    """
    if name is None:
        return "-".join(str(choices[group]) for group in NAMED_BY if group in choices)
    if not NAME.fullmatch(str(name)):
        raise ConfigError(
            f"name must be letters, digits, '.', '_' or '-' (100 at most, no '.', '_' or '-' first), got {str(name)!r}"
        )
    return str(name)


def sweep_name(name: str | None) -> str | None:
    """A sweep's name, which may have folders in it.

    Raises:
        ConfigError: a name that could leave the output directory or does not fit a path.
    """
    if name is not None and not all(map(NAME.fullmatch, str(name).split("/"))):
        raise ConfigError(
            "sweep.name must be letters, digits, '.', '_' or '-' (100 at most, no '.', '_' or '-' first), or several "
            f"such with '/' between them, got {str(name)!r}"
        )
    return None if name is None else str(name)


def stamp() -> str:
    """A folder for the day, and the time with four hex digits: two runs of one second do not meet."""
    return f"{time.strftime('%Y-%m-%d/%H-%M-%S')}-{secrets.token_hex(2)}"


def job_name(number: Any, overrides: str | None) -> str:
    """A sweep's job: its number and what sets it apart, as a file name."""
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "_", f"{number}-{overrides or 'defaults'}")[:100]


def register_resolvers() -> None:
    """Tell OmegaConf of them, once or again."""

    def name(given: str | None, choices: DictConfig | str) -> str:
        return run_name(given, choices) if isinstance(choices, DictConfig) else run_name(given or choices, {})

    def sweep(given: str | None, runs: str | None) -> str:
        return sweep_name(given) or f"{stamp()}-{run_name(runs or 'sweep', {})}"

    OmegaConf.register_new_resolver("lossbench_sweep", sweep, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("lossbench_stamp", stamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("lossbench_name", name, replace=True)
    OmegaConf.register_new_resolver("lossbench_job", job_name, replace=True)
