"""What a fair sweep compares, tunes and repeats, as a command line says it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from lossbench.errors import ConfigError, did_you_mean, plural
from lossbench.report.pairs import enough
from lossbench.signatures import convert, show
from lossbench.sweep.expand import jobs, unique
from lossbench.sweep.options import SweepOptions
from lossbench.sweep.search.space import Dimension, dimension

TRIALS = 8
TUNED = ("optim.lr",)
SOBOL = "sobol"

Seed = Annotated[int, "[0, 4294967295]"]
Count = Annotated[int, "[1, inf)"]


@dataclass(frozen=True)
class Protocol:
    """A fair sweep before anything is composed.

    Attributes:
        arms: the overrides of each.
        swept: the keys that set them apart.
        tuned: by key the values to search in; None is around each arm's own default.
        trials: how many each arm gets.
        seeds: how many fresh ones, or which.
        sampler: where the points come from.
    """

    arms: list[list[str]]
    swept: tuple[str, ...]
    tuned: Mapping[str, Dimension | None]
    trials: int
    seeds: int | tuple[int, ...]
    sampler: str

    def fresh_seeds(self, tuning: int) -> tuple[int, ...]:
        """The seeds of the final runs.

        Args:
            tuning: the seed that all trials have.

        Raises:
            ConfigError: it is among them, or one is too large.
        """
        if isinstance(self.seeds, int):
            found = tuple(range(tuning + 1, tuning + 1 + self.seeds))
            return tuple(convert("sweep.seeds", seed, Seed) for seed in found)
        if tuning in self.seeds:
            raise ConfigError(
                f"sweep.seeds: the trials have seed {tuning}, and the best of them was chosen on it; "
                "leave it out, or tune with another: seed=NUMBER"
            )
        return self.seeds

    @property
    def size(self) -> str:
        """How many jobs there are, in words."""
        arms, finals = len(self.arms), self.finals
        trials, runs = plural(self.trials, "trial"), plural(finals, "final run")
        return f"{plural(arms, 'arm')} x {trials} + {arms} x {runs} = {plural(self.jobs, 'job')}"

    @property
    def too_few(self) -> str:
        """That the verdicts can find no two arms equal, where there are too few seeds for that; else nothing."""
        arms = len(self.arms)
        needed = enough(math.comb(arms, 2)) if arms > 1 else 0
        if self.finals >= needed:
            return ""
        seeds = "1 seed is" if self.finals == 1 else f"{self.finals} seeds are"
        return f"{seeds} too few to find {arms} arms equal; {needed} would do"

    @property
    def finals(self) -> int:
        """How many final runs each arm gets."""
        return self.seeds if isinstance(self.seeds, int) else len(self.seeds)

    @property
    def jobs(self) -> int:
        """How many jobs there are, should no two be equal."""
        return len(self.arms) * (self.trials + self.finals)


def read_protocol(words: Sequence[str], options: SweepOptions, loader: ConfigLoader) -> Protocol:
    """What the command line asks for.

    Args:
        words: its overrides, without those of `sweep.*`.

    Raises:
        ConfigError: what cannot be compared fairly; Hydra's own errors come as they are.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    _refuse_swept_seed(parsed)
    if options.pruner is not None:
        raise ConfigError("sweep.pruner ends trials early, and a fair sweep gives all arms the same; leave it away")
    typed = {o.get_key_element(): word for word, o in zip(words, parsed, strict=True) if o.is_interval_sweep()}
    ranges = {key: dimension(key, word.partition("=")[2], loader) for key, word in typed.items()}
    found = jobs([word for word in words if word not in typed.values()], loader, limit=options.max_jobs)
    swept = tuple(o.get_key_element() for o in parsed if o.is_discrete_sweep())
    protocol = Protocol(
        arms=unique(found),
        swept=tuple(key.lstrip("+") for key in swept),
        tuned=_tuned(options.tune, ranges, swept),
        trials=options.trials or TRIALS,
        seeds=_seeds(options.seeds),
        sampler=options.sampler or SOBOL,
    )
    if protocol.jobs > options.max_jobs:
        raise ConfigError(f"{protocol.size} (limit {options.max_jobs}); pass sweep.max_jobs={protocol.jobs}")
    return protocol


def _refuse_swept_seed(parsed: Sequence[Override]) -> None:
    for override in parsed:
        if override.is_sweep_override() and override.get_key_element() == "seed":
            raise ConfigError(
                f"'{override.input_line}': a fair sweep tunes on one seed and reruns each arm's best setting on fresh "
                "ones; leave it away and say how many: sweep.seeds=8"
            )


def _tuned(given: Any, typed: Mapping[str, Dimension], swept: Sequence[str]) -> dict[str, Dimension | None]:
    """The keys to tune, those with a range on the command line itself among them."""
    keys = [given] if isinstance(given, str) else TUNED if given is None else given
    if isinstance(keys, Mapping):
        found = {str(key): _range(str(key), value) for key, value in keys.items()}
    elif isinstance(keys, (list, tuple)) and all(isinstance(key, str) for key in keys):
        found = dict.fromkeys(keys)
    else:
        raise ConfigError(f"sweep.tune must be keys, or a mapping from keys to ranges, got {show(given)}")
    for key, values in typed.items():
        if found.get(key) is not None:
            raise ConfigError(f"{key} has a range in sweep.tune and another one beside it; leave one of them away")
        found[key] = values
    for key in found:
        if key == "seed" or key.startswith("sweep."):
            raise ConfigError(f"sweep.tune: {key} is nothing to tune; leave it away")
        if key in swept:
            raise ConfigError(
                f"{key} has several values, each of them an arm, and cannot be tuned as well; give it a range "
                f"('{key}=interval(LOW,HIGH)') or tune other keys (sweep.tune=[KEY])"
            )
    return found


def _range(key: str, value: Any) -> Dimension | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"sweep.tune: {key} must be a range in quotes, such as 'interval(0, 1)', got {show(value)}")
    return dimension(key, value)


def _seeds(given: Any) -> int | tuple[int, ...]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        seeds = tuple(convert("sweep.seeds", seed, Seed) for seed in given)
        if not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"sweep.seeds must be a number or different seeds, got {show(given)}")
        return seeds
    found: int = convert("sweep.seeds", given, Count)
    return found


def unknown_key(key: str, known: Sequence[str]) -> ConfigError:
    """The error for a key to tune that no arm has."""
    return ConfigError(f"sweep.tune: no arm has a key '{key}'{did_you_mean(key, known)}")
