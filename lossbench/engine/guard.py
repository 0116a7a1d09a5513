"""The guard: no update that is not finite reaches parameters, moments or buffers.

A step is bad when its loss or its gradient norm is NaN or Inf. Two gates keep it out, with the same results:

- `host` reads the loss and the norm on the host (half a microsecond on the CPU) and does not call `optimizer.step()`.
- `device` never waits for the device: a fused optimizer is given `found_inf`, which leaves its parameters, moments and
  step count as they were, and under `abort` a latch keeps everything still from the first bad step on, until the
  host looks at the records.

What to do about a bad step is decided in `recovery.py`, when the host looks at the records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.engine.buffers import Buffers
from lossbench.engine.precision import LossScale
from lossbench.errors import ConfigError, LossbenchError, first_line, refuse_memory
from lossbench.optim.closure import searches
from lossbench.optim.foreign import is_torchs

Policy = Literal["abort", "skip", "rollback", "off"]
Gate = Literal["host", "device", "none"]
Again = Callable[[], tuple[Tensor, Tensor]]


class Verdict(IntEnum):
    """What became of a step."""

    TAKEN = 0
    EMPTY = 1  # every example's weight was 0: there was nothing to learn from
    OVERFLOW = 2  # of a finite loss the fp16 gradients overflowed, and the loss scale was lowered
    NONFINITE = 3
    LATCHED = 4  # it came after the run's last step, before the host had looked: it is not recorded


def choose_gate(
    policy: Policy,
    device: torch.device,
    scale: LossScale,
    optimizers: Sequence[Optimizer],
    *,
    may_be_empty: bool = False,
) -> Gate:
    """The device gate where nothing needs the host in a step: CUDA, `abort`, no loss scale, fused optimizers.

    Args:
        may_be_empty: some step may have no example that counts, and only the host can hold the schedule back then.
    """
    if policy == "off" and not scale.enabled:  # a loss scale cannot do without its gate
        return "none"
    fused = all(getattr(o, "_step_supports_amp_scaling", False) for o in optimizers)
    waits = may_be_empty or scale.enabled or policy != "abort"
    return "device" if device.type == "cuda" and fused and not waits else "host"


class Guard:
    """Takes or refuses optimizer steps, and puts BatchNorm's running statistics (and other buffers) back with them.

    Args:
        policy: `abort` ends the run at the first bad step, `skip` leaves it out, `rollback` returns to the last
            checkpoint and goes on at a lower rate, `off` looks at nothing.
        max_skips: steps in a row that `skip` bears.
        max_rollbacks: of a run.
        rollback_factor: what each rollback multiplies the rate by.
        modules: what is run in a step; their buffers are protected.
    """

    def __init__(
        self,
        policy: Policy,
        gate: Gate,
        optimizers: Sequence[Optimizer],
        scale: LossScale,
        modules: Iterable[nn.Module],
        *,
        max_skips: int = 10,
        max_rollbacks: int = 3,
        rollback_factor: float = 0.5,
        device: torch.device,
    ) -> None:
        self.policy, self.gate, self.optimizers, self.scale = policy, gate, optimizers, scale
        self.max_skips, self.max_rollbacks, self.rollback_factor = max_skips, max_rollbacks, rollback_factor
        self.searches = any(map(searches, optimizers))
        self.modules = list(modules) if gate != "none" or self.searches else []
        self.buffers = Buffers(self.modules)
        self.looks = gate != "device" and device.type == "cpu"  # whether the host may read numbers in a step
        self.urgent = False  # a bad step was seen on the host: the records should be reviewed now
        self.codes = [torch.tensor(float(v), device=device) for v in Verdict]
        self.latch = torch.zeros((), dtype=torch.bool, device=device)
        self.first = True
        self.in_a_row = self.rollbacks = 0

    def save(self) -> None:
        """Before the forward pass: remember the buffers that it may change."""
        if self.buffers:
            self.buffers.save()

    def take(
        self, loss: Tensor, norm: Tensor, weights: Sequence[Tensor], again: Again | None = None
    ) -> tuple[Tensor, bool]:
        """Step the optimizers, unless the step is bad.

        Args:
            loss, norm: of this step, scalars.
            weights: of the examples, for each term that has any; a sum of 0 makes the step an empty one.
            again: evaluates the step's loss and gradient once more and gives loss and norm, for one that `searches`.

        Returns:
            The verdict as a scalar tensor, and whether the schedule moves.
        """
        # A fused SGD's momentum is uninitialised memory until its first good step, which found_inf cannot prevent:
        # the host looks at every optimizer's first step.
        if self.gate == "device" and not self.first:
            return self._take_on_device(loss, norm, weights), True
        if self.gate == "device" and bool(self.latch):  # a first step in the middle of a run: parameters were thawed
            self.buffers.restore()
            return self.codes[Verdict.LATCHED], False
        if self.gate == "none" or _finite(loss, norm):
            for optimizer in self.optimizers:
                self._step(optimizer, loss, again)
            self.scale.update()
            self.first = False
            return self.codes[Verdict.TAKEN], True
        self.urgent = True
        self.buffers.restore()
        empty = any(bool(w.sum() == 0) for w in weights)
        lowered = self.scale.update(keep=empty)
        overflow = lowered and bool(torch.isfinite(loss))
        verdict = Verdict.EMPTY if empty else Verdict.OVERFLOW if overflow else Verdict.NONFINITE
        return self.codes[verdict], False

    def _step(self, optimizer: Optimizer, loss: Tensor, again: Again | None) -> None:
        try:
            if again is None:
                optimizer.step()
            else:
                self._search(optimizer, loss, again)
        except LossbenchError:
            raise
        except Exception as error:
            if is_torchs(optimizer):
                raise
            refuse_memory(error)
            raise ConfigError(f"optim '{type(optimizer).__name__}' failed in a step: {first_line(error)}") from error

    def _search(self, optimizer: Optimizer, loss: Tensor, again: Again) -> None:
        """A step that evaluates the loss at several points, of one function: each time from the same buffers.

        What the buffers keep is what the first evaluation left in them, not those of points that were only tried.
        Where the loss or its gradient is not finite, it counts as worse than at the start: torch's line search would
        walk on towards a NaN, and interpolate with Inf.
        """
        first = [loss] if isinstance(optimizer, torch.optim.LBFGS) else []  # others may move before they evaluate
        after, worse = Buffers(self.modules), loss + loss.abs() + 1

        def closure() -> Tensor:
            if first:
                return first.pop()
            self.buffers.restore()
            found, norm = again()
            return found if _finite(found, norm) else worse

        optimizer.step(closure)  # type: ignore[arg-type]
        after.restore()

    def _take_on_device(self, loss: Tensor, norm: Tensor, weights: Sequence[Tensor]) -> Tensor:
        bad = torch.isfinite(loss + norm).logical_not()
        hit = bad.clone()
        for w in weights:
            hit &= w.sum() != 0
        verdict = torch.where(hit, self.codes[Verdict.NONFINITE], bad * self.codes[Verdict.EMPTY])
        verdict = torch.where(self.latch, self.codes[Verdict.LATCHED], verdict)
        refused = bad | self.latch
        self.latch |= hit
        for optimizer in self.optimizers:
            optimizer.grad_scale, optimizer.found_inf = None, refused.float()  # type: ignore[attr-defined]
            optimizer.step()
        self.buffers.restore(refused)
        return verdict

    def state_dict(self) -> dict[str, Any]:
        """What it has counted."""
        return {"first": self.first, "in_a_row": self.in_a_row, "rollbacks": self.rollbacks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, with nothing held back."""
        self.first, self.in_a_row, self.rollbacks = state["first"], state["in_a_row"], state["rollbacks"]
        self.urgent = False
        self.latch.zero_()
        for optimizer in self.optimizers:  # a refused step leaves its mark, which the next one on the host would heed
            if hasattr(optimizer, "found_inf"):
                optimizer.grad_scale = optimizer.found_inf = None  # type: ignore[attr-defined]


def _finite(loss: Tensor, norm: Tensor) -> bool:
    if loss.device.type == "cpu":
        return math.isfinite(loss.item()) and math.isfinite(norm.item())
    return bool(torch.isfinite(loss + norm))  # one wait for the device, not two
