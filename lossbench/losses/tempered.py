"""The tempered softmax, and the logarithm that goes with it, both by way of log p."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lossbench.losses.shape import at_least_float32

NEWTON_STEPS = 8


def tempered_log(log_u: Tensor, t: float) -> Tensor:
    """log_t u = (u^(1 - t) - 1) / (1 - t), from log u; log u itself at t = 1."""
    return log_u if t == 1 else torch.expm1((1 - t) * log_u) / (1 - t)


def tempered_log_softmax(logits: Tensor, t: float) -> Tensor:  # (N, C) -> (N, C)
    """log p of p_c = exp_t(x_c - lambda), where lambda makes the sum 1 and exp_t is the inverse of log_t.

    It is log_softmax at t = 1. Below 1, classes far behind have p = 0, here -inf.
    """
    logits = at_least_float32(logits)
    return logits.log_softmax(1) if t == 1 else _log_p(logits, _Rise.apply(logits, t), t)


def _base(logits: Tensor, rise: Tensor | float, t: float) -> Tensor:
    """1 + (1 - t) (x - lambda), whose power 1 / (1 - t), or 0 where it is negative, is p."""
    behind = logits - logits.amax(1, keepdim=True).detach()  # first, or rise is lost beside a large logit
    return (1 - t) * (behind - rise) + 1


def _log_p(logits: Tensor, rise: Tensor, t: float) -> Tensor:
    base = _base(logits, rise, t)
    if t > 1:
        return base.log() / (1 - t)
    inside = base > 0
    return base.where(inside, 1).log().where(inside, -torch.inf) / (1 - t)


def _rise(logits: Tensor, t: float) -> Tensor:  # (N, C) -> (N, 1)
    """lambda less the largest logit, by Newton's method on (sum_c p_c)^(1 - t) = 1.

    The power makes the left side linear in lambda for one class and for equal ones, and else of one curvature, so the
    steps from the largest logit rise to the root without passing it.
    """
    first = _base(logits, 0.0, t)
    rise = torch.zeros_like(first[:, :1])
    for _ in range(NEWTON_STEPS):
        base = (first + (t - 1) * rise).clamp_min_(torch.finfo(first.dtype).tiny)
        p = base.pow(1 / (1 - t))
        total = p.sum(1, keepdim=True)
        slope = p.div_(base).sum(1, keepdim=True)  # sum of p^t
        rise = rise + (total.pow(t) - total) / ((t - 1) * slope)
    return rise


class _Rise(torch.autograd.Function):
    """_rise with the exact gradient of lambda, p^t / sum p^t, which can itself be differentiated.

    All of lambda's gradient is in the rise, since the largest logit is held fixed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, t: float) -> Tensor:
        return _rise(logits, t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        logits, ctx.t = inputs
        ctx.save_for_backward(logits, output)
        ctx.save_for_forward(logits, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * _slope_of_rise(ctx), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return (tangent * _slope_of_rise(ctx)).sum(1, keepdim=True)


def _slope_of_rise(ctx: Any) -> Tensor:
    logits, rise = ctx.saved_tensors
    slope: Tensor = (ctx.t * _log_p(logits, rise, ctx.t)).softmax(1)
    return slope
