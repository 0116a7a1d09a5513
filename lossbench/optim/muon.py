"""Muon for the matrices of a network, AdamW for all else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

from lossbench.errors import ConfigError

_OWN = ("lr", "weight_decay", "momentum", "nesterov", "ns_steps", "eps", "adjust_lr_fn")  # of Muon's groups
_FOLLOWS = ("lr", "weight_decay")  # what AdamW takes from Muon where it has none of its own


def muon(
    params: Sequence[Mapping[str, Any]],
    embeddings: Collection[Tensor] = (),
    *,
    lr: Annotated[float, "(0, inf)"] = 0.001,
    weight_decay: Annotated[float, "[0, inf)"] = 0.1,
    momentum: Annotated[float, "[0, 1)"] = 0.95,
    nesterov: bool = True,
    ns_steps: Annotated[int, "[1, 99]"] = 5,
    eps: Annotated[float, "(0, inf)"] = 1e-7,
    adjust_lr_fn: Literal["original", "match_rms_adamw", "spectral_unclamped"] = "match_rms_adamw",
    adamw_lr: Annotated[float | None, "(0, inf)", "nothing would be learned"] = None,
    adamw_weight_decay: Annotated[float | None, "[0, inf)"] = None,
    adamw_betas: Annotated[tuple[float, float], "[0, 1)"] = (0.9, 0.999),
    adamw_eps: Annotated[float, "[0, inf)"] = 1e-8,
) -> list[Optimizer]:
    """torch.optim.Muon on the matrices, torch.optim.AdamW (fused) on the other parameters.

    A matrix is a parameter of two dimensions, (outputs, inputs), that is no embedding: the weight of a linear layer.
    The filters of convolutions have four dimensions and go to AdamW, as biases and norms do. Of each parameter group
    NAME the matrices are the group NAME, and what goes to AdamW is NAME.adamw.

    Raises:
        ConfigError: there is no matrix.
    """
    common: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov}
    common |= {"ns_steps": ns_steps, "eps": eps, "adjust_lr_fn": adjust_lr_fn}
    of_adamw: dict[str, Any] = {
        "lr": adamw_lr,
        "weight_decay": adamw_weight_decay,
        "betas": adamw_betas,
        "eps": adamw_eps,
    }
    excluded = set(map(id, embeddings))
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for group in params:
        for inside, found in ((True, matrices), (False, others)):
            members = [p for p in group["params"] if (p.dim() == 2 and id(p) not in excluded) is inside]
            if not members:
                continue
            settings = _of_muon(common, group) if inside else _of_adamw(common, of_adamw, group)
            name = group["name"] if inside else f"{group['name']}.adamw"
            found.append({"params": members, "name": name, **settings})
    if not matrices:
        raise ConfigError("optim 'muon' is for matrices, and no trained parameter is one: choose optim=adamw")
    return [Muon(matrices), *([AdamW(others, fused=True)] if others else [])]


def _of_muon(common: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: group.get(key, common[key]) for key in _OWN}


def _of_adamw(common: Mapping[str, Any], of_adamw: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """AdamW's settings in a group: the group's own, then the optimizer's own, then Muon's in that order."""
    settings = {key: group.get(f"adamw_{key}", value) for key, value in of_adamw.items()}
    for key in _FOLLOWS:
        if group.get(f"adamw_{key}") is None and (key in group or of_adamw[key] is None):
            settings[key] = group.get(key, common[key])
    return settings
