"""Losses whose minimum is a quantile of the target instead of its mean."""

from __future__ import annotations

import torch
from torch import Tensor

from lossbench.losses.marks import Level, Levels
from lossbench.losses.shape import per_example, same_shape


def quantile(pred: Tensor, target: Tensor, *, quantile: Level = 0.5) -> Tensor:
    """Pinball loss, e (q - [e < 0]) with e = target - pred: q e where pred is too low, (1 - q) |e| where too high.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `quantile` q, the share of the targets that is to lie below the prediction. At 0.5 it is half of
    the absolute error, and the prediction is the median.
    Source: Koenker and Bassett 1978, "Regression Quantiles"; equals scikit-learn's `mean_pinball_loss`.
    """
    same_shape(pred, target)
    return per_example(_pinball(target - pred, quantile))


def multi_quantile(pred_quantiles: Tensor, target: Tensor, *, quantiles: Levels = (0.1, 0.5, 0.9)) -> Tensor:
    """The mean of the pinball losses of several quantiles, each with an output of its own.

    Shapes: pred_quantiles (N, Q), target (N,); returns (N,), the mean over the Q quantiles.
    Hyperparameters: `quantiles`, the Q levels, in the order of the outputs. Nothing keeps the outputs from crossing.
    Source: Koenker and Bassett 1978, "Regression Quantiles"; Wen et al. 2017, "A Multi-Horizon Quantile Recurrent
    Forecaster".
    """
    # non_blocking: the host need not wait for these few numbers to reach the device.
    levels = torch.as_tensor(quantiles, dtype=pred_quantiles.dtype).to(pred_quantiles.device, non_blocking=True)
    return _pinball(target[:, None] - pred_quantiles, levels).mean(1)


def _pinball(error: Tensor, level: float | Tensor) -> Tensor:
    return error * (level - (error < 0).to(error.dtype))
