"""`optim.lr=auto`: the rate that a range test on a build of its own suggests, in the place of the word."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.optim.lr_scheduler import ConstantLR

from lossbench.build import Run, build
from lossbench.config import PLACEHOLDER, Config
from lossbench.console import say
from lossbench.engine.range_rule import RangeTest
from lossbench.engine.range_test import START, STEPS, STOP, range_test
from lossbench.errors import ConfigError
from lossbench.optim import SchedulerOptions
from lossbench.optim.rate_free import refuse_rate_free
from lossbench.optim_build import with_unknown_rate
from lossbench.targets import Call

FACTS = ("suggested", "reason", "steepest", "diverged_at")  # what a run records of it


def settled(config: Config, facts: Mapping[str, Any] | None = None) -> Config:
    """The config with a number for `optim.lr=auto`, which it is told; another one as it is.

    The run that is built from it equals the run with that number typed, bit for bit.

    Args:
        facts: what the checkpoint says that the run goes on from; the rate that it was begun with is not found again.

    Raises:
        ConfigError: the optimizer has no rate to find, or the range test suggests none.
    """
    if not config.lr_auto:
        return config
    found = recorded(facts or {}) or find_rate(config)
    if found.suggested is None:
        raise ConfigError(f"optim.lr=auto: {found.reason}; set optim.lr=NUMBER, or look with lossbench find-lr")
    say(f"optim.lr=auto: {found.suggested:g} ({found.reason})")
    return replace(with_rate(config, found.suggested), found_lr=found)


def find_rate(config: Config, *, start: float = START, stop: float = STOP, steps: int = STEPS) -> RangeTest:
    """A range test of what the config describes, whatever its rate and its schedule.

    It sweeps the rates of the parameter groups that take `optim.lr`; a rule of `optim.groups` or an option of the
    optimizer that states another rate (`adamw_lr`) keeps it.

    Raises:
        ConfigError: the optimizer has no rate to find.
        LossbenchError: what `train` would raise before it begins.
    """
    constant = Call("constant", ConstantLR, {"factor": 1.0, "total_iters": 0})
    plain = replace(with_rate(config, PLACEHOLDER), scheduler=constant, scheduler_options=SchedulerOptions())
    run = build(plain)
    found = range_test(run.player, run.batches, _swept(run), start=start, stop=stop, steps=steps)
    del run
    gc.collect()  # a schedule and its optimizer hold each other, and the next build wants the memory
    return found


def with_rate(config: Config, rate: float) -> Config:
    """The config with this rate, whatever it was; its hash and its record stay."""
    optim = replace(config.optim, values={**config.optim.values, "lr": rate})
    return replace(config, optim=optim, lr_auto=False)


def recorded(facts: Mapping[str, Any]) -> RangeTest | None:
    """What a checkpoint says of the rate that was found; None where it says nothing that can be used."""
    found = facts.get("found_lr")
    if not isinstance(found, Mapping) or not _is_rate(found.get("suggested")):
        return None
    steepest, diverged_at = (found[k] if _is_rate(found.get(k)) else None for k in ("steepest", "diverged_at"))
    return RangeTest((), (), (), steepest, diverged_at, float(found["suggested"]), str(found.get("reason", "")))


def facts_of(found: RangeTest) -> dict[str, Any]:
    """What a run records of it."""
    return {name: getattr(found, name) for name in FACTS}


def _swept(run: Run) -> list[dict[str, Any]]:
    """The parameter groups that took the config's rate."""
    name, optimizers = run.config.optim.name, run.player.optimizers
    for optimizer in optimizers:
        refuse_rate_free(name, type(optimizer))
    swept = with_unknown_rate(optimizers)
    if not swept:
        raise ConfigError("every parameter group has a rate of its own: there is no optim.lr to find")
    return swept


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
