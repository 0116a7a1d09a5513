"""The weights of a run's modules as the files of a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lossbench.engine.checkpoint import Checkpoint, packed_state, packed_tensors
from lossbench.errors import CheckpointError

PREFIXES = ("model.", "loss.")  # in model.safetensors, of what `Player.modules` holds


def packed_modules(states: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The state of several modules as files: the tensors, and what a module keeps beside tensors, if it does."""
    whole = {
        prefix + key: value for prefix, state in zip(PREFIXES, states, strict=True) for key, value in state.items()
    }
    tensors = {key: value for key, value in whole.items() if isinstance(value, Tensor)}
    extra = {key: value for key, value in whole.items() if key not in tensors}
    return {"model.safetensors": packed_tensors(tensors), **({"extra.pt": packed_state(extra)} if extra else {})}


def modules_of(checkpoint: Checkpoint, modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """The state of each module from these files again, on the CPU."""
    extra = checkpoint.state("extra.pt") if "extra.pt" in checkpoint.facts["files"] else {}
    whole = {**checkpoint.tensors("model.safetensors"), **extra}
    return [
        {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
        for prefix in PREFIXES[: len(modules)]
    ]


def put_weights(checkpoint: Checkpoint, modules: Sequence[nn.Module]) -> None:
    """Put a checkpoint's weights into the model and, where they are given, the losses with parameters of their own.

    Raises:
        CheckpointError: they are another model's.
    """
    saved = modules_of(checkpoint, modules)
    check_shapes(checkpoint.path, saved, [module.state_dict() for module in modules])
    for module, state in zip(modules, saved, strict=True):
        module.load_state_dict(state)


def check_shapes(path: Path, saved: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """Refuse the weights of another model.

    Raises:
        CheckpointError: a weight that only one of them has, or of another shape.
    """
    for theirs, ours in zip(saved, now, strict=True):
        for key in {**ours, **theirs}:
            a, b = (state[key].shape if isinstance(state.get(key), Tensor) else None for state in (theirs, ours))
            if (key in theirs, a) != (key in ours, b):
                shapes = [f"shape {tuple(s)}" if s is not None else "none" for s in (a, b)]
                raise CheckpointError(f"{path} is for another model: '{key}' has {shapes[0]} there, {shapes[1]} here")
