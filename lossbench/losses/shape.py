"""What the families share: shapes, types, and functions that stay finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossbench.losses.fused import elementwise

EXP_LIMIT = 30.0


def per_example(values: Tensor) -> Tensor:  # (N, ...) -> (N,)
    """The mean over every dimension but the first."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values


def same_shape(*tensors: Tensor) -> None:
    """What is compared number by number has one shape: (N, 1) against (N,) would become (N, N)."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1:
        raise ValueError(f"the shapes must be the same, got {' and '.join(map(str, shapes))}")


def beside(numbers: Any, scores: Tensor) -> Tensor:
    """A number, list or tensor as a tensor of the scores' type and device, for which the host does not wait."""
    return torch.as_tensor(numbers, dtype=scores.dtype).to(scores.device, non_blocking=True)


def at_least_float32(scores: Tensor) -> Tensor:
    """As torch's own losses do under autocast: half precision cannot hold what a loss adds up."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def exp_linear(x: Tensor, limit: float = EXP_LIMIT) -> Tensor:
    """exp(x) up to the limit, and above it the line that continues it: once differentiable, and no overflow."""
    function = elementwise(lambda x: exp_linear_plain(x, limit), lambda x: x.clamp_max(limit).exp())
    return function(at_least_float32(x))


def exp_linear_plain(x: Tensor, limit: float = EXP_LIMIT) -> Tensor:
    """The same in torch's own operations, for losses that are more than it."""
    near = x.clamp_max(limit)
    top = near.exp()
    return torch.addcmul(top, top, x - near)


def power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0, with finite first and second derivatives at 0 whatever the exponent >= 0 is."""
    finite = exponent >= 2 or exponent in (0, 1)
    return base**exponent if finite else base.clamp_min(torch.finfo(base.dtype).eps ** 2) ** exponent
