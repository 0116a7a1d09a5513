"""Which examples an epoch draws, and in what order; drawn on the CPU, so that every device has the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Generator, Tensor

Sampler = Literal["shuffle", "balanced"]
Draw = Callable[[Generator], Tensor]  # the places of one epoch's examples


def drawer(sampler: Sampler, target: Tensor) -> Draw:
    """How a sampler draws the examples with these targets; `balanced` takes class ids or 0/1 targets (N,)."""
    return _balanced(target.cpu()) if sampler == "balanced" else partial(_shuffle, len(target))


def _shuffle(n: int, generator: Generator) -> Tensor:
    """Every example once."""
    return torch.randperm(n, generator=generator)


def _balanced(target: Tensor) -> Draw:
    """As many draws as there are examples, with replacement: a class each, then one of its examples.

    So each draw is example i of class c with probability 1 / (C n_c), over the C classes that there are.
    """
    counts = target.long().bincount()
    counts = counts[counts > 0]
    by_class, starts = target.argsort(stable=True), counts.cumsum(0) - counts

    def draw(generator: Generator) -> Tensor:
        classes = torch.randint(len(counts), (len(target),), generator=generator)
        share = torch.rand(len(target), generator=generator, dtype=torch.float64)
        return by_class[starts[classes] + (share * counts[classes]).long()]

    return draw
