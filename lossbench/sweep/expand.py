"""The jobs of a sweep: every combination of the values that a command line gives with commas, `range` and the like."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import ceil, prod
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from lossbench import catalog
from lossbench.errors import ConfigError


def jobs(
    overrides: Sequence[str], loader: ConfigLoader, *, limit: int, raised_by: str | None = "sweep.max_jobs"
) -> list[list[str]]:
    """The overrides of each job, the last key moving fastest.

    Args:
        loader: knows the options, for `glob`.
        limit: more jobs than so many are refused.
        raised_by: the key that allows more, if there is one.

    Raises:
        ConfigError: a sweep over nothing, or over more than the limit; Hydra's own errors come as they are.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    sweeps = {override.get_key_element(): override for override in parsed if override.is_discrete_sweep()}
    counts = {key: _count(override) for key, override in sweeps.items()}
    for key, count in counts.items():
        if not count:
            raise ConfigError(f"the sweep has 0 jobs: '{sweeps[key].input_line}' is empty")
    total = prod(counts.values())
    if total > limit:
        raise ConfigError(f"{total} jobs (limit {limit}){f'; pass {raised_by}={total}' if raised_by else ''}")
    if not any(override.is_sweep_override() for override in parsed):
        return [list(overrides)]
    (found,) = BasicSweeper.split_arguments(parsed, None)
    return [list(job) for job in found]


def _count(override: Override) -> int:
    """How many values a sweep goes over; those of a range are not made one by one, it may have any number."""
    sweep = override.value()
    if not isinstance(sweep, RangeSweep):
        return sum(1 for _ in override.sweep_string_iterator())
    start, stop, step = (Decimal(str(number)) for number in (sweep.start, sweep.stop, sweep.step))
    if not (start.is_finite() and stop.is_finite() and step):
        raise ConfigError(f"'{override.input_line}' has no end")
    return max(0, ceil((stop - start) / step))


def unique(found: Sequence[Sequence[str]]) -> list[list[str]]:
    """The jobs without those that equal an earlier one."""
    return [list(job) for job in dict.fromkeys(map(tuple, found))]


def names(found: Sequence[Sequence[str]]) -> list[str]:
    """Each job's name: those of its words that not every job has; of one job by itself, all."""
    shared = set(found[0]).intersection(*found[1:]) if len(found) > 1 else set()
    return [",".join(word.lstrip("+") for word in job if word not in shared) or "defaults" for job in found]


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
