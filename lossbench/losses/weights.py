"""Hyperparameters that may be the word `balanced`, and what it stands for in the training labels.

A loss marks such a parameter with one of the annotations below. When a run is built, the word is replaced by what
the marked function computes from the training field; from Python, pass the number, list or tensor itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class FromTraining:
    """Marks a parameter whose word `balanced` means `compute(field, classes)` on the training split."""

    field: str
    compute: Callable[[Tensor, int], Tensor]


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (C n_c): every class weighs the same in all. (N,) -> (C,); King and Zeng 2001, as scikit-learn."""
    seen = labels[labels >= 0]  # ignored labels are below 0
    counts = torch.bincount(seen, minlength=classes).to(torch.get_default_dtype())
    return seen.numel() / (classes * counts.clamp_min(1))


def negatives_per_positive(targets: Tensor, classes: int) -> Tensor:
    """Negatives / positives, the `pos_weight` that balances 0/1 targets. (N, ...) -> scalar."""
    positives = targets.sum()
    return (targets.numel() - positives) / positives.clamp_min(1)


def share_of_negatives(targets: Tensor, classes: int) -> Tensor:
    """1 - share of positives, the focal `alpha` that balances 0/1 targets. (N, ...) -> scalar."""
    return 1 - targets.mean()


ClassWeight = Annotated[
    Tensor | Sequence[float] | Literal["balanced"] | None, FromTraining("labels", class_weights), "[0, inf)"
]
ClassAlpha = Annotated[
    Tensor | float | Sequence[float] | Literal["balanced"] | None, FromTraining("labels", class_weights), "[0, inf)"
]
PositiveWeight = Annotated[
    Tensor | float | Sequence[float] | Literal["balanced"] | None,
    FromTraining("targets", negatives_per_positive),
    "(0, inf)",
]
PositiveAlpha = Annotated[
    Tensor | float | Literal["balanced"] | None, FromTraining("targets", share_of_negatives), "[0, 1]"
]
