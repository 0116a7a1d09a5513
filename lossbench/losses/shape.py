"""What the families share: one value per example, and an exponential that does not overflow."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbench.losses.fused import elementwise

EXP_LIMIT = 30.0


def per_example(values: Tensor) -> Tensor:  # (N, ...) -> (N,)
    """The mean over every dimension but the first."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def at_least_float32(scores: Tensor) -> Tensor:
    """As torch's own losses do under autocast: half precision cannot hold what a loss adds up."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def exp_linear(x: Tensor, limit: float = EXP_LIMIT) -> Tensor:
    """exp(x) up to the limit, and above it the line that continues it: once differentiable, and no overflow."""
    return elementwise(lambda x: exp_linear_plain(x, limit), lambda x: x.clamp_max(limit).exp())(x)


def exp_linear_plain(x: Tensor, limit: float = EXP_LIMIT) -> Tensor:
    """The same in torch's own operations, for losses that are more than it."""
    near = x.clamp_max(limit)
    return (x - near).add_(1).mul_(near.exp_())


def power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0, with a finite gradient at 0 also where 0 < exponent < 1."""
    return base**exponent if exponent >= 1 else base.clamp_min(torch.finfo(base.dtype).tiny) ** exponent
