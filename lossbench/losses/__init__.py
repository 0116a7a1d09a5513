"""Losses as pure functions: fields in, one unreduced value per example out; hyperparameters are keyword-only.

A function returns its values (N,), or a pair (values, weights) where its mean is a weighted one:
sum(values) / sum(weights). Every one is usable in any training loop.
"""

from lossbench.losses.adaptive import AdaptiveRobust, adaptive_robust
from lossbench.losses.binary import bce, bce_probs, binary_focal
from lossbench.losses.combined import Uncertainty, l1, l2
from lossbench.losses.likelihood import gaussian_nll, poisson_nll
from lossbench.losses.long_tail import balanced_softmax, ldam, logit_adjusted
from lossbench.losses.margin import exponential, hinge, modified_huber, soft_margin, squared_hinge
from lossbench.losses.multiclass import (
    ce_focal,
    cross_entropy,
    focal,
    kl_div,
    mse_onehot,
    multi_margin,
    nll,
    soft_cross_entropy,
    zero_one,
)
from lossbench.losses.multilabel import asymmetric, multilabel_margin, multilabel_soft_margin
from lossbench.losses.noisy import bi_tempered, generalized_ce, poly1, symmetric_ce, taylor
from lossbench.losses.quantiles import multi_quantile, quantile
from lossbench.losses.regression import epsilon_insensitive, huber, log_cosh, mae, mse, mse_mae, smooth_l1
from lossbench.losses.robust import GroupDRO, chi2_dro, cvar
from lossbench.losses.smoothing import adaptive_label_smoothing, label_smoothing

__all__ = [
    "AdaptiveRobust",
    "GroupDRO",
    "Uncertainty",
    "adaptive_label_smoothing",
    "adaptive_robust",
    "asymmetric",
    "balanced_softmax",
    "bce",
    "bce_probs",
    "bi_tempered",
    "binary_focal",
    "ce_focal",
    "chi2_dro",
    "cross_entropy",
    "cvar",
    "epsilon_insensitive",
    "exponential",
    "focal",
    "gaussian_nll",
    "generalized_ce",
    "hinge",
    "huber",
    "kl_div",
    "l1",
    "l2",
    "label_smoothing",
    "ldam",
    "log_cosh",
    "logit_adjusted",
    "mae",
    "modified_huber",
    "mse",
    "mse_mae",
    "mse_onehot",
    "multi_margin",
    "multi_quantile",
    "multilabel_margin",
    "multilabel_soft_margin",
    "nll",
    "poisson_nll",
    "poly1",
    "quantile",
    "smooth_l1",
    "soft_cross_entropy",
    "soft_margin",
    "squared_hinge",
    "symmetric_ce",
    "taylor",
    "zero_one",
]
