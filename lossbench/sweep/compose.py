"""A sweep's jobs, composed and checked."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from lossbench.compose import check_composed
from lossbench.errors import ConfigError
from lossbench.hydra_errors import translate
from lossbench.summary import hparams, settings_of
from lossbench.sweep.job import Job


class Composer:
    """Composes jobs.

    Args:
        master: the config that the sweep itself was composed to.
        flags: the user's config directories as flags, which messages need to find what is near.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig, flags: Sequence[str] = ()) -> None:
        self.loader, self.master, self.flags = loader, master, flags

    def job(self, overrides: Sequence[str], name: str, phase: str = "") -> Job:
        """The job of these overrides.

        Raises:
            ConfigError: what it holds is wrong; the message begins with the job's name.
        """
        try:
            config = self.loader.load_sweep_config(self.master, list(overrides))
            checked = check_composed(config)
        except Exception as error:
            found = translate(error, [*self.flags, *overrides])
            if not isinstance(found, ConfigError):
                raise
            raise ConfigError(f"job {name}: {found}") from error
        return Job(name, tuple(overrides), config, checked.hash, settings_of(checked), hparams(checked), phase)
