"""Losses computed in another way than torch would differentiate them: it keeps less for the gradient, and takes fewer
passes over large tensors. Values and gradients are those of the plain form.
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
    """A loss of each row of scores, with a kernel for its value and one for its gradient by the scores.

    Attributes:
        plain: (scores, *others) -> (N,) in torch's own operations: what vmap and a second derivative take.
        value: the same.
        gradient: (gradient of the values, scores, *others) -> gradient of the scores.
    """

    plain: Callable[..., Tensor]
    value: Callable[..., Tensor]
    gradient: Callable[..., Tensor]

    def __call__(self, scores: Tensor, *others: Tensor) -> Tensor:
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

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, *others = ctx.saved_tensors
        if torch.is_grad_enabled():
            (found,) = torch.func.vjp(lambda x: ctx.kernel.plain(x, *others), scores)[1](grad)
        else:
            found = ctx.kernel.gradient(grad, scores, *others)
        return (None, found, *(None for _ in others))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], kernel: Kernel, *tensors: Tensor) -> tuple[Tensor, int]:
        return torch.vmap(kernel.plain, in_dims[1:])(*tensors), 0


@dataclass(frozen=True)
class Elementwise:
    """A function of each number whose slope is known: nothing but its inputs is kept.

    Attributes:
        value: (x, *constants) -> values; it may work in place on what it makes itself.
        slope: (x, *constants) -> the derivative by x, in operations that torch can differentiate.
    """

    value: Callable[..., Tensor]
    slope: Callable[..., Tensor]

    def __call__(self, x: Tensor, *constants: Tensor) -> Tensor:
        found: Tensor = _Elementwise.apply(self, x, *constants)
        return found


class _Elementwise(torch.autograd.Function):
    @staticmethod
    def forward(function: Elementwise, x: Tensor, *constants: Tensor) -> Tensor:
        found = torch.empty_like(x)
        for to, *rows in by_rows(found, x, *constants):
            to.copy_(function.value(*rows))
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *constants = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = grad * ctx.function.slope(x, *constants)
        else:
            found = torch.empty_like(x)
            for to, by, *rows in by_rows(found, grad, x, *constants):
                torch.mul(by, ctx.function.slope(*rows), out=to)
        return (None, found, *(None for _ in constants))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], function: Elementwise, *tensors: Tensor) -> tuple[Tensor, int]:
        """The same function of one dimension more."""
        stacked = [
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return function(*stacked), 0
