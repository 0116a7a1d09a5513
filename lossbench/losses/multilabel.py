"""Losses on several labels per example: one logit per label (N, K)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.fused import Kernel
from lossbench.losses.shape import at_least_float32, beside, per_example, power, same_shape


def multilabel_margin(logits: Tensor, multi_hot: Tensor) -> Tensor:  # (N, K), (N, K) -> (N,)
    """Every label that holds should be above every other by 1: sum over pairs of max(0, 1 - (s_j - s_i)) / K.

    j runs over the labels that hold and i over those that do not. An example with none or all of the labels costs 0.

    Shapes: logits (N, K); multi_hot (N, K) of 0 and 1; returns (N,). Under vmap, or differentiated twice, it takes
    memory for N x K x K numbers.
    Source: Crammer and Singer 2001 for several labels; equals `torch.nn.functional.multilabel_margin_loss`, whose
    kernel wants the labels as a padded list of ids, and can neither be stacked by vmap nor differentiated twice.
    """
    return _PAIRS(at_least_float32(logits), multi_hot)


def _pairs(logits: Tensor, multi_hot: Tensor) -> Tensor:
    short = (1 - logits[:, :, None] + logits[:, None, :]).clamp_min(0)  # (N, j, i)
    holds = multi_hot > 0.5
    return (short * (holds[:, :, None] & ~holds[:, None, :])).sum((1, 2)) / logits.shape[1]


def _padded(multi_hot: Tensor) -> Tensor:
    """The ids of the labels that hold, in order, and -1 behind them: torch's form."""
    holds = multi_hot > 0.5
    ids = holds.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices
    behind = torch.arange(holds.shape[1], device=holds.device) >= holds.sum(1, keepdim=True)
    return ids.masked_fill_(behind, -1)


def _pairs_gradient(grad: Tensor, logits: Tensor, multi_hot: Tensor) -> Tensor:
    ids, holds = _padded(multi_hot), (multi_hot > 0.5).to(logits.dtype)
    found: Tensor = torch.ops.aten.multilabel_margin_loss_backward(grad, logits, ids, 0, holds)
    return found


_PAIRS = Kernel(_pairs, lambda x, hot: F.multilabel_margin_loss(x, _padded(hot), reduction="none"), _pairs_gradient)


def multilabel_soft_margin(
    logits: Tensor,
    multi_hot: Tensor,
    *,
    weight: Annotated[Tensor | Sequence[float] | None, "[0, inf)"] = None,
) -> Tensor:  # (N, K), (N, K) -> (N,)
    """Binary cross-entropy per label, its mean over the labels: sum over k of w_k BCE(s_k, t_k) / K.

    Shapes: logits (N, K); multi_hot (N, K) in [0, 1]; returns (N,).
    Hyperparameters: `weight` w, one per label, for its positives and negatives alike, not divided out of the mean;
    null is 1.
    Source: `torch.nn.functional.multilabel_soft_margin_loss`; without weights it is `bce` (Good 1952).
    """
    labels = None if weight is None else beside(weight, logits)
    return F.multilabel_soft_margin_loss(logits, multi_hot, weight=labels, reduction="none")


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma_neg: Annotated[float, "[0, inf)"] = 4.0,
    gamma_pos: Annotated[float, "[0, inf)"] = 1.0,
    clip: Annotated[float, "[0, 1)"] = 0.05,
    detach_focus: bool = False,
) -> Tensor:
    """Asymmetric loss, -t (1 - p)^g+ log p - (1 - t) q^g- log(1 - q) with p = sigmoid(logit) and q = max(p - m, 0).

    Positives and negatives are turned down separately, and negatives with p < m cost nothing.

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1]; returns (N,), the mean over an example's labels (the
    paper has the sum).
    Hyperparameters: `gamma_neg` g- and `gamma_pos` g+, how strongly easy negatives and positives are turned down;
    `clip` m, the probability below which a negative counts for nothing; `detach_focus` takes the focusing factors
    (1 - p)^g+ and q^g- as constants in the gradient.
    Source: Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification". With both gammas the same and clip 0
    it is, on targets of 0 and 1, the focal loss without alpha.
    """
    same_shape(logits, targets)
    logits = at_least_float32(logits)
    wrong_pos, wrong_neg = torch.sigmoid(-logits), (torch.sigmoid(logits) - clip).clamp_min(0)
    focus_pos, focus_neg = power(wrong_pos, gamma_pos), power(wrong_neg, gamma_neg)
    if detach_focus:
        focus_pos, focus_neg = focus_pos.detach(), focus_neg.detach()
    # log(1 - q) = min(log(1 - p + m), 0), and from log(1 - p) where m is 0, so that it is finite far out.
    log_kept = (wrong_pos + clip).log().clamp_max(0) if clip else F.logsigmoid(-logits)
    values = torch.lerp(focus_neg * log_kept, focus_pos * F.logsigmoid(logits), targets.to(log_kept.dtype))
    return per_example(-values)
