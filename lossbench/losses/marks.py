"""Marks on losses and on their hyperparameters, which the rest of the program reads from the signature.

- A hyperparameter that may be a word, such as `balanced`, says what the word stands for in the training labels. When
  a run is built, the word is replaced by what the marked function computes from the training field; from Python, pass
  the number, list or tensor itself.
- A hyperparameter that says which quantile a prediction stands for is a `Level` or `Levels`.
- A function without a useful gradient is `not_differentiable`: it measures, and is refused as a loss to train with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
from torch import Tensor

EFFECTIVE_BETA = 0.999

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class FromTraining:
    """Marks a parameter whose words stand for what they compute of a training field: (field, classes) -> Tensor."""

    field: str
    words: Mapping[str, Callable[[Tensor, int], Tensor]]


@dataclass(frozen=True)
class QuantileLevel:
    """Marks a parameter that says which quantile of the target a prediction, or each of several, stands for."""


def not_differentiable(reason: str) -> Callable[[Function], Function]:
    """Mark a function that cannot train a model, and say why."""

    def mark(function: Function) -> Function:
        function.not_differentiable = reason  # type: ignore[attr-defined]
        return function

    return mark


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """How many examples each class has; ignored labels, which are below 0, are none. (N,) -> (C,)"""
    return torch.bincount(labels[labels >= 0], minlength=classes).to(torch.get_default_dtype())


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (C n_c): every class weighs the same in all. (N,) -> (C,); King and Zeng 2001, as scikit-learn."""
    counts = class_counts(labels, classes)
    return counts.sum() / (classes * counts.clamp_min(1))


def effective_weights(labels: Tensor, classes: int) -> Tensor:
    """(1 - beta) / (1 - beta^n_c) with beta 0.999, scaled to a mean of 1. (N,) -> (C,); Cui et al. 2019."""
    counts = class_counts(labels, classes).clamp_min(1).double()
    weights = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**counts)
    return (weights / weights.mean()).to(torch.get_default_dtype())


def negatives_per_positive(targets: Tensor, classes: int) -> Tensor:
    """Negatives / positives, the `pos_weight` that balances 0/1 targets. (N,) -> scalar, (N, K) -> (K,)

    Each is counted as at least 1, so that the ratio is finite and above 0.
    """
    positives = targets.sum(0)
    return (len(targets) - positives).clamp_min(1) / positives.clamp_min(1)


def share_of_negatives(targets: Tensor, classes: int) -> Tensor:
    """1 - share of positives, the focal `alpha` that balances 0/1 targets. (N,) -> scalar, (N, K) -> (K,)"""
    return 1 - targets.mean(0)


_BY_LABELS = FromTraining("labels", {"balanced": class_weights, "effective": effective_weights})
ClassWeight = Annotated[Tensor | Sequence[float] | Literal["balanced", "effective"] | None, _BY_LABELS, "[0, inf)"]
ClassAlpha = Annotated[
    Tensor | float | Sequence[float] | Literal["balanced", "effective"] | None, _BY_LABELS, "[0, inf)"
]
PositiveWeight = Annotated[
    Tensor | float | Sequence[float] | Literal["balanced"] | None,
    FromTraining("targets", {"balanced": negatives_per_positive}),
    "(0, inf)",
]
PositiveAlpha = Annotated[
    Tensor | float | Sequence[float] | Literal["balanced"] | None,
    FromTraining("targets", {"balanced": share_of_negatives}),
    "[0, 1]",
]
Level = Annotated[float, QuantileLevel(), "(0, 1)"]
Levels = Annotated[Sequence[float], QuantileLevel(), "(0, 1)"]
