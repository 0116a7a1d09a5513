"""Losses as pure functions: fields in, one unreduced value per example out; hyperparameters are keyword-only.

A function returns its values (N,), or a pair (values, weights) where its mean is a weighted one:
sum(values) / sum(weights). Every one is usable in any training loop.
"""

from lossbench.losses.adaptive import AdaptiveRobust
from lossbench.losses.binary import bce, bce_probs, binary_focal
from lossbench.losses.likelihood import gaussian_nll, poisson_nll
from lossbench.losses.margin import exponential, hinge, modified_huber, soft_margin, squared_hinge
from lossbench.losses.multiclass import cross_entropy, focal, label_smoothing
from lossbench.losses.multilabel import asymmetric, multilabel_margin, multilabel_soft_margin
from lossbench.losses.quantiles import multi_quantile, quantile
from lossbench.losses.regression import epsilon_insensitive, huber, log_cosh, mae, mse, mse_mae, smooth_l1
from lossbench.losses.robust import GroupDRO, chi2_dro, cvar

__all__ = [
    "AdaptiveRobust",
    "GroupDRO",
    "asymmetric",
    "bce",
    "bce_probs",
    "binary_focal",
    "chi2_dro",
    "cross_entropy",
    "cvar",
    "epsilon_insensitive",
    "exponential",
    "focal",
    "gaussian_nll",
    "hinge",
    "huber",
    "label_smoothing",
    "log_cosh",
    "mae",
    "modified_huber",
    "mse",
    "mse_mae",
    "multi_quantile",
    "multilabel_margin",
    "multilabel_soft_margin",
    "poisson_nll",
    "quantile",
    "smooth_l1",
    "soft_margin",
    "squared_hinge",
]
