"""Numbers of fewer bits: autocast, and the loss scale that fp16 needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

PrecisionName = Literal["fp32", "bf16", "fp16"]
Cast = Callable[[], AbstractContextManager[object]]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: PrecisionName, device: torch.device) -> Cast:
    """A function that opens the precision's autocast context; for fp32, one that does nothing."""
    if precision == "fp32":
        return nullcontext
    dtype = _DTYPES[precision]
    return lambda: torch.autocast(device.type, dtype=dtype)


class LossScale:
    """`torch.amp.GradScaler` for fp16, with what it lacks: a floor under the scale.

    GradScaler halves its scale on every overflow and never stops; at 0 the next finite step would write NaN into
    every parameter. The guard ends the run when the scale has fallen below `floor`.

    Order in a step: `scale` each loss before its backward pass, `unscale` once, clip, step or skip, `update`.
    """

    def __init__(self, device: torch.device, *, enabled: bool, floor: float = 1.0) -> None:
        self.scaler = torch.amp.GradScaler(device.type, enabled=enabled)
        self.enabled, self.floor = enabled, floor
        self._one = torch.ones((), device=device)
        self.value = self.scaler.scale(self._one)

    def scale(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss)

    def unscale(self, optimizers: Sequence[Optimizer]) -> None:
        """Divide the gradients by the scale, once in a step, before clipping."""
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)

    def update(self, *, keep: bool = False) -> bool:
        """Raise or lower the scale after a step; true if it was lowered, which explains a gradient of Inf or NaN.

        Args:
            keep: the step says nothing about the scale (it was empty): leave it.
        """
        if not self.enabled:
            return False
        before = self.scaler.get_scale()
        self.scaler.update(before if keep else None)
        self.value = self.scaler.scale(self._one)
        return self.scaler.get_scale() < before

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another's `scaler`."""
        if self.enabled:
            self.scaler.load_state_dict(dict(state))
            self.value = self.scaler.scale(self._one)
