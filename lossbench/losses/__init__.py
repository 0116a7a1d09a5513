"""Losses as pure functions: fields in, one unreduced value per example out; hyperparameters are keyword-only.

A function returns its values (N,), or a pair (values, weights) where its mean is a weighted one:
sum(values) / sum(weights). Every one is usable in any training loop.
"""

from lossbench.losses.binary import bce, binary_focal
from lossbench.losses.multiclass import cross_entropy, focal, label_smoothing
from lossbench.losses.regression import huber, mae, mse

__all__ = [
    "bce",
    "binary_focal",
    "cross_entropy",
    "focal",
    "huber",
    "label_smoothing",
    "mae",
    "mse",
]
