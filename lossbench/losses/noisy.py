"""Losses that trust a label less than cross-entropy does, for training sets in which some labels are wrong.

All but bi_tempered see the logits through the probability p_y of the true class alone.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from lossbench.losses.class_ids import split_ignored, true_class
from lossbench.losses.tempered import tempered_log, tempered_log_softmax


def poly1(
    logits: Tensor, labels: Tensor, *, epsilon: Annotated[float, "[-1, inf)"] = 1.0, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Poly-1, CE + epsilon (1 - p_y): cross-entropy with its first polynomial coefficient changed.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `epsilon`, what is added to the coefficient 1 of 1 - p_y in -log p_y = sum_k (1 - p_y)^k / k
    (0 is cross-entropy); `ignore_index`, the id that counts for nothing.
    Source: Leng et al. 2022, "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions".
    """
    surprise, wrong, kept = true_class(logits, labels, ignore_index)
    return surprise + epsilon * wrong, kept


def generalized_ce(
    logits: Tensor, labels: Tensor, *, q: Annotated[float, "[0, 1]"] = 0.7, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Generalized cross-entropy, (1 - p_y^q) / q: between cross-entropy (q to 0) and the absolute error (q = 1).

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `q`, how much less than cross-entropy it pulls on examples of small p_y: by the factor p_y^q (0 is
    cross-entropy; 1 is 1 - p_y, half the absolute error against the one-hot label); `ignore_index`, the id that
    counts for nothing.
    Source: Zhang and Sabuncu 2018, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", without its truncation.
    """
    surprise, _, kept = true_class(logits, labels, ignore_index)
    return surprise if q == 0 else -torch.expm1(-q * surprise) / q, kept


def symmetric_ce(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: Annotated[float, "[0, inf)"] = 0.1,
    beta: Annotated[float, "[0, inf)"] = 1.0,
    log_zero: Annotated[float, "(-inf, 0)"] = -4.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy, alpha CE + beta RCE, where reverse cross-entropy is -sum_c p_c log q_c = -A (1 - p_y).

    q is the one-hot label and A stands for log 0.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `alpha` and `beta`, the coefficients of the two parts, by default the paper's for CIFAR-10;
    `log_zero` A (the authors' code has log 1e-4 = -9.21); `ignore_index`, the id that counts for nothing.
    Source: Wang et al. 2019, "Symmetric Cross Entropy for Robust Learning with Noisy Labels".
    """
    surprise, wrong, kept = true_class(logits, labels, ignore_index)
    return alpha * surprise - beta * log_zero * wrong, kept


def taylor(
    logits: Tensor,
    labels: Tensor,
    *,
    c1: Annotated[float, "(-inf, inf)"] = 1.0,
    c2: Annotated[float, "(-inf, inf)"] = 1 / 2,
    c3: Annotated[float, "(-inf, inf)"] = 1 / 3,
    c4: Annotated[float, "(-inf, inf)"] = 1 / 4,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """A polynomial c1 w + c2 w^2 + c3 w^3 + c4 w^4 in w = 1 - p_y, whose coefficients a sweep can search.

    The coefficients 1, 1/2, 1/3, 1/4 are the first of cross-entropy's own series -log p_y = sum_k w^k / k.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `c1`, `c2`, `c3`, `c4` (1, 0, 0, 0 is 1 - p_y; more terms come nearer to cross-entropy, and their
    sum bounds the loss); `ignore_index`, the id that counts for nothing.
    Source: Feng et al. 2020, "Can Cross Entropy Loss Be Robust to Label Noise?", for the series cut short; Gonzalez
    and Miikkulainen 2021, "Optimizing Loss Functions Through Multivariate Taylor Polynomial Parameterization", for the
    search.
    """
    _, wrong, kept = true_class(logits, labels, ignore_index)
    return wrong * (c1 + wrong * (c2 + wrong * (c3 + wrong * c4))), kept


def bi_tempered(
    logits: Tensor,
    labels: Tensor,
    *,
    t1: Annotated[float, "[0, 1]"] = 0.8,
    t2: Annotated[float, "[0.2, 5]"] = 1.2,
    label_smoothing: Annotated[float, "[0, 1)"] = 0.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Bi-tempered logistic loss: cross-entropy with a bounded logarithm and a softmax with heavy tails.

    The value is sum_c q_c (log_t1 q_c - log_t1 p_c) - (q_c^(2 - t1) - p_c^(2 - t1)) / (2 - t1), where q is the label,
    p_c = exp_t2(x_c - lambda) sums to 1, log_t u = (u^(1 - t) - 1) / (1 - t) and exp_t is its inverse.

    Shapes: logits x (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `t1`, which bounds the loss by 1 / (1 - t1) (1: no bound); `t2`, the tail of
    the softmax (above 1 heavier than exponential; below 1 far classes get exactly 0, so keep t1 below 1 there);
    t1 = t2 = 1 is cross-entropy; `label_smoothing` eps, which spreads eps / C over all classes as torch does (the
    authors' code: eps / (C - 1) over the others); `ignore_index`, the id that counts for nothing.
    Source: Amid et al. 2019, "Robust Bi-Tempered Logistic Loss Based on Bregman Divergences".
    """
    kept, ids = split_ignored(labels, ignore_index)
    log_p = tempered_log_softmax(logits, t2)
    match = tempered_log(log_p.gather(1, ids[:, None]).squeeze(1), t1)
    if label_smoothing > 0:
        match = (1 - label_smoothing) * match + label_smoothing * tempered_log(log_p, t1).mean(1)
    spread = ((2 - t1) * log_p).exp().sum(1) / (2 - t1)
    values = spread - match - _spread_less_match(label_smoothing, logits.shape[1], t1)
    return values.where(kept, 0), kept.to(values.dtype)


def _spread_less_match(smoothing: float, classes: int, t1: float) -> float:
    """What bi_tempered takes off so that it is 0 where the probabilities are the smoothed label's own."""
    other = smoothing / classes
    true = 1 - smoothing + other
    squares: float = true ** (2 - t1) + (classes - 1) * other ** (2 - t1)
    if t1 == 1:
        match = sum(n * q * math.log(q) for q, n in ((true, 1), (other, classes - 1)) if q > 0)
    else:
        match = (squares - 1) / (1 - t1)
    return squares / (2 - t1) - match
