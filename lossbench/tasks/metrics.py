"""Metrics as pure functions on whole splits, on the device; each returns a scalar tensor in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(predicted: Tensor, labels: Tensor) -> Tensor:  # (N,), (N,) -> ()
    """The share of labels that are predicted."""
    return (predicted == labels).double().mean()


def macro_f1(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:  # (N,), (N,) -> ()
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), without those neither there nor predicted."""
    hits = torch.bincount(labels[predicted == labels], minlength=classes).double()
    seen = (torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)).double()
    return (2 * hits / seen)[seen > 0].mean()


def f1(predicted: Tensor, targets: Tensor) -> Tensor:  # (N,), (N,) -> ()
    """F1 of the positives; 0 where there are none and none is predicted."""
    hits = (predicted & targets).sum()
    seen = predicted.sum() + targets.sum()
    return 2 * hits.double() / seen.clamp_min(1)


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:  # (N,), (N,) -> ()
    """Expected calibration error: sum over equal-width bins of share x |accuracy - confidence| (Guo et al. 2017)."""
    confidence = confidence.double()
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = (correct.double() - confidence) / len(confidence)
    return confidence.new_zeros(bins).index_add(0, index, gap).abs().sum()


def auroc(scores: Tensor, targets: Tensor) -> Tensor:  # (N,), (N,) -> ()
    """Area under the ROC curve as a rank statistic, ties shared (Hanley and McNeil 1982); NaN with one class only."""
    ordered = scores.sort().values
    left = torch.searchsorted(ordered, scores, right=False)
    right = torch.searchsorted(ordered, scores, right=True)
    ranks = (left + right + 1).double() / 2
    positives = targets.double().sum()
    negatives = len(targets) - positives
    return (ranks[targets].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def r2(pred: Tensor, target: Tensor) -> Tensor:  # (N, ...), (N, ...) -> ()
    """1 - residual / total sum of squares, the mean over outputs; 1 or 0 for a constant target (as scikit-learn)."""
    residual = (target - pred).square().sum(0)
    total = (target - target.mean(0)).square().sum(0)
    # Where nothing varies: 1 if it is met, else 0; a NaN stays one.
    return torch.where(total > 0, 1 - residual / total, 1 - residual.clamp_max(1).ceil()).mean()
