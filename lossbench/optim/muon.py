"""Muon for the matrices of a network, AdamW for all else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from lossbench.errors import ConfigError

_OWN = ("lr", "momentum", "nesterov", "ns_steps", "eps", "adjust_lr_fn")  # Muon's; weight decay is for both


def muon(
    params: Sequence[Mapping[str, Any]],
    embeddings: Collection[Tensor] = (),
    *,
    lr: Annotated[float, "(0, inf)"] = 0.02,
    weight_decay: Annotated[float, "[0, inf)"] = 0.1,
    momentum: Annotated[float, "[0, 1)"] = 0.95,
    nesterov: bool = True,
    ns_steps: Annotated[int, "[1, 99]"] = 5,
    eps: Annotated[float, "(0, inf)"] = 1e-7,
    adjust_lr_fn: Literal["original", "match_rms_adamw"] = "original",
    adamw_lr: Annotated[float | None, "(0, inf)", "nothing would be learned"] = 0.001,
    adamw_weight_decay: Annotated[float | None, "[0, inf)"] = None,
    adamw_betas: Annotated[tuple[float, float], "[0, 1)"] = (0.9, 0.999),
    adamw_eps: Annotated[float, "[0, inf)"] = 1e-8,
) -> list[Optimizer]:
    """torch.optim.Muon on the matrices, torch.optim.AdamW (fused) on the other parameters.

    A matrix is a parameter of two dimensions that is no embedding: the weight of a linear layer. The filters of
    convolutions have four dimensions and go to AdamW, as biases and norms do. Of each parameter group NAME the
    matrices are the group NAME, and what goes to AdamW is NAME.adamw. A group's weight_decay is for both, its lr for
    the matrices and its adamw_lr for the others.

    Raises:
        ConfigError: there is no matrix, or a group has an option that is for none of its parameters.
    """
    of_muon: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
    of_muon |= {"ns_steps": ns_steps, "eps": eps, "adjust_lr_fn": adjust_lr_fn}
    of_adamw: dict[str, Any] = {"lr": adamw_lr, "betas": adamw_betas, "eps": adamw_eps}
    of_adamw["weight_decay"] = adamw_weight_decay
    excluded = set(map(id, embeddings))
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in params:
        parts: tuple[list[Tensor], list[Tensor]] = [], []
        for parameter in group["params"]:
            parts[parameter.dim() != 2 or id(parameter) in excluded].append(parameter)
        if parts[0]:
            own = {key: group.get(key, value) for key, value in of_muon.items()}
            matrices.append({"params": parts[0], "name": group["name"], **own})
        if parts[1]:
            own = {key: group.get(f"adamw_{key}", value) for key, value in of_adamw.items()}
            own["lr"] = _first(own["lr"], group.get("lr"), lr)
            decays = (group.get("adamw_weight_decay"), group.get("weight_decay"), adamw_weight_decay)
            own["weight_decay"] = _first(*decays, weight_decay)
            others.append({"params": parts[1], "name": f"{group['name']}.adamw", **own})
    _refuse_idle(params, matrices, others, follows=adamw_lr is None)
    if not matrices:
        raise ConfigError("optim 'muon' is for matrices, and no trained parameter is one: choose optim=adamw")
    return [Muon(matrices), *([AdamW(others, fused=True)] if others else [])]


def _first(*values: Any) -> Any:
    """The first that is not null."""
    return next(value for value in values if value is not None)


def _refuse_idle(
    params: Sequence[Mapping[str, Any]],
    matrices: Sequence[Mapping[str, Any]],
    others: Sequence[Mapping[str, Any]],
    *,
    follows: bool,
) -> None:
    """Refuse an option that is for none of a rule's parameters, those that are spared weight decay included.

    Args:
        follows: AdamW's rate is the matrices' where it has none of its own.
    """
    with_matrices, with_others = ({_rule(group) for group in found} for found in (matrices, others))
    for group in params:
        rule = _rule(group)
        own = [key for key in _OWN if key in group and not (key == "lr" and follows)]
        of_adamw = [key for key in group if key.startswith("adamw_")]
        if own and rule not in with_matrices:
            raise ConfigError(f"optim.groups.{rule}.{own[0]} is for matrices, and this group has none")
        if of_adamw and rule not in with_others:
            raise ConfigError(
                f"optim.groups.{rule}.{of_adamw[0]} is for what is no matrix, and this group has matrices only"
            )


def _rule(group: Mapping[str, Any]) -> str:
    """The name of the rule that a group comes from: of `head.no_decay.adamw`, `head`."""
    return str(group["name"]).partition(".")[0]
