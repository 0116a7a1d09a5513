"""Losses on real-valued targets. `pred` and `target` have the same shape, (N,) or (N, ...)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.fused import elementwise
from lossbench.losses.shape import per_example, same_shape

_FAR = 20.0  # from here on log(cosh(e)) is |e| - log 2 to the last digit of float64


def mse(pred: Tensor, target: Tensor) -> Tensor:  # (N, ...), (N, ...) -> (N,)
    """Squared error, e^2 with e = pred - target.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Source: Gauss 1809; `torch.nn.functional.mse_loss`.
    """
    same_shape(pred, target)
    return per_example(F.mse_loss(pred, target, reduction="none"))


def mae(pred: Tensor, target: Tensor) -> Tensor:  # (N, ...), (N, ...) -> (N,)
    """Absolute error, |e| with e = pred - target.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Source: Laplace 1774; `torch.nn.functional.l1_loss`.
    """
    same_shape(pred, target)
    return per_example(F.l1_loss(pred, target, reduction="none"))


def huber(pred: Tensor, target: Tensor, *, delta: Annotated[float, "(0, inf)"] = 1.0) -> Tensor:
    """Squared error near zero and absolute error far out: e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2).

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `delta`, the error at which it turns linear, in the target's (standardised) units. A larger
    delta is closer to half the squared error. Huber(delta) = delta x SmoothL1(beta=delta).
    Source: Huber 1964, "Robust Estimation of a Location Parameter"; `torch.nn.functional.huber_loss`.
    """
    same_shape(pred, target)
    return per_example(F.huber_loss(pred, target, delta=delta, reduction="none"))


def smooth_l1(pred: Tensor, target: Tensor, *, beta: Annotated[float, "[0, inf)"] = 1.0) -> Tensor:
    """Absolute error with its corner rounded off: e^2 / (2 beta) where |e| < beta, else |e| - beta / 2.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `beta`, the error below which it is squared; 0 is the absolute error. Its slope far out is 1
    whatever beta is: Huber(delta) = delta x SmoothL1(beta=delta), and the two are equal at 1 only.
    Source: Girshick 2015, "Fast R-CNN"; `torch.nn.functional.smooth_l1_loss`.
    """
    same_shape(pred, target)
    return per_example(F.smooth_l1_loss(pred, target, beta=beta, reduction="none"))


def log_cosh(pred: Tensor, target: Tensor) -> Tensor:  # (N, ...), (N, ...) -> (N,)
    """A smooth absolute error, log(cosh(e)) = e + softplus(-2 e) - log 2: e^2 / 2 near zero, |e| - log 2 far out.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Source: Green 1990, "Bayesian Reconstructions from Emission Tomography Data Using a Modified EM Algorithm".
    """
    same_shape(pred, target)
    return per_example(_LOG_COSH(pred - target))


def _log_cosh(error: Tensor) -> Tensor:
    # cosh(e) - 1 = -expm1(e) expm1(-e) / 2: unlike softplus(-2 e) - log 2, nothing cancels where e is small.
    size = error.abs()
    inside = size < _FAR
    near = error.where(inside, 0)
    return (near.expm1() * (-near).expm1() / -2).log1p().where(inside, size - math.log(2))


def _log_cosh_in_place(error: Tensor) -> Tensor:
    # As expm1(-|e|)^2 / (2 exp(-|e|)), which needs one number of its own.
    size = error.abs()
    far = (size - _FAR).relu_()
    fall = size.clamp_max_(_FAR).neg_()
    return fall.expm1().square_().div_(fall.exp_().mul_(2)).log1p_().add_(far)


_LOG_COSH = elementwise(_log_cosh, torch.tanh, _log_cosh_in_place)


def mse_mae(
    pred: Tensor,
    target: Tensor,
    *,
    mse_weight: Annotated[float, "[0, inf)"] = 0.7,
    mae_weight: Annotated[float, "[0, inf)"] = 0.3,
) -> Tensor:
    """A weighted sum of the squared and the absolute error, a e^2 + b |e| with e = pred - target.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `mse_weight` a and `mae_weight` b. The squared part rules where |e| > b / a.
    Source: `torch.nn.functional.mse_loss` and `torch.nn.functional.l1_loss`.
    """
    return mse_weight * mse(pred, target) + mae_weight * mae(pred, target)


def epsilon_insensitive(
    pred: Tensor,
    target: Tensor,
    *,
    epsilon: Annotated[float, "[0, inf)"] = 0.1,
    squared: bool = False,
) -> Tensor:
    """Absolute error beyond a margin, max(0, |e| - epsilon), or its square: errors within the margin cost nothing.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `epsilon`, the margin, in the target's (standardised) units; `squared`, whether the excess is
    squared.
    Source: Drucker et al. 1997, "Support Vector Regression Machines"; as in scikit-learn's `SGDRegressor`.
    """
    same_shape(pred, target)
    excess = F.relu((pred - target).abs() - epsilon)
    return per_example(excess.square() if squared else excess)
