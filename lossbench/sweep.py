"""The jobs of a sweep: every combination of the values that a command line gives with commas, `range` and the like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser

from lossbench.catalog import conf_dir
from lossbench.errors import ConfigError


def jobs(overrides: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """The overrides of each job, the last key moving fastest.

    Args:
        loader: knows the options, for `glob`.

    Raises:
        ConfigError: a sweep over nothing; Hydra's own errors come as they are.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    for override in parsed:
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise ConfigError(f"the sweep has 0 jobs: '{override.input_line}' is empty")
    if not any(override.is_sweep_override() for override in parsed):
        return [list(overrides)]
    (found,) = BasicSweeper.split_arguments(parsed, None)
    return [list(job) for job in found]


def unique(found: Sequence[Sequence[str]]) -> list[list[str]]:
    """The jobs without those that equal an earlier one."""
    return [list(job) for job in dict.fromkeys(map(tuple, found))]


def options_loader(config_dirs: Sequence[Path]) -> ConfigLoaderImpl:
    """What finds our options and those in a user's own directories."""
    search_path = create_config_search_path(str(conf_dir()))
    for directory in config_dirs:
        place = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{directory.resolve()}", anchor=place)
    return ConfigLoaderImpl(search_path)
