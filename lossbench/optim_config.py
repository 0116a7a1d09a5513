"""The rules of `optim.groups`, checked against the optimizer's own options."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any

from torch.optim import LBFGS, SGD, Rprop

from lossbench.errors import ConfigError
from lossbench.optim.groups import REST, OptimOptions, Rule
from lossbench.optim.ranges import RANGES
from lossbench.signatures import accepts_any, bind, no_option, parameters, show
from lossbench.targets import FILLED, Call

EXAMPLE = '{name: "5.*", lr: 0.01}'
# Options of torch's optimizers that are not for single groups: they choose how the step is computed.
_WHOLE = {"fused", "foreach", "capturable", "differentiable", "maximize"}
_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class RuleOptions:
    """A rule's own keys; all others in it are options of the optimizer.

    Attributes:
        name: a pattern, or several, over the parameters' names.
        kind: a pattern, or several, over the classes of modules; or `bias`, `norm`, `bias and norm`.
        freeze: never train these.
        unfreeze: train these from the beginning of this epoch on.
    """

    name: str | Sequence[str] | None = None
    kind: str | Sequence[str] | None = None
    freeze: bool = False
    unfreeze: Annotated[int | None, "[2, inf)"] = None


def refuse_contradictions(optim: Call) -> None:
    """Refuse options of torch's optimizers that do not go together.

    Raises:
        ConfigError: says which to change.
    """
    values = optim.values
    if optim.target is SGD and values.get("nesterov"):
        momentum, dampening = values.get("momentum", 0.0), values.get("dampening", 0.0)
        if not momentum or dampening:
            raise ConfigError(
                "optim.nesterov=true needs optim.momentum above 0 and optim.dampening=0, "
                f"got {momentum:g} and {dampening:g}"
            )
    least, largest = values.get("step_sizes", (0, math.inf))
    if optim.target is Rprop and least > largest:
        raise ConfigError(f"optim.step_sizes must be the least and the largest, got {show([least, largest])}")


def read_rules(options: OptimOptions, optim: Call) -> tuple[Rule, ...]:
    """The rules of `optim.groups`, in their order.

    Raises:
        ConfigError: what one of them holds is wrong, or the optimizer has no weight decay that could be left out.
    """
    has = _by_group(optim)
    if not options.decay_bias_and_norm and "weight_decay" not in has and not accepts_any(optim.target):
        raise ConfigError(
            f"optim.decay_bias_and_norm=false: {optim.name} has no weight decay to begin with; leave it at true"
        )
    rules = tuple(_rule(str(name), given, optim, has) for name, given in (options.groups or {}).items())
    if isinstance(optim.target, type) and issubclass(optim.target, LBFGS):
        _refuse_several(optim, rules)
    return rules


def _by_group(optim: Call) -> list[str]:
    """The options of an optimizer that a group can have for itself."""
    return [key for key in parameters(optim.target) if key not in {*FILLED["optim"], *_WHOLE}]


def _rule(name: str, given: Any, optim: Call, has: Sequence[str]) -> Rule:
    path = f"optim.groups.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: a group's name is letters, digits, _ and -")
    if name == REST:
        raise ConfigError(f"{path}: '{REST}' is the group of what no rule takes, which has the settings of optim.*")
    if not isinstance(given, Mapping):
        raise ConfigError(f"{path} must be a rule such as {EXAMPLE}, got {show(given)}")
    own = [f.name for f in fields(RuleOptions)]
    settings = _settings(path, {k: v for k, v in given.items() if k not in own}, optim, [*own, *has])
    options = RuleOptions(**bind(path, RuleOptions, {k: v for k, v in given.items() if k in own}))
    names, kinds = _patterns(options.name), _patterns(options.kind)
    if not names and not kinds:
        raise ConfigError(f"{path} does not say which parameters it is about: give it a name or a kind, as {EXAMPLE}")
    if options.freeze and options.unfreeze is not None:
        raise ConfigError(f"{path} has both freeze and unfreeze: unfreeze={options.unfreeze} alone freezes until then")
    if options.freeze and settings:
        raise ConfigError(f"{path} is never trained (freeze: true), so '{next(iter(settings))}' means nothing there")
    return Rule(name, names, kinds, settings, options.freeze, options.unfreeze)


def _settings(path: str, given: Mapping[str, Any], optim: Call, has: Sequence[str]) -> dict[str, Any]:
    """A group's options of the optimizer, checked as the optimizer's own are."""
    for key in given:
        if key in _WHOLE:
            raise ConfigError(f"{path}.{key} is for all groups alike: set it as optim.{key}")
        if key not in has and not accepts_any(optim.target):
            raise ConfigError(no_option(path, str(key), optim.name, has))
    bound = bind(path, optim.target, {**optim.values, **given}, filled=FILLED["optim"], ranges=RANGES["optim"])
    return {key: bound[key] for key in given}


def _patterns(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def _refuse_several(optim: Call, rules: Sequence[Rule]) -> None:
    """L-BFGS moves all parameters along one direction, with one rate."""
    for rule in rules:
        if not rule.freeze:
            raise ConfigError(
                f"optim.groups.{rule.name}: {optim.name} moves all parameters together, with one rate and from one "
                "memory of gradients; a rule can only freeze: true for good"
            )
