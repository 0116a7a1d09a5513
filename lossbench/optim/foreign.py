"""Optimizers: what can be told of them without knowing them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer, SparseAdam


def is_torchs(optimizer: Optimizer) -> bool:
    """Whether it is one of torch's own, whose step and state are known to work; the one for sparse gradients is not."""
    return type(optimizer).__module__.startswith("torch.optim.") and not isinstance(optimizer, SparseAdam)


def has_fused(target: Callable[..., Any], device: torch.device) -> bool:
    """Whether a class that takes `fused` can be had so on a device: older versions of torch lack Adagrad's for CUDA.

    Of a class whose kernel torch does not name after it, nothing is known to the contrary.
    """
    kernel = f"aten::_fused_{target.__name__.lower()}_"
    try:
        return torch._C._dispatch_has_kernel_for_dispatch_key(kernel, device.type.upper())
    except RuntimeError:
        return True


def settings_of(optimizer: Optimizer) -> set[str]:
    """The names of what its class, or one that it derives from, is constructed with.

    The rest of what its parameter groups hold it counts there by itself, as the schedule-free ones do.
    """
    return {name for kind in type(optimizer).__mro__[:-1] for name in inspect.signature(kind).parameters}
