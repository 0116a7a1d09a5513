"""Optimizers of others: what can be told of them without knowing them."""

from __future__ import annotations

import inspect

from torch.optim import Optimizer


def is_torchs(optimizer: Optimizer) -> bool:
    """Whether it is one of torch's own, whose step and state are known to work."""
    return type(optimizer).__module__.startswith("torch.optim.")


def settings_of(optimizer: Optimizer) -> set[str]:
    """The names of what its class, or one that it derives from, is constructed with.

    The rest of what its parameter groups hold it counts there by itself, as the schedule-free ones do.
    """
    return {name for kind in type(optimizer).__mro__[:-1] for name in inspect.signature(kind).parameters}
