"""What the families share: one value per example, and an exponential that does not overflow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def per_example(values: Tensor) -> Tensor:  # (N, ...) -> (N,)
    """The mean over every dimension but the first."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def exp_linear(x: Tensor, limit: float = 30.0) -> Tensor:
    """exp(x) up to the limit, and above it the line that continues it: once differentiable, and no overflow."""
    # where and relu, not clamp: at the limit itself the gradient comes from the first factor, once.
    return torch.exp(torch.where(x > limit, limit, x)) * (1 + F.relu(x - limit))


def power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0, with a finite gradient at 0 also where 0 < exponent < 1."""
    return base.clamp_min(torch.finfo(base.dtype).tiny) ** exponent
