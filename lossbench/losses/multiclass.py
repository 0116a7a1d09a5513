"""Losses on one class out of C. `labels` are class ids (N,), `soft_labels` rows (N, C) that sum to 1."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.class_ids import per_class, split_ignored, true_class
from lossbench.losses.fused import Kernel
from lossbench.losses.marks import ClassAlpha, ClassWeight, not_differentiable
from lossbench.losses.shape import at_least_float32, power


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: ClassWeight = None,
    ignore_index: int = -100,
    label_smoothing: Annotated[float, "[0, 1)"] = 0.0,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy, -w_y log p_y with p = softmax(logits).

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,) of their mean: w_y, and 0
    where ignored. As in torch, labels of floating type are soft ones, for soft_cross_entropy.
    Hyperparameters: `weight` per class, a list, `balanced` (n / (C n_c) of the training split) or `effective` (by the
    effective number of its examples); `ignore_index`, the id that counts for nothing; `label_smoothing` eps, which
    spreads eps / C over all classes.
    Source: Good 1952; label smoothing Szegedy et al. 2016; `torch.nn.functional.cross_entropy`.
    """
    if labels.is_floating_point():
        return soft_cross_entropy(logits, labels, weight=weight, label_smoothing=label_smoothing)
    logits = at_least_float32(logits)
    classes = None if weight is None else per_class(weight, logits)
    values = F.cross_entropy(
        logits, labels, weight=classes, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    )
    return _weighted(values, labels, classes, ignore_index)


def soft_cross_entropy(
    logits: Tensor,
    soft_labels: Tensor,
    *,
    weight: ClassWeight = None,
    label_smoothing: Annotated[float, "[0, 1)"] = 0.0,
) -> Tensor:
    """Cross-entropy against soft labels, -sum_c w_c q_c log p_c with p = softmax(logits).

    Shapes: logits (N, C); soft_labels q (N, C), rows that sum to 1; returns (N,), of which torch takes a plain mean.
    Hyperparameters: `weight` w per class, as for cross_entropy; `label_smoothing` eps, which makes q
    (1 - eps) q + eps / C.
    Source: Good 1952; `torch.nn.functional.cross_entropy` with class probabilities.
    """
    logits = at_least_float32(logits)
    classes = None if weight is None else per_class(weight, logits)
    return F.cross_entropy(logits, soft_labels, weight=classes, label_smoothing=label_smoothing, reduction="none")


def nll(
    log_probs: Tensor, labels: Tensor, *, weight: ClassWeight = None, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood, -w_y log p_y, for models that end in a log-softmax.

    Shapes: log_probs (N, C), not probabilities and not logits; labels (N,) class ids; returns (N,) values and the
    weights (N,) of their mean.
    Hyperparameters: `weight` and `ignore_index` as for cross_entropy.
    Source: Fisher 1922; `torch.nn.functional.nll_loss`.
    """
    log_probs = at_least_float32(log_probs)
    classes = None if weight is None else per_class(weight, log_probs)
    values = F.nll_loss(log_probs, labels, weight=classes, ignore_index=ignore_index, reduction="none")
    return _weighted(values, labels, classes, ignore_index)


def kl_div(logits: Tensor, soft_labels: Tensor) -> Tensor:  # (N, C), (N, C) -> (N,)
    """Kullback-Leibler divergence KL(q || p) = sum_c q_c log(q_c / p_c) with p = softmax(logits) and 0 log 0 = 0.

    Shapes: logits (N, C); soft_labels q (N, C), rows that sum to 1; returns (N,), whose mean is torch's `batchmean`.
    Source: Kullback and Leibler 1951; equals `torch.nn.functional.kl_div` on log_softmax(logits).
    """
    # As cross-entropy less entropy: torch's kl_div cannot be stacked by vmap.
    return soft_cross_entropy(logits, soft_labels) + torch.xlogy(soft_labels, soft_labels).sum(1)


def multi_margin(
    logits: Tensor,
    labels: Tensor,
    *,
    p: Literal[1, 2] = 1,
    margin: Annotated[float, "(0, inf)"] = 1.0,
    weight: ClassWeight = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Categorical hinge, w_y / C sum over c != y of max(0, margin - x_y + x_c)^p.

    Shapes: logits x (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `p`, 1 or 2 (squared); `margin`, how far the true class must lead; `weight` per class, as for
    cross_entropy, but as in torch not divided out of the mean; `ignore_index`, the id that counts for nothing.
    Source: Crammer and Singer 2001, summed over classes as Weston and Watkins 1999; equals
    `torch.nn.functional.multi_margin_loss`.
    """
    kept, ids = split_ignored(labels, ignore_index)
    values = _multi_margin(p, margin)(at_least_float32(logits), ids)
    if weight is not None:
        values = values * per_class(weight, values)[ids]
    return values.where(kept, 0), kept.to(values.dtype)


def _multi_margin(p: int, margin: float) -> Kernel:
    """torch's kernel, which can neither be stacked by vmap nor differentiated twice."""

    def plain(logits: Tensor, ids: Tensor) -> Tensor:
        index = ids[:, None]
        gaps = (margin - logits.gather(1, index) + logits).relu().scatter(1, index, 0)
        return (gaps if p == 1 else gaps**p).mean(1)

    def gradient(grad: Tensor, logits: Tensor, ids: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten.multi_margin_loss_backward(grad, logits, ids, p, margin, None, 0)
        return found

    return Kernel(plain, lambda x, ids: F.multi_margin_loss(x, ids, p=p, margin=margin, reduction="none"), gradient)


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: Annotated[float, "[0, inf)"] = 2.0,
    alpha: ClassAlpha = None,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Focal loss on class ids, alpha_y (1 - p_y)^gamma CE: turns down the examples the model already gets right.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `gamma`, how strongly easy examples are turned down (0 is cross-entropy); `alpha`, a number, one
    per class, `balanced` or `effective` as for cross_entropy's weight, or null for none; `ignore_index`, the id that
    counts for nothing. As in the paper, alpha scales the values and is not divided out of the mean.
    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", with softmax in place of the sigmoid.
    """
    surprise, wrong, kept = true_class(logits, labels, ignore_index)
    values = surprise * power(wrong, gamma)
    if isinstance(alpha, (int, float)):
        values = values * alpha
    elif alpha is not None:
        scale = per_class(alpha, values)
        values = values * (scale if scale.dim() == 0 else scale[split_ignored(labels, ignore_index)[1]])
    return values, kept


def ce_focal(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: Annotated[float, "[0, 1]"] = 0.5,
    gamma: Annotated[float, "[0, inf)"] = 2.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and focal loss mixed, alpha CE + (1 - alpha) (1 - p_y)^gamma CE.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `alpha`, the share of cross-entropy (not focal's weight of a class); `gamma` of the focal part;
    `ignore_index`, the id that counts for nothing.
    Source: Lin et al. 2017 for the focal part; a sum of the losses cross_entropy and focal, with one softmax.
    """
    surprise, wrong, kept = true_class(logits, labels, ignore_index)
    return surprise * (alpha + (1 - alpha) * power(wrong, gamma)), kept


def mse_onehot(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Squared error of the probabilities, sum_c (p_c - [c = y])^2 with p = softmax(logits): the Brier score, 0 to 2.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values, the sum over classes and not their mean, and the
    weights (N,), 0 where ignored.
    Hyperparameters: `ignore_index`, the id that counts for nothing.
    Source: Brier 1950, "Verification of Forecasts Expressed in Terms of Probability".
    """
    kept, ids = split_ignored(labels, ignore_index)
    p = at_least_float32(logits).softmax(1)
    one = p.new_ones(()).expand(len(ids), 1)
    values = p.scatter_add(1, ids[:, None], -one).square().sum(1)
    return values.where(kept, 0), kept.to(values.dtype)


@not_differentiable("it is constant almost everywhere, so its gradient is 0; it is the metric error_rate")
def zero_one(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Zero-one loss, 1 where the largest logit is not the true class's, else 0; its mean is the error rate.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `ignore_index`, the id that counts for nothing.
    Source: Hastie et al. 2009, "The Elements of Statistical Learning", section 2.4.
    """
    kept = labels != ignore_index
    kind = torch.promote_types(logits.dtype, torch.float32)
    return ((logits.argmax(1) != labels) & kept).to(kind), kept.to(kind)


def _weighted(values: Tensor, labels: Tensor, classes: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The values with the weights of torch's own mean: the class's weight, and 0 where the label is ignored."""
    if classes is None:
        return values, (labels != ignore_index).to(values.dtype)
    kept, ids = split_ignored(labels, ignore_index)
    return values, torch.where(kept, classes[ids], 0)
