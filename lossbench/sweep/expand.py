"""The jobs of a sweep: every combination of the values that a command line gives with commas, `range` and the like."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser

from lossbench import catalog
from lossbench.errors import ConfigError


def jobs(overrides: Sequence[str], loader: ConfigLoader, *, limit: int | None = None) -> list[list[str]]:
    """The overrides of each job, the last key moving fastest.

    Args:
        loader: knows the options, for `glob`.
        limit: more jobs than so many are refused.

    Raises:
        ConfigError: a sweep over nothing, or over more than the limit; Hydra's own errors come as they are.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    for override in parsed:
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise ConfigError(f"the sweep has 0 jobs: '{override.input_line}' is empty")
    count = prod(sum(1 for _ in o.sweep_string_iterator()) for o in parsed if o.is_discrete_sweep())
    if limit is not None and count > limit:
        raise ConfigError(f"{count} jobs (limit {limit}); pass sweep.max_jobs={count}")
    if not any(override.is_sweep_override() for override in parsed):
        return [list(overrides)]
    (found,) = BasicSweeper.split_arguments(parsed, None)
    return [list(job) for job in found]


def unique(found: Sequence[Sequence[str]]) -> list[list[str]]:
    """The jobs without those that equal an earlier one."""
    return [list(job) for job in dict.fromkeys(map(tuple, found))]


def swept(job: Sequence[str], found: Sequence[Sequence[str]]) -> list[str]:
    """Those of a job's words that some other job does not have."""
    return [word.lstrip("+") for word in job if not all(word in other for other in found)]


def labels(found: Sequence[Sequence[str]]) -> list[str]:
    """A short name for each job: its settings that differ from other jobs', an option of a group by its name alone."""
    settings = [dict(word.lstrip("+").split("=", 1) for word in job if "=" in word) for job in found]
    keys = list(dict.fromkeys(key for job in settings for key in job))
    keys = [key for key in keys if len({job.get(key) for job in settings}) > 1]
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}

    def said(key: str, value: str) -> str:
        return value if key in catalog.GROUPS else f"{short[key]}={value}"

    return [", ".join(said(key, job[key]) for key in keys if key in job) for job in settings]


def options_loader(config_dirs: Sequence[Path]) -> ConfigLoaderImpl:
    """What finds our options and those in a user's own directories."""
    search_path = create_config_search_path(str(catalog.conf_dir()))
    for directory in config_dirs:
        place = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{directory.resolve()}", anchor=place)
    return ConfigLoaderImpl(search_path)
