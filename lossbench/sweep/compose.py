"""A sweep's jobs, composed and checked."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import IConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

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

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig, flags: Sequence[str] = ()) -> None:
        self.loader, self.flags = loader, flags
        self._compositions = Compositions(loader, master)

    def job(self, overrides: Sequence[str], name: str, phase: str = "") -> Job:
        """The job of these overrides.

        Raises:
            ConfigError: what it holds is wrong; the message begins with the job's name.
        """
        try:
            config = self._compositions.config(overrides)
            checked = check_composed(config)
        except Exception as error:
            found = translate(error, [*self.flags, *overrides])
            if not isinstance(found, ConfigError):
                raise
            raise ConfigError(f"job {name}: {found}") from error
        return Job(name, tuple(overrides), config, checked.hash, settings_of(checked), hparams(checked), phase)


class Compositions:
    """What Hydra's loader gives for jobs, from one composition for each choice of options.

    A composition takes Hydra 0.1 s, most of it for files that all jobs share; the settings of a job are applied to a
    copy in a few thousandths.
    """

    def __init__(self, loader: ConfigLoaderImpl, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._parser = OverridesParser.create()
        self._sources: dict[tuple[str, ...], IConfigRepository] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def config(self, words: Sequence[str]) -> DictConfig:
        """Equal to `loader.load_sweep_config(master, words)`, and raises what that does."""
        try:
            return self._from_shared(words)
        except Exception:
            return self._loader.load_sweep_config(self._master, list(words))  # knows which mistake comes first

    def _from_shared(self, words: Sequence[str]) -> DictConfig:
        overrides = self._parser.parse_overrides(list(words))
        sources = self._sources_with([override for override in overrides if _is_hydras(override)])
        settings = [override for override in overrides if _only_sets(override, sources)]
        shared = tuple(str(override.input_line) for override in overrides if override not in settings)
        if shared not in self._composed:
            self._composed[shared] = self._loader.load_sweep_config(self._master, list(shared))
        config = deepcopy(self._composed[shared])
        ConfigLoaderImpl._apply_overrides_to_config(settings, config)
        _record(config, [override for override in overrides if not override.is_hydra_override()])
        OmegaConf.copy_cache(self._master, config)
        return config

    def _sources_with(self, overrides: Sequence[Override]) -> IConfigRepository:
        """Where files are looked for, with Hydra's own settings such as `hydra.searchpath`."""
        own = tuple(str(override.input_line) for override in overrides)
        if own not in self._sources:
            master = self._master.hydra
            every = [*master.overrides.hydra, *own]
            _, found = self._loader._parse_overrides_and_create_caching_repo(master.job.config_name, every)
            self._sources[own] = found
        return self._sources[own]


def _is_hydras(override: Override) -> bool:
    """Whether Hydra itself may look at what it sets."""
    return override.key_or_group.startswith("hydra")


def _only_sets(override: Override, sources: IConfigRepository) -> bool:
    """Whether it sets a value in what is composed, and decides nothing about what that is composed of."""
    if _is_hydras(override) or override.is_sweep_override():
        return False
    return isinstance(override.value(), dict) or not sources.group_exists(override.key_or_group)


def _record(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Write down what a job was asked for where Hydra does."""
    config.hydra.overrides.task = [override.input_line for override in overrides]
    naming = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        overrides=list(overrides),
        exclude_keys=naming.exclude_keys,
        item_sep=naming.item_sep,
        kv_sep=naming.kv_sep,
    )
