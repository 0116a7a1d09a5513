"""Losses for classes of very different size. `class_counts` (C,) are the examples of each class in training."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from lossbench.losses.class_ids import per_class, split_ignored, true_class
from lossbench.losses.marks import ClassWeight
from lossbench.losses.multiclass import cross_entropy
from lossbench.losses.shape import at_least_float32


def logit_adjusted(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    tau: Annotated[float, "[0, inf)"] = 1.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy on logits + tau log prior: the raw logits learn what speaks for a class beyond its frequency.

    Shapes: logits (N, C); labels (N,) class ids; class_counts (C,), of which the prior is the share (a class without
    examples counts as one with 1); returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `tau`, how much of the prior to take out (0 is cross-entropy); `ignore_index`, the id that counts
    for nothing.
    Source: Menon et al. 2021, "Long-tail Learning via Logit Adjustment".
    """
    logits = at_least_float32(logits)
    counts = per_class(class_counts, logits).clamp_min(1)
    adjusted = logits + tau * (counts / counts.sum()).log()
    surprise, _, kept = true_class(adjusted, labels, ignore_index)
    return surprise, kept


def balanced_softmax(
    logits: Tensor, labels: Tensor, class_counts: Tensor, *, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Balanced softmax, -log(n_y e^x_y / sum_c n_c e^x_c): cross-entropy on logits + log n, so logit_adjusted at tau 1.

    Shapes: logits x (N, C); labels (N,) class ids; class_counts n (C,); returns (N,) values and the weights (N,), 0
    where ignored.
    Hyperparameters: `ignore_index`, the id that counts for nothing.
    Source: Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition".
    """
    return logit_adjusted(logits, labels, class_counts, tau=1.0, ignore_index=ignore_index)


def ldam(
    logits: Tensor,
    labels: Tensor,
    class_counts: Tensor,
    *,
    max_margin: Annotated[float, "[0, inf)"] = 0.5,
    scale: Annotated[float, "(0, inf)"] = 30.0,
    weight: ClassWeight = None,
    ignore_index: int = -100,
) -> Tensor | tuple[Tensor, Tensor]:
    """Label-distribution-aware margin: cross-entropy on scale x logits after taking a margin m_y from the true one's.

    m_c is proportional to n_c^(-1/4), and max_margin for the rarest class.

    Shapes: logits (N, C), in the paper cosines (normalised features and class vectors); labels (N,) class ids;
    class_counts n (C,), at least 1 each; returns (N,) values and the weights (N,) of their mean.
    Hyperparameters: `max_margin`; `scale`, by default the paper's, for cosines; `weight` per class, as for
    cross_entropy (the paper turns it on late in training); `ignore_index`, the id that counts for nothing.
    Source: Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss".
    """
    logits = at_least_float32(logits)
    counts = per_class(class_counts, logits).clamp_min(1)
    margins = max_margin * (counts / counts.min()) ** -0.25
    ids = split_ignored(labels, ignore_index)[1]
    # In place, on what was just made: no second copy of size N x C, and no one-hot matrix.
    scaled = (scale * logits).scatter_add_(1, ids[:, None], -scale * margins[ids][:, None])
    return cross_entropy(scaled, labels, weight=weight, ignore_index=ignore_index)
