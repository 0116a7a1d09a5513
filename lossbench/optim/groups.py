"""Parameter groups: which parameters have settings of their own, are frozen, or are spared weight decay."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lossbench.errors import ConfigError

REST = "rest"  # the group of what no rule takes
NO_DECAY = "no_decay"  # a part of a group, as in `rest.no_decay`
WORDS = ("bias", "norm", "bias and norm")  # kinds of parameters, where all others are kinds of modules
_SHOWN = 6  # names in a message
_NORM = re.compile(r"Norm(\d+d)?$")
_PARAMETRISED = re.compile(r"(?:^|\.)parametrizations\.(\w+)\.")  # by torch.nn.utils.parametrize
_NO_KINDS = (nn.Module, object)


@dataclass(frozen=True)
class OptimOptions:
    """What every optimizer takes, beside its own options.

    Attributes:
        groups: rules by name; the first that matches a parameter takes it, and `rest` is the group of the others.
        decay_bias_and_norm: whether weight decay acts on biases and on the parameters of normalisation layers.
    """

    groups: Mapping[str, Any] | None = None
    decay_bias_and_norm: bool = True


@dataclass(frozen=True)
class Rule:
    """A parameter group as the config has it.

    Attributes:
        names: patterns over the parameters' names, in which `*` goes past dots too; one must match, where there are
            any.
        kinds: patterns over the class of the module that has the parameter, or one of WORDS; likewise.
        settings: options of the optimizer.
        freeze: whether it is never trained.
        unfreeze: the epoch, from 1, at whose beginning it is trained for the first time.
    """

    name: str
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    freeze: bool = False
    unfreeze: int | None = None

    def takes(self, named: Named) -> bool:
        """Whether it is about this parameter."""
        by_name = not self.names or any(fnmatchcase(named.name, pattern) for pattern in self.names)
        return by_name and (not self.kinds or any(_is_kind(named, kind) for kind in self.kinds))

    def __str__(self) -> str:
        patterns = (("name", self.names), ("kind", self.kinds))
        return " and ".join(f"{key} {' or '.join(map(repr, found))}" for key, found in patterns if found)


@dataclass(frozen=True, eq=False)
class Named:
    """A parameter, what it is called, and the module that has it.

    Attributes:
        of_loss: whether it is a loss's own, such as a learned log-variance: a setting that is learned, no weight.
    """

    name: str
    parameter: nn.Parameter
    owner: nn.Module
    of_loss: bool = False

    @property
    def is_bias(self) -> bool:
        """Whether it is called `bias`, or so that it says it is one: `bias_ih_l0` of nn.LSTM, `in_proj_bias`."""
        inside = _PARAMETRISED.search(self.name)
        own = inside.group(1) if inside else self.name.rpartition(".")[2]
        return own == "bias" or own.startswith("bias_") or own.endswith("_bias")

    @property
    def is_norm(self) -> bool:
        """Whether it belongs to a normalisation layer: BatchNorm, LayerNorm, a user's own `ScaleNorm`."""
        return any(_NORM.search(kind) for kind in kinds_of(self.owner))

    @property
    def is_weight(self) -> bool:
        """Whether weight decay is meant for it."""
        return not (self.is_bias or self.is_norm or self.of_loss)


@dataclass(frozen=True)
class Group:
    """Parameters that the optimizer treats alike.

    Attributes:
        settings: what differs from the optimizer's own options.
        freeze: whether they are never trained.
        unfreeze: the epoch, from 1, at whose beginning they are trained for the first time.
    """

    name: str
    members: tuple[Named, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    freeze: bool = False
    unfreeze: int | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [named.parameter for named in self.members]

    def as_dict(self) -> dict[str, Any]:
        """As torch's optimizers take it."""
        return {"params": self.parameters, "name": self.name, **self.settings}


def named_in(module: nn.Module, prefix: str = "", *, of_loss: bool = False) -> list[Named]:
    """A module's parameters with their names, those that it shares once."""
    return [
        Named(f"{prefix}{name}", parameter, _owner(module, name), of_loss)
        for name, parameter in module.named_parameters()
    ]


def kinds_of(module: nn.Module) -> list[str]:
    """The names of a module's class and of those that it is made from, up to nn.Module."""
    return [kind.__name__ for kind in type(module).__mro__ if kind not in _NO_KINDS]


def partition(
    trained: Sequence[Named], rules: Sequence[Rule], *, decay_bias_and_norm: bool = True, name: str = REST
) -> list[Group]:
    """The groups of the parameters: what no rule takes first, then one for each rule in their order.

    Where biases and norms are spared weight decay, they are groups of their own behind those that they come from,
    such as `rest.no_decay`; a loss's own parameters are spared too. A group that states its weight decay, or that of a
    part of it (`adamw_weight_decay`), stays whole.

    Args:
        trained: the parameters that the model and the losses train.
        name: of the only group, where there are no rules and nothing is spared.

    Raises:
        ConfigError: a rule that takes no parameter, or nothing that would be learned in the first step.
    """
    taken: dict[str, list[Named]] = {rule.name: [] for rule in rules}
    rest: list[Named] = []
    for named in trained:
        rule = next((rule for rule in rules if rule.takes(named)), None)
        (rest if rule is None else taken[rule.name]).append(named)
    for rule in rules:
        if not taken[rule.name]:
            raise ConfigError(_takes_none(rule, trained, rules))
    groups = [Group(name if decay_bias_and_norm and not rules else REST, tuple(rest))] if rest else []
    groups += [Group(r.name, tuple(taken[r.name]), r.settings, r.freeze, r.unfreeze) for r in rules]
    if not decay_bias_and_norm:
        groups = [part for group in groups for part in _divided(group)]
    if all(group.freeze or group.unfreeze for group in groups):
        later = " until a later epoch" if any(group.unfreeze for group in groups) else ""
        raise ConfigError(f"optim.groups freezes every parameter{later}: nothing would be learned")
    return groups


def first_step(group: Group, steps_per_epoch: int) -> int:
    """The first step, from 1, in which a group is trained."""
    return 1 + ((group.unfreeze or 1) - 1) * steps_per_epoch


def _divided(group: Group) -> list[Group]:
    """A group, and the part of it that is spared weight decay."""
    stated = any(key.endswith("weight_decay") and value is not None for key, value in group.settings.items())
    if group.freeze or stated:
        return [group]
    weights = tuple(named for named in group.members if named.is_weight)
    spared = tuple(named for named in group.members if not named.is_weight)
    settings = {**group.settings, "weight_decay": 0.0}
    parts = (
        replace(group, members=weights),
        replace(group, name=f"{group.name}.{NO_DECAY}", members=spared, settings=settings),
    )
    return [part for part in parts if part.members]


def _is_kind(named: Named, kind: str) -> bool:
    if kind in WORDS:
        return ("bias" in kind and named.is_bias) or ("norm" in kind and named.is_norm)
    return any(fnmatchcase(found, kind) for found in kinds_of(named.owner))


def _owner(module: nn.Module, name: str) -> nn.Module:
    """The module that a parameter belongs to: of a parametrised one, the one that computes with it."""
    inside = _PARAMETRISED.search(name)
    return module.get_submodule(name[: inside.start()] if inside else name.rpartition(".")[0])


def _takes_none(rule: Rule, trained: Sequence[Named], rules: Sequence[Rule]) -> str:
    matched = [named for named in trained if rule.takes(named)]
    where = f"optim.groups.{rule.name}"
    if matched:
        earlier = dict.fromkeys(next(r.name for r in rules if r.takes(named)) for named in matched)
        return f"{where}: every parameter with {rule} is taken by rules before it ({', '.join(earlier)}); put it first"
    has: Callable[[Named], str] = (lambda n: n.name) if rule.names else (lambda n: type(n.owner).__name__)
    found = list(dict.fromkeys(map(has, trained)))
    if len(found) > _SHOWN:
        found[_SHOWN // 2 : -_SHOWN // 2] = ["..."]
    return f"{where}: no trained parameter has {rule} ({'names' if rule.names else 'kinds'}: {', '.join(found)})"
