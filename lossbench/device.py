"""What the run computes on, and how precisely."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

from lossbench.engine.precision import PrecisionName
from lossbench.errors import ResourceError, plural


def pick_device(name: str) -> torch.device:
    """The device of that name; `auto` is CUDA where there is one.

    Raises:
        ResourceError: the machine has no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        found = f"{count} CUDA device" + ("s" if count != 1 else "")
        raise ResourceError(f"trainer.device={name}: this machine has {found}; use trainer.device=auto or cpu")
    return torch.device("cuda", index)


def pick_precision(name: str, device: torch.device) -> PrecisionName:
    """`auto` is bf16 on a CUDA device that has it, else fp32.

    Raises:
        ResourceError: bf16 on a CUDA device that does not have it.
    """
    native = device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "auto":
        return "bf16" if device.type == "cuda" and native else "fp32"
    if name == "bf16" and not native:
        raise ResourceError(f"{torch.cuda.get_device_name(device)} has no bf16; use trainer.precision=fp16")
    return name  # type: ignore[return-value]


def set_determinism(on: bool) -> None:
    """Deterministic kernels only, or torch's defaults again."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = False


def environment(device: str, precision: str) -> dict[str, Any]:
    """What equal bits depend on, beside the config."""
    chosen = pick_device(device)
    return {
        "precision": pick_precision(precision, chosen),
        "device": str(chosen) if chosen.type == "cpu" else torch.cuda.get_device_name(chosen),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def promise(here: Mapping[str, Any]) -> str:
    """What `trainer.deterministic=true` promises, and what it depends on; `here` is the `environment`."""
    return (
        "deterministic: the same config gives the same bits, stopped and resumed at any step or not, with "
        f"torch {here['torch']}, {plural(here['threads'], 'thread')} and {here['precision']} on {here['device']}; "
        "not with another version, thread count or device"
    )
