"""Cross-entropy against softened labels."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from lossbench.losses.class_ids import split_ignored, true_class
from lossbench.losses.marks import ClassWeight
from lossbench.losses.multiclass import cross_entropy


def label_smoothing(
    logits: Tensor,
    labels: Tensor,
    *,
    smoothing: Annotated[float, "[0, 1)"] = 0.1,
    others_only: bool = False,
    weight: ClassWeight = None,
    ignore_index: int = -100,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy against softened labels, in either of its two usual forms.

    The target is 1 - eps + eps / C on the true class and eps / C on each other (as torch has it), or, with
    `others_only`, 1 - eps on the true class and eps / (C - 1) on each other.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,) of their mean.
    Hyperparameters: `smoothing` eps, with `others_only` at most (C - 1) / C; `others_only`; `weight` and
    `ignore_index` as for cross_entropy.
    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture"; Mueller et al. 2019.
    """
    if others_only:
        # eps' / C = eps / (C - 1) makes torch's form put exactly 1 - eps on the true class.
        others = _others(logits)
        smoothing = smoothing * (others + 1) / others
        if smoothing > 1:
            raise ValueError("others_only needs smoothing <= (C - 1) / C")
    return cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index, label_smoothing=smoothing)


def adaptive_label_smoothing(
    logits: Tensor,
    labels: Tensor,
    *,
    base: Annotated[float, "[0, 1)"] = 0.1,
    min_smoothing: Annotated[float, "[0, 1)"] = 0.01,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Label smoothing by the model's own error: eps = max(min_smoothing, base (1 - p_y)), each example its own.

    The target is 1 - eps on the true class and eps / (C - 1) on each other. eps is detached: the
    gradient is that of cross-entropy against a fixed target, not the derivative of the value.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `base`, eps of an example that the model gets entirely wrong; `min_smoothing`, the least eps;
    `ignore_index`, the id that counts for nothing.
    Source: a simple form of the idea of Krothapalli and Abbott 2020, "Adaptive Label Smoothing", and of Lee et al.
    2022, "Adaptive Label Smoothing with Self-Knowledge in Natural Language Generation".
    """
    surprise, wrong, weights = true_class(logits, labels, ignore_index)
    kept, ids = split_ignored(labels, ignore_index)
    smoothing = (base * wrong.detach()).clamp_min(min_smoothing)
    # The mean of -log p_c over the others is -log p_y plus the mean of x_y - x_c: the softmax cancels.
    lead = (logits.gather(1, ids[:, None]) - logits).sum(1) / _others(logits)
    return (surprise + smoothing * lead).where(kept, 0), weights


def _others(logits: Tensor) -> int:
    """How many classes there are beside the true one, to share what it gives up."""
    others = logits.shape[1] - 1
    if others < 1:
        raise ValueError("smoothing over the other classes needs at least 2 classes")
    return others
