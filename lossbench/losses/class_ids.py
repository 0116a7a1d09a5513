"""What the losses on class ids share: numbers per class, and labels that count for nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def per_class(numbers: Tensor | Sequence[float] | float, logits: Tensor) -> Tensor:
    """A hyperparameter or field per class, as a tensor that goes with the logits."""
    return torch.as_tensor(numbers, dtype=logits.dtype, device=logits.device)


def split_ignored(labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:  # (N,) -> (N,), (N,)
    """Which labels count, and the labels with class 0 in place of the others, so that each can be an index."""
    kept = labels != ignore_index
    return kept, labels.where(kept, 0)


def true_class(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """-log p_y and 1 - p_y of the true class, both 0 where ignored, and the weights of the mean; each (N,).

    For losses that see the logits through p_y alone: one softmax, by torch's kernel, and nothing else of size N x C.
    """
    surprise = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    wrong = -torch.expm1(-surprise)  # 1 - p_y, without cancelling where p_y is near 1
    return surprise, wrong, (labels != ignore_index).to(surprise.dtype)
