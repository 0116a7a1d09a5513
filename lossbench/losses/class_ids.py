"""What the losses on class ids share: numbers per class, labels that count for nothing, and -log p_y."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def per_class(numbers: Any, logits: Tensor) -> Tensor:
    """A number, list or tensor as a tensor that goes with the logits; words were replaced when the run was built."""
    return torch.as_tensor(numbers, dtype=logits.dtype, device=logits.device)


def split_ignored(labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:  # (N,) -> (N,), (N,)
    """Which labels count, and the labels with class 0 in place of the others, so that each can be an index."""
    kept = labels != ignore_index
    return kept, labels.where(kept, 0)


def at_least_float32(logits: Tensor) -> Tensor:
    """As torch's own losses do under autocast: half precision cannot hold what a loss adds up."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def true_class(logits: Tensor, labels: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """-log p_y and 1 - p_y of the true class, both 0 where ignored, and the weights of the mean; each (N,).

    For losses that see the logits through p_y alone. The first is cross-entropy.
    """
    kept, ids = split_ignored(labels, ignore_index)
    surprise, _ = _Surprise.apply(at_least_float32(logits), ids[:, None])
    surprise = surprise.squeeze(1).where(kept, 0)
    wrong = -torch.expm1(-surprise)  # 1 - p_y, without cancelling where p_y is near 1
    return surprise, wrong, kept.to(surprise.dtype)


class _Surprise(torch.autograd.Function):
    """(N, C) logits and (N, 1) ids to -log p_y (N, 1), and p (N, C), which its gradient is made of.

    torch's cross_entropy keeps log p, and for the gradient takes the exponential again and fills a matrix with the
    label's zeros. With p kept there is neither, and the largest p, which cannot underflow, gives the sum that p lost.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        p = logits.softmax(1)
        behind = logits.amax(1, keepdim=True) - logits.gather(1, ids)
        return behind - p.amax(1, keepdim=True).log(), p

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1], inputs[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, of_surprise: Tensor | None, of_p: Tensor | None) -> tuple[Tensor | None, None]:
        """p gets a gradient of its own only when this one is differentiated in turn."""
        p, ids = ctx.saved_tensors
        first = None if of_surprise is None else (of_surprise * p).scatter_add_(1, ids, -of_surprise)
        if of_p is None:
            return first, None
        second = p * (of_p - (of_p * p).sum(1, keepdim=True))
        return second if first is None else first + second, None
