"""Losses as pure functions: fields in, one unreduced value per example out; hyperparameters are keyword-only.

A function returns its values (N,), or a pair (values, weights) where its mean is a weighted one:
sum(values) / sum(weights). Every one is usable in any training loop.
"""

from lossbench.losses.adaptive import AdaptiveRobust
from lossbench.losses.binary import bce, binary_focal
from lossbench.losses.likelihood import gaussian_nll, poisson_nll
from lossbench.losses.multiclass import cross_entropy, focal, label_smoothing
from lossbench.losses.quantiles import multi_quantile, quantile
from lossbench.losses.regression import epsilon_insensitive, huber, log_cosh, mae, mse, mse_mae, smooth_l1

__all__ = [
    "AdaptiveRobust",
    "bce",
    "binary_focal",
    "cross_entropy",
    "epsilon_insensitive",
    "focal",
    "gaussian_nll",
    "huber",
    "label_smoothing",
    "log_cosh",
    "mae",
    "mse",
    "mse_mae",
    "multi_quantile",
    "poisson_nll",
    "quantile",
    "smooth_l1",
]
