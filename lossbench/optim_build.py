"""From the config's optimizer and parameter groups to torch's optimizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.config import PLACEHOLDER, Config
from lossbench.engine.names import named_parameters
from lossbench.engine.objective import Objective
from lossbench.engine.thaw import Thaw
from lossbench.errors import ConfigError
from lossbench.optim.closure import check_search, searches
from lossbench.optim.foreign import has_fused, is_torchs
from lossbench.optim.groups import Group, first_step, partition
from lossbench.optim_trial import try_out
from lossbench.signatures import parameters
from lossbench.targets import Call, make


def freeze_and_group(config: Config, model: nn.Module, objective: Objective) -> list[Group]:
    """The parameter groups of a run, those frozen in its first step with `requires_grad=False`.

    What a model has frozen by itself is in no group.

    Raises:
        ConfigError: a rule that takes no parameter, or nothing that would be learned.
    """
    trained = [named for named in named_parameters(model, objective) if named.parameter.requires_grad]
    spares = not config.optim_options.decay_bias_and_norm
    groups = partition(trained, config.optim_rules, decay_bias_and_norm=not spares, name=config.optim.name)
    for group in groups:
        for parameter in group.parameters if group.freeze or group.unfreeze else ():
            parameter.requires_grad_(False)
    return groups


def trained_of(model: nn.Module, objective: Objective, groups: Sequence[Group]) -> list[nn.Parameter]:
    """What the run trains at some time, in the model's order."""
    kept = {parameter for group in groups if not group.freeze for parameter in group.parameters}
    return [named.parameter for named in named_parameters(model, objective) if named.parameter in kept]


def thaw_of(groups: Sequence[Group], *, steps: int, steps_per_epoch: int) -> Thaw:
    """What is trained from a later epoch on.

    Raises:
        ConfigError: the run ends before that.
    """
    held = [(group, first_step(group, steps_per_epoch)) for group in groups if group.unfreeze]
    for group, first in held:
        if first > steps:
            name, epochs = group.name.partition(".")[0], -(-steps // steps_per_epoch)
            raise ConfigError(
                f"optim.groups.{name}.unfreeze={group.unfreeze} is after the run's end (epoch {epochs}); "
                "freeze: true never trains them"
            )
    return Thaw([(first, group.parameters) for group, first in held])


def build_optimizers(optim: Call, groups: Sequence[Group], embeddings: Sequence[Tensor] = ()) -> list[Optimizer]:
    """The optimizers of a run, one as a rule, in their fused form where torch has one.

    Args:
        embeddings: weights of embeddings, for a target that asks for them by this name.

    Raises:
        ConfigError: the target gives no optimizer, cannot be called so, or does not take one of the parameters.
    """
    known = parameters(optim.target)
    chosen = {"fused", "foreach", "differentiable"} & optim.values.keys()  # torch takes one of them
    trained = [group for group in groups if not group.freeze]
    device = trained[0].parameters[0].device
    fuses = "fused" in known and not chosen and has_fused(optim.target, device)
    fixed: dict[str, Any] = {"fused": True} if fuses else {}
    if "embeddings" in known:
        fixed["embeddings"] = embeddings

    def construct(params: Sequence[Mapping[str, Any]]) -> list[Any]:
        built = make("optim", optim, {"params": list(params), **fixed})
        return list(built) if isinstance(built, (list, tuple)) else [built]

    try:
        optimizers = construct([group.as_dict() for group in trained])
    except ConfigError as error:
        if error.__cause__ is None:  # one of ours, which says all
            raise
        raise ConfigError(f"{error}{_refused(optim, trained, fixed)}") from error
    if not optimizers:
        raise ConfigError(f"optim '{optim.name}' gives no optimizer")
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            kind = type(optimizer).__name__
            raise ConfigError(f"optim '{optim.name}' must be a torch.optim.Optimizer, got {kind}")
    _check_groups(optim, trained, optimizers)
    if not all(map(is_torchs, optimizers)):
        try_out(optim.name, [group.as_dict() for group in trained], construct)
    return optimizers


def with_unknown_rate(optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    """The parameter groups whose rate is the one that `optim.lr=auto` is to find, before a schedule moves them."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [group for group in groups if float(group["lr"]) == PLACEHOLDER]


def refuse_misfits(config: Config, optimizers: Sequence[Optimizer], precision: str) -> None:
    """Refuse trainer options that an optimizer cannot have.

    Args:
        precision: what `trainer.precision` comes to.

    Raises:
        ConfigError: the first such option.
    """
    options = config.trainer
    if any(map(searches, optimizers)):
        clips = next((f"trainer.{key}" for key in ("clip_norm", "clip_value") if getattr(options, key)), None)
        check_search(config.optim.name, accumulate=options.accumulate, precision=precision, clips=clips)


def _refused(optim: Call, groups: Sequence[Group], fixed: dict[str, Any]) -> str:
    """Which parameter it was that the optimizer does not take, where it takes others."""

    def takes(group: Group, parameter: nn.Parameter) -> bool:
        try:
            make("optim", optim, {"params": [{**group.as_dict(), "params": [parameter]}], **fixed})
        except ConfigError:
            return False
        return True

    refused = [(named, group) for group in groups for named in group.members if not takes(group, named.parameter)]
    if not refused or len(refused) == sum(len(group.members) for group in groups):
        return ""
    named, group = refused[0]
    shape = "x".join(map(str, named.parameter.shape)) or "scalar"
    more = f" and {len(refused) - 1} more" if len(refused) > 1 else ""
    return f" (at parameter '{named.name}', {shape}, of group '{group.name}'{more})"


def _check_groups(optim: Call, groups: Sequence[Group], optimizers: Sequence[Optimizer]) -> None:
    """Every parameter is moved by one optimizer, with the settings of its group, and every group has a name."""
    held = [found for optimizer in optimizers for found in optimizer.param_groups]
    counts: dict[nn.Parameter, int] = {}
    for parameter in (parameter for found in held for parameter in found["params"]):
        counts[parameter] = counts.get(parameter, 0) + 1
    for named in (named for group in groups for named in group.members):
        if counts.get(named.parameter) != 1:
            how = "leaves out" if named.parameter not in counts else "takes more than once"
            raise ConfigError(f"optim '{optim.name}' {how} the parameter '{named.name}'")
    if isinstance(optim.target, type):
        for group in groups:
            for key in group.settings.keys() - optimizers[0].defaults.keys():
                name = group.name.partition(".")[0]
                raise ConfigError(f"optim.groups.{name}.{key}: optim '{optim.name}' has one {key} for all parameters")
    names: list[str] = []
    for i, found in enumerate(held):
        name = str(found.setdefault("name", optim.name))
        found["name"] = f"{name}.{i}" if name in names else name
        names.append(found["name"])
