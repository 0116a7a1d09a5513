"""From a loss that fits its data to what the engine minimises."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossbench.data import Data
from lossbench.engine import Objective, Part
from lossbench.engine.compose import robust
from lossbench.engine.course import Course, Moving, standing
from lossbench.engine.objective import Piece, Reduction
from lossbench.errors import ConfigError
from lossbench.loss_config import Fit, words
from lossbench.signatures import parameters
from lossbench.targets import Call, make


def build_objective(
    fit: Fit, data: Data, model: nn.Module, device: torch.device, *, reduction: Reduction, steps: int
) -> Objective:
    """The loss with its hyperparameters bound; words such as `balanced` become what the training labels say.

    Args:
        steps: of the whole run, for what moves over it.

    Raises:
        ConfigError: hyperparameters that do not go with the data or with each other.
    """
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    return Objective(_pieces(fit, data, device, steps), reduction, weights)


def may_be_empty(objective: Objective, data: Data) -> bool:
    """Whether an example may count for nothing: its own weight is 0, or its label's is, or its label is ignored."""
    labels, weight = data.train.target, data.train.weight
    if weight is not None and bool((weight == 0).any()):
        return True
    for leaf in (leaf for part in objective.parts for leaf in part.leaves()):
        settings = getattr(standing(leaf.function), "keywords", {})
        by_label, ignored = settings.get("weight"), settings.get("ignore_index")
        if isinstance(by_label, Tensor) and bool((by_label == 0).any()):
            return True
        if ignored is not None and bool((labels == ignored).any()):
            return True
    return False


def _pieces(fit: Fit, data: Data, device: torch.device, steps: int) -> list[Piece]:
    terms = {key: _pieces(term, data, device, steps) for key, term in fit.terms.items()}
    values = _values(fit, data, device)
    if fit.kind == "composed":
        found: list[Piece] = make("loss", Call(fit.name, functools.partial(fit.call.target, terms), values))
        for piece in found:
            for module in (leaf.function for leaf in piece.leaves()):
                if isinstance(module, nn.Module):
                    module.to(device)
        return found
    function = _function(fit, values, data, device, steps)
    if fit.kind == "robust":
        return robust(terms, fit.name, function, fit.needs)
    return [Part(fit.name, 1.0, function, fit.needs)]


def _function(fit: Fit, values: Mapping[str, Any], data: Data, device: torch.device, steps: int) -> Callable[..., Any]:
    """What is called with the fields."""
    target = fit.call.target
    if isinstance(target, type):
        known = {"num_classes": _classes(data), "num_groups": len(data.groups) or _classes(data)}
        filled = {key: count for key, count in known.items() if key in parameters(target)}
        if filled.get("num_groups") == 0:
            raise ConfigError(f"loss '{fit.name}' needs groups, and these data name none: set dataset.group=COLUMN")
        module: nn.Module = make("loss", Call(fit.name, target, values), filled)
        return module.to(device)
    bound = functools.partial(target, **values)
    if not fit.courses:
        return bound
    courses = {key: Course.of(ends.start, ends.end, ends.options, steps) for key, ends in fit.courses.items()}
    return Moving(bound, courses, fit.path)


def _values(fit: Fit, data: Data, device: torch.device) -> dict[str, Any]:
    """The hyperparameters; those by class or label are tensors on the device once, and not in every step."""
    values = dict(fit.call.values)
    outputs, target = data.task.outputs, data.train.target
    for key, word in words(fit.call).items():
        value, path = values.get(key), f"{fit.path}.{key}"
        by_class = word.field == "labels"
        labels = target.argmax(1) if by_class and target.dim() > 1 else target
        if isinstance(value, str):
            values[key] = word.words[value](labels, outputs).to(device)
        elif isinstance(value, float):
            values[key] = torch.tensor(value, device=device)
        elif isinstance(value, list):
            if len(value) != outputs:
                one = "class" if by_class else "label"
                raise ConfigError(f"{path} must have one number per {one} ({outputs}), got {len(value)}")
            values[key] = torch.tensor(value, device=device)
            if by_class and not values[key][labels[labels >= 0]].any():
                raise ConfigError(f"{path} is 0 for every training row: nothing would be learned")
    return values


def _classes(data: Data) -> int:
    """How many classes there are to group by; 0 where there are none."""
    return {"multiclass": data.task.outputs, "soft_labels": data.task.outputs, "binary": 2}.get(data.task.name, 0)
