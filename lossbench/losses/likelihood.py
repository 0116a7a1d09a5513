"""Negative log-likelihoods: the model gives the parameters of the target's distribution."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from lossbench.losses.fused import elementwise
from lossbench.losses.shape import EXP_LIMIT, at_least_float32, exp_linear_plain, per_example, same_shape


def poisson_nll(log_rate: Tensor, counts: Tensor, *, full: bool = False) -> Tensor:
    """Poisson negative log-likelihood without its constant, exp(x) - k x with x = log rate and k the count.

    Above x = 30 the exponential continues as a straight line, so that the loss stays finite.

    Shapes: log_rate and counts (N, ...), counts >= 0; returns (N,), the mean over an example's outputs.
    Hyperparameters: `full`, whether to add Stirling's approximation of the constant, log k!, where k > 1; it changes
    the value and not the gradient.
    Source: Nelder and Wedderburn 1972, "Generalized Linear Models"; `torch.nn.functional.poisson_nll_loss`.
    """
    same_shape(log_rate, counts)
    values = _POISSON(at_least_float32(log_rate), counts)
    return per_example(values + _stirling(counts) if full else values)


def gaussian_nll(
    pred: Tensor,
    target: Tensor,
    variance: Tensor,
    *,
    full: bool = False,
    eps: Annotated[float, "(0, inf)"] = 1e-6,
) -> Tensor:
    """Gaussian negative log-likelihood without its constant, (log v + e^2 / v) / 2 with v = max(variance, eps).

    Shapes: pred, target and variance (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `full`, whether to add the constant log(2 pi) / 2; `eps`, the smallest variance, in squared units
    of the (standardised) target. As in torch, a variance below it still gets the gradient at eps, and so can grow.
    Source: Nix and Weigend 1994, "Estimating the Mean and Variance of the Target Probability Distribution";
    `torch.nn.functional.gaussian_nll_loss`, whose check of the variance's sign is left out: it stops vmap.
    """
    same_shape(pred, target, variance)
    bounded = variance.clone()
    with torch.no_grad():
        bounded.clamp_min_(eps)
    values = (bounded.log() + (pred - target).square() / bounded) / 2
    return per_example(values + math.log(2 * math.pi) / 2 if full else values)


_POISSON = elementwise(lambda x, k: exp_linear_plain(x).sub_(k * x), lambda x, k: x.clamp_max(EXP_LIMIT).exp() - k)


def _stirling(counts: Tensor) -> Tensor:
    """k log k - k + log(2 pi k) / 2, close to log k!, and 0 up to k = 1, as torch has it."""
    k = counts.clamp_min(1)
    return torch.where(counts > 1, k * k.log() - k + (2 * math.pi * k).log() / 2, 0)
