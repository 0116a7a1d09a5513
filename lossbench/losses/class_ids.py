"""What the losses on class ids share: numbers per class, labels that count for nothing, and -log p_y."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.losses.fused import Kernel, by_rows
from lossbench.losses.shape import at_least_float32, beside


def per_class(numbers: Any, logits: Tensor) -> Tensor:
    """A list or tensor as a tensor that goes with the logits; words were replaced when the run was built."""
    return beside(numbers, logits)


def split_ignored(labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:  # (N,) -> (N,), (N,)
    """Which labels count, and the labels with class 0 in place of the others, so that each can be an index."""
    kept = labels != ignore_index
    return kept, labels.where(kept, 0)


def true_class(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """-log p_y and 1 - p_y of the true class, both 0 where ignored, and the weights of the mean; each (N,).

    For losses that see the logits through p_y alone. The first is cross-entropy.
    """
    kept, ids = split_ignored(labels, ignore_index)
    surprise = _SURPRISE(at_least_float32(logits), ids).where(kept, 0)
    wrong = -torch.expm1(-surprise)  # 1 - p_y, without cancelling where p_y is near 1
    return surprise, wrong, kept.to(surprise.dtype)


def _surprise(logits: Tensor, ids: Tensor) -> Tensor:  # (N, C), (N,) -> (N,)
    return F.cross_entropy(logits, ids, reduction="none")


def _surprise_by_rows(logits: Tensor, ids: Tensor) -> Tensor:
    return torch.cat([_surprise(x, y) for x, y in by_rows(logits, ids)])


def _gradient_by_rows(grad: Tensor, logits: Tensor, ids: Tensor) -> Tensor:
    """grad x (p - [c = y]), for which the softmax is taken again: no matrix but the gradient's own is ever held."""
    found = torch.empty_like(logits)
    for x, y, g, to in by_rows(logits, ids[:, None], grad[:, None], found):
        torch.softmax(x, 1, out=to)
        to.mul_(g).scatter_add_(1, y, -g)
    return found


_SURPRISE = Kernel(_surprise, _surprise_by_rows, _gradient_by_rows, narrow=64)
