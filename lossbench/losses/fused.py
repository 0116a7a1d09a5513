"""Losses computed in another way than torch would differentiate them: it keeps less for the gradient, and takes fewer
passes over large tensors. Values and gradients are those of the plain form, which small tensors take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CACHED = 2**16  # so many numbers


def by_rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """So many rows at once that what is made of them stays in a processor's cache; all of them on another device."""
    first = tensors[0]
    rows = len(first) if first.device.type != "cpu" else CACHED * len(first) // max(1, first.numel())
    return zip(*(torch.split(tensor, max(1, rows)) for tensor in tensors), strict=True)


@dataclass(frozen=True)
class Kernel:
    """A function of scores, with a kernel for its value and one for its gradient by the scores.

    Attributes:
        plain: (scores, *others) -> values in torch's own operations. Small tensors take it, for which a call of the
            kernels costs more than their work; so do vmap, a second derivative, and a gradient by the others.
        value: the same, for large tensors, without a gradient.
        gradient: (gradient of the values, scores, *others) -> gradient of the scores.
        narrow: rows of so many scores or fewer are small however many there are.
    """

    plain: Callable[..., Tensor]
    value: Callable[..., Tensor]
    gradient: Callable[..., Tensor]
    narrow: int = 0

    def __call__(self, scores: Tensor, *others: Tensor) -> Tensor:
        small = scores.numel() <= CACHED or scores.shape[-1] <= self.narrow
        if small or any(other.requires_grad for other in others):
            return self.plain(scores, *others)
        found: Tensor = _Kernel.apply(self, scores, *others)
        return found


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(kernel: Kernel, scores: Tensor, *others: Tensor) -> Tensor:
        return kernel.value(scores, *others)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.kernel = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, *others = ctx.saved_tensors
        if torch.is_grad_enabled():
            (found,) = torch.func.vjp(lambda x: ctx.kernel.plain(x, *others), scores)[1](grad)
        else:
            found = ctx.kernel.gradient(grad, scores, *others)
        return (None, found, *(None for _ in others))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        tensors = ctx.saved_tensors
        moved = [i for i, tangent in enumerate(tangents) if tangent is not None]

        def plain(*found: Tensor) -> Tensor:
            given = dict(zip(moved, found, strict=True))
            value: Tensor = ctx.kernel.plain(*(given.get(i, tensor) for i, tensor in enumerate(tensors)))
            return value

        found: Tensor = torch.func.jvp(plain, tuple(tensors[i] for i in moved), tuple(tangents[i] for i in moved))[1]
        return found

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, int]:
        return torch.vmap(kernel.plain, in_dims[1:])(*tensors), 0


def elementwise(
    plain: Callable[..., Tensor], slope: Callable[..., Tensor], value: Callable[..., Tensor] | None = None
) -> Kernel:
    """A function (x, *constants) of each number whose slope, the derivative by x, is known: only its inputs are kept.

    All may work in place on what they make themselves. `value` is the plain form where none is given.
    """

    def in_pieces(x: Tensor, *constants: Tensor) -> Tensor:
        found = torch.empty_like(x)
        for to, *rows in by_rows(found, x, *constants):
            to.copy_((value or plain)(*rows))
        return found

    def gradient(grad: Tensor, x: Tensor, *constants: Tensor) -> Tensor:
        found = torch.empty_like(x)
        for to, by, *rows in by_rows(found, grad, x, *constants):
            torch.mul(by, slope(*rows), out=to)
        return found

    return Kernel(plain, in_pieces, gradient)
