"""Losses on 0/1 targets: one logit per example (N,), or one per label (N, K)."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.marks import PositiveAlpha, PositiveWeight
from lossbench.losses.shape import at_least_float32, beside, per_example, power


def bce(logits: Tensor, targets: Tensor, *, pos_weight: PositiveWeight = None) -> Tensor:
    """Binary cross-entropy on logits, -(w t log p + (1 - t) log(1 - p)) with p = sigmoid(logit).

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1]; returns (N,), the mean over an example's labels.
    Hyperparameters: `pos_weight` w, a number, one per label, or `balanced` (negatives / positives of the training
    split); null is 1.
    Source: Good 1952; `torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    weight = None if pos_weight is None else beside(pos_weight, logits)
    return per_example(F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none"))


def bce_probs(probs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy on probabilities, -(t log p + (1 - t) log(1 - p)), each logarithm at least -100.

    Shapes: probs and targets (N,) or (N, K), both in [0, 1]; returns (N,), the mean over an example's labels.
    Source: Good 1952; `torch.nn.functional.binary_cross_entropy`. A probability that has been rounded to 0 or 1 has
    lost its gradient: prefer `bce` on logits.
    """
    # In a type that can tell 1 - p from 0, and outside of autocast, which torch forbids for this kernel on CUDA.
    with torch.autocast(probs.device.type, enabled=False):
        exact = torch.promote_types(probs.dtype, torch.float32)
        return per_example(F.binary_cross_entropy(probs.to(exact), targets.to(exact), reduction="none"))


def binary_focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: Annotated[float, "[0, inf)"] = 2.0,
    alpha: PositiveAlpha = 0.25,
) -> Tensor:
    """Focal loss on 0/1 targets, alpha_t (1 - p_t)^gamma BCE: turns down the examples the model already gets right.

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1]; returns (N,), the mean over an example's labels.
    Hyperparameters: `gamma`, how strongly easy examples are turned down (0 is plain BCE); `alpha`, the weight of the
    positives against 1 - alpha of the negatives, a number or one per label, `balanced` (1 - share of positives), or
    null for none.
    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection"; equals torchvision's `sigmoid_focal_loss`.
    """
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype)
    # 1 - p_t between two sigmoids: nothing cancels where p_t is near 1.
    wrong = torch.lerp(torch.sigmoid(logits), torch.sigmoid(-logits), targets)
    values = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * power(wrong, gamma)
    if alpha is not None:
        share = alpha if isinstance(alpha, (int, float)) else beside(alpha, logits)
        values = values * (targets * (2 * share - 1) + (1 - share))
    return per_example(values)
