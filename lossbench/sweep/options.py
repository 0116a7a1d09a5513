"""`sweep.*`: what concerns a sweep as a whole, and none of its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf

from lossbench.errors import ConfigError
from lossbench.signatures import bind

# What not every sweeper takes, and the choices of hydra/sweeper that do.
_CONCERNS = {
    "trials": ("optuna", "fair"),
    "sampler": ("optuna", "fair"),
    "pruner": ("optuna",),
    "metric": ("optuna", "fair"),
    "tune": ("fair",),
    "seeds": ("fair",),
}


@dataclass(frozen=True)
class SweepOptions:
    """`sweep.*`; conf/config.yaml says what each is."""

    name: str | None = None
    retry_failed: bool = False
    on_failure: Literal["continue", "stop"] = "continue"
    max_jobs: Annotated[int, "[1, inf)"] = 1000
    trials: Annotated[int | None, "[1, inf)"] = None
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "random", "sobol"] | None = None
    pruner: Literal["median", "percentile", "halving", "hyperband"] | None = None
    metric: str | list[str] | None = None
    tune: Any = None
    seeds: Any = 8


def read_options(given: Any) -> SweepOptions:
    """The options, checked.

    Raises:
        ConfigError: one that is not there, or not of its kind.
    """
    plain: Any = OmegaConf.to_container(given, resolve=True) if isinstance(given, DictConfig) else given
    return SweepOptions(**bind("sweep", SweepOptions, plain if isinstance(plain, Mapping) else {}, owner="sweep"))


def of_the_sweep(overrides: Sequence[str]) -> list[str]:
    """Those overrides that are about the sweep as a whole."""
    return [word for word in overrides if word.lstrip("+~").partition("=")[0].partition(".")[0] == "sweep"]


def refuse_unused(overrides: Sequence[str], used: Sequence[str]) -> None:
    """Refuse what the sweeper would pass over in silence.

    Args:
        used: what it takes beyond what all sweepers take.

    Raises:
        ConfigError: names the sweepers that take it.
    """
    for word in of_the_sweep(overrides):
        key = word.lstrip("+~").partition("=")[0]
        name = key.partition(".")[2].partition(".")[0]
        if name in _CONCERNS and name not in used:
            sweepers = " or ".join(f"hydra/sweeper={sweeper}" for sweeper in _CONCERNS[name])
            raise ConfigError(f"{key} concerns {sweepers}; {'leave it away' if used else 'add it'}")


def refuse_several(overrides: Sequence[str]) -> None:
    """Refuse to sweep over what is about the sweep as a whole; Hydra would pass it over in silence."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for override in OverridesParser.create().parse_overrides(of_the_sweep(overrides)):
        if override.is_sweep_override():
            key, _, value = str(override.input_line).partition("=")
            listed = " or a list, such as [1,2,3]" if key == "sweep.seeds" else ""
            raise ConfigError(f"{key} is about the sweep as a whole and takes one value{listed}, got {value}")
