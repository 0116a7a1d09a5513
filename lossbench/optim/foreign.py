"""Optimizers of others."""

from __future__ import annotations

from torch.optim import Optimizer


def is_torchs(optimizer: Optimizer) -> bool:
    """Whether it is one of torch's own, whose step and state are known to work."""
    return type(optimizer).__module__.startswith("torch.optim.")
