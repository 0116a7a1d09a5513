"""Losses on one class out of C. `labels` are class ids (N,), or soft labels (N, C) where the docstring says so."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.marks import ClassAlpha, ClassWeight


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: ClassWeight = None,
    ignore_index: int = -100,
    label_smoothing: Annotated[float, "[0, 1)"] = 0.0,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy, -w_y log p_y with p = softmax(logits).

    Shapes: logits (N, C); labels (N,) class ids, or (N, C) rows that sum to 1; returns (N,), with the weights (N,) of
    its mean where `weight` is given or an id may be ignored.
    Hyperparameters: `weight` per class, a list or `balanced` (n / (C n_c) of the training split); `ignore_index`, the
    id that counts for nothing; `label_smoothing` eps, which spreads eps / C over all classes.
    Source: Good 1952; label smoothing Szegedy et al. 2016; `torch.nn.functional.cross_entropy`.
    """
    classes = None if weight is None else torch.as_tensor(weight, dtype=logits.dtype, device=logits.device)
    values = F.cross_entropy(
        logits, labels, weight=classes, ignore_index=ignore_index, label_smoothing=label_smoothing, reduction="none"
    )
    if labels.is_floating_point():
        return values
    return _weighted(values, labels, classes, ignore_index)


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

    Shapes: logits (N, C); labels (N,) class ids; returns (N,), with the weights (N,) of its mean where there are any.
    Hyperparameters: `smoothing` eps, with `others_only` at most (C - 1) / C; `others_only`; `weight` and
    `ignore_index` as for cross_entropy.
    Source: Szegedy et al. 2016, "Rethinking the Inception Architecture"; Mueller et al. 2019.
    """
    if others_only:
        # eps' / C = eps / (C - 1) makes torch's form put exactly 1 - eps on the true class.
        classes = logits.shape[1]
        smoothing = smoothing * classes / (classes - 1)
        if smoothing > 1:
            raise ValueError("others_only needs smoothing <= (C - 1) / C")
    return cross_entropy(logits, labels, weight=weight, ignore_index=ignore_index, label_smoothing=smoothing)


def focal(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: Annotated[float, "[0, inf)"] = 2.0,
    alpha: ClassAlpha = None,
    ignore_index: int = -100,
) -> Tensor | tuple[Tensor, Tensor]:
    """Focal loss on class ids, alpha_y (1 - p_y)^gamma CE: turns down the examples the model already gets right.

    Shapes: logits (N, C); labels (N,) class ids; returns (N,) values and the weights (N,), 0 where ignored.
    Hyperparameters: `gamma`, how strongly easy examples are turned down (0 is cross-entropy); `alpha`, a number, one
    per class, `balanced` (n / (C n_c) of the training split), or null for none; `ignore_index`, the id that counts
    for nothing. As in the paper, alpha scales the values and is not divided out of the mean.
    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", with softmax in place of the sigmoid.
    """
    values = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    wrong = -torch.expm1(-values)  # 1 - p_y, without cancelling where p_y is near 1
    values = values * wrong.clamp_min(torch.finfo(wrong.dtype).tiny) ** gamma
    kept = labels != ignore_index
    if alpha is not None:
        scale = torch.as_tensor(alpha, dtype=logits.dtype, device=logits.device)
        values = values * (scale if scale.dim() == 0 else scale[labels.where(kept, 0)])
    return values, kept.to(values.dtype)


def _weighted(values: Tensor, labels: Tensor, classes: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor]:
    """The values with the weights of torch's own mean: the class's weight, and 0 where the label is ignored."""
    kept = labels != ignore_index
    if classes is None:
        return values, kept.to(values.dtype)
    return values, torch.where(kept, classes[labels.where(kept, 0)], 0)
