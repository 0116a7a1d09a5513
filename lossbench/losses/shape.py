"""What the families share: one value per example."""

from __future__ import annotations

from torch import Tensor


def per_example(values: Tensor) -> Tensor:  # (N, ...) -> (N,)
    """The mean over every dimension but the first."""
    return values.flatten(1).mean(1) if values.dim() > 1 else values
