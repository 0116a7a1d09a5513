"""Losses on real-valued targets. `pred` and `target` have the same shape, (N,) or (N, ...)."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.shape import per_example


def mse(pred: Tensor, target: Tensor) -> Tensor:  # (N, ...), (N, ...) -> (N,)
    """Squared error, e^2 with e = pred - target.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Source: Gauss 1809; `torch.nn.functional.mse_loss`.
    """
    return per_example(F.mse_loss(pred, target, reduction="none"))


def mae(pred: Tensor, target: Tensor) -> Tensor:  # (N, ...), (N, ...) -> (N,)
    """Absolute error, |e| with e = pred - target.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Source: Laplace 1774; `torch.nn.functional.l1_loss`.
    """
    return per_example(F.l1_loss(pred, target, reduction="none"))


def huber(pred: Tensor, target: Tensor, *, delta: Annotated[float, "(0, inf)"] = 1.0) -> Tensor:
    """Squared error near zero and absolute error far out: e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2).

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `delta`, the error at which it turns linear, in the target's (standardised) units. A larger
    delta is closer to half the squared error. Huber(delta) = delta x SmoothL1(beta=delta).
    Source: Huber 1964, "Robust Estimation of a Location Parameter"; `torch.nn.functional.huber_loss`.
    """
    return per_example(F.huber_loss(pred, target, delta=delta, reduction="none"))
