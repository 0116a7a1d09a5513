"""The tempered softmax, and the logarithm that goes with it, both by way of log p."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEWTON_STEPS = 8


def tempered_log(log_u: Tensor, t: float) -> Tensor:
    """log_t u = (u^(1 - t) - 1) / (1 - t), from log u; log u itself at t = 1."""
    return log_u if t == 1 else torch.expm1((1 - t) * log_u) / (1 - t)


def tempered_log_softmax(logits: Tensor, t: float) -> Tensor:  # (N, C) -> (N, C)
    """log p of p_c = exp_t(x_c - lambda), where lambda makes the sum 1 and exp_t is the inverse of log_t.

    It is log_softmax at t = 1. Below 1, classes far behind have p = 0, here -inf.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if t == 1:
        return logits.log_softmax(1)
    return _log_exp(logits, _Normalizer.apply(logits, t), t)


def _log_exp(logits: Tensor, normalizer: Tensor, t: float) -> Tensor:
    """log of exp_t(x - lambda) = (1 + (1 - t) (x - lambda))_+ ^ (1 / (1 - t))."""
    return ((1 - t) * (logits - normalizer) + 1).relu().log() / (1 - t)


def _normalizer(logits: Tensor, t: float) -> Tensor:  # (N, C) -> (N, 1)
    """lambda, by Newton's method on (sum_c exp_t(x_c - lambda))^(1 - t) = 1.

    The power makes the left side linear in lambda for one class and for equal ones, and of one curvature else, so the
    steps from the largest logit rise to the root without passing it.
    """
    top = logits.amax(1, keepdim=True)
    behind = (t - 1) * (top - logits) + 1
    rise = torch.zeros_like(top)
    for _ in range(NEWTON_STEPS):
        base = (behind + (t - 1) * rise).relu_()
        p = base.pow(1 / (1 - t))
        total = p.sum(1, keepdim=True)
        slope = p.div_(base.clamp_min_(torch.finfo(p.dtype).tiny)).sum(1, keepdim=True)  # of p^t
        rise = rise + (total.pow(t) - total) / ((t - 1) * slope)
    return top + rise


class _Normalizer(torch.autograd.Function):
    """_normalizer with its exact gradient, which is p^t / sum p^t; written with torch's own, it can be taken again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, t: float) -> Tensor:
        return _normalizer(logits, t)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        logits, ctx.t = inputs
        ctx.save_for_backward(logits, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, normalizer = ctx.saved_tensors
        return grad * (ctx.t * _log_exp(logits, normalizer, ctx.t)).softmax(1), None
