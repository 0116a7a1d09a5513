"""Metrics as pure functions on whole splits, on the device; each is a scalar tensor in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SHOWN_CLASSES = 20  # of more classes, the recall of each would bury the rest


def accuracy(predicted: Tensor, labels: Tensor) -> Tensor:  # (N, ...), (N, ...) -> ()
    """The share of labels that are predicted."""
    return (predicted == labels).double().mean()


class Counts(NamedTuple):
    """How often each class was predicted rightly, predicted, and there. Each (C,)."""

    hits: Tensor
    predicted: Tensor
    there: Tensor

    @classmethod
    def of(cls, predicted: Tensor, labels: Tensor, classes: int) -> Counts:  # (N,), (N,)
        none = torch.zeros(classes, dtype=torch.float64, device=labels.device)
        one = none.new_ones(()).expand(len(labels))
        return cls(
            none.index_add(0, labels, (predicted == labels).double()),
            none.index_add(0, predicted, one),
            none.index_add(0, labels, one),
        )

    def f1(self) -> Tensor:  # (C,)
        """2 TP / (2 TP + FP + FN); NaN where a class is neither there nor predicted."""
        return 2 * self.hits / (self.predicted + self.there)

    def averages(self) -> dict[str, Tensor]:
        """Means over classes, without those of which nothing can be said, and the worst recall."""
        recall = self.hits / self.there
        return {
            "macro_f1": self.f1().nanmean(),
            "balanced_accuracy": recall.nanmean(),
            "worst_recall": recall.nan_to_num(nan=1.0).min(),
        }

    def recalls(self) -> dict[str, Tensor]:
        """Of each class the share that is predicted so; NaN where it is not there."""
        return dict(zip(recall_names(len(self.there)), (self.hits / self.there).unbind(), strict=False))


def recall_names(classes: int) -> list[str]:
    """The names of each class's recall; none for many classes."""
    return [f"recall/{k}" for k in range(classes)] if classes <= SHOWN_CLASSES else []


def macro_f1(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:  # (N,), (N,) -> ()
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), without those neither there nor predicted."""
    return Counts.of(predicted, labels, classes).f1().nanmean()


def f1(predicted: Tensor, targets: Tensor) -> Tensor:  # (N, ...), (N, ...) -> ()
    """F1 of the positives, pooled; 0 where there are none and none is predicted."""
    hits = (predicted & targets).sum()
    seen = predicted.sum() + targets.sum()
    return 2 * hits.double() / seen.clamp_min(1)


def calibration_error(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:  # (N,), (N,) -> ()
    """Expected calibration error: sum over equal-width bins of share x |accuracy - confidence| (Guo et al. 2017)."""
    confidence = confidence.double()
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = (correct.double() - confidence) / len(confidence)
    return confidence.new_zeros(bins).index_add(0, index, gap).abs().sum()


def ranking(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:  # (N,) or (N, K), as many -> (), ()
    """Area under the ROC curve, and average precision, of boolean targets; the means over columns.

    Both from one sort, the examples of a tie taken together. A column without positives, or for the ROC curve
    without negatives, is left out; NaN where none is left. Hanley and McNeil 1982; scikit-learn's
    `average_precision_score` (no interpolation).
    """
    ordered, order = scores.reshape(len(scores), -1).T.sort(-1, descending=True)
    hit = targets.reshape(len(targets), -1).T.gather(1, order)  # (K, N)
    true = hit.cumsum(1).double()
    taken = torch.arange(1, len(scores) + 1, device=scores.device).double()
    false = taken - true
    last = torch.ones_like(hit)  # of a tie
    last[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    true_before, false_before = (_before(count, last) for count in (true, false))
    positives, negatives = true[:, -1], false[:, -1]
    area = ((false - false_before) * (true + true_before) / 2).where(last, 0).sum(1) / (positives * negatives)
    precision = ((true - true_before) * true / taken).where(last, 0).sum(1) / positives
    return area.nanmean(), precision.nanmean()


def _before(count: Tensor, last: Tensor) -> Tensor:  # (K, N), (K, N) -> (K, N)
    """A running count as it was before the tie that each place belongs to, right at the tie's last place."""
    at_ends = count.where(last, 0).cummax(1).values
    return torch.cat([at_ends.new_zeros(len(count), 1), at_ends[:, :-1]], 1)


def r2(pred: Tensor, target: Tensor) -> Tensor:  # (N, ...), (N, ...) -> ()
    """1 - residual / total sum of squares, the mean over outputs; 1 or 0 for a constant target (as scikit-learn)."""
    residual = (target - pred).square().sum(0)
    total = (target - target.mean(0)).square().sum(0)
    # Where nothing varies: 1 if it is met, else 0; a NaN stays one.
    return torch.where(total > 0, 1 - residual / total, 1 - residual.clamp_max(1).ceil()).mean()


def pinball(quantiles: Tensor, target: Tensor, levels: Sequence[float]) -> Tensor:  # (N, Q), (N,) -> ()
    """The mean over levels q of max(q e, (q - 1) e) with e = target - quantile (Koenker and Bassett 1978)."""
    level = torch.tensor(levels, dtype=quantiles.dtype, device=quantiles.device)
    error = target[:, None] - quantiles
    return torch.maximum(level * error, (level - 1) * error).mean()


def interval(quantiles: Tensor, target: Tensor) -> dict[str, Tensor]:  # (N, Q), (N,)
    """The share of targets from the lowest to the highest quantile, and how far these are apart.

    Of a single quantile, the share of targets at or below it, which its level is to be compared with.
    """
    low, high = quantiles[:, 0], quantiles[:, -1]
    if quantiles.shape[1] == 1:
        return {"coverage": (target <= high).double().mean()}
    inside = (low <= target) & (target <= high)
    return {"coverage": inside.double().mean(), "interval_width": (high - low).mean()}


def crossing_rate(quantiles: Tensor) -> Tensor:  # (N, Q) -> ()
    """The share of examples in which some quantile is below one of a lower level."""
    return (quantiles.diff(dim=1) < 0).any(1).double().mean()


def poisson_deviance(log_rate: Tensor, counts: Tensor) -> Tensor:  # (N,), (N,) -> ()
    """The mean of 2 (y log(y / mu) - y + mu), with mu = exp(log_rate)."""
    return 2 * (torch.xlogy(counts, counts) - counts * log_rate - counts + log_rate.exp()).mean()
