"""The guard: no update that is not finite reaches parameters, moments or buffers.

A step is bad when its loss or its gradient norm is NaN or Inf. Two gates keep it out, with the same results:

- `host` reads the loss and the norm on the host (half a microsecond on the CPU) and does not call `optimizer.step()`.
- `device` never waits for the device: a fused optimizer is given `found_inf`, which leaves its parameters, moments and
  step count as they were, and under `abort` a latch keeps everything still from the first bad step on, until the
  host looks at the records.

What to do about a bad step is decided by `review`, on the recorded rows, in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.engine.buffers import Buffers
from lossbench.engine.precision import LossScale
from lossbench.engine.record import Metrics, StepRow
from lossbench.errors import Diverged, plural

Policy = Literal["abort", "skip", "off"]
Gate = Literal["host", "device", "none"]


class Verdict(IntEnum):
    """What became of a step."""

    TAKEN = 0
    EMPTY = 1  # every example's weight was 0: there was nothing to learn from
    OVERFLOW = 2  # fp16 gradients overflowed and the loss scale was lowered
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
        policy: `abort` ends the run at the first bad step, `skip` leaves it out, `off` looks at nothing.
        max_skips: steps in a row that `skip` bears.
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
        device: torch.device,
    ) -> None:
        self.policy, self.gate, self.optimizers, self.scale, self.max_skips = policy, gate, optimizers, scale, max_skips
        self.buffers = Buffers([] if gate == "none" else modules)
        self.looks = gate != "device" and device.type == "cpu"  # whether the host may read numbers in a step
        self.urgent = False  # a bad step was seen on the host: the records should be reviewed now
        self.codes = [torch.tensor(float(v), device=device) for v in Verdict]
        self.latch = torch.zeros((), dtype=torch.bool, device=device)
        self.first = True
        self.in_a_row = 0

    def save(self) -> None:
        """Before the forward pass: remember the buffers that it may change."""
        self.buffers.save()

    def take(self, loss: Tensor, norm: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """Step the optimizers, unless the step is bad.

        Args:
            loss, norm: of this step, scalars.
            weights: of the examples, for each term that has any; a sum of 0 makes the step an empty one.

        Returns:
            The verdict as a scalar tensor, and whether the schedule moves.
        """
        # A fused SGD's momentum is uninitialised memory until its first good step, which found_inf cannot prevent:
        # the host looks at every optimizer's first step.
        if self.gate == "device" and not self.first:
            return self._take_on_device(loss, norm, weights), True
        if self.gate == "none" or _finite(loss, norm):
            for optimizer in self.optimizers:
                optimizer.step()
            self.scale.update()
            self.first = False
            return self.codes[Verdict.TAKEN], True
        self.urgent = True
        self.buffers.restore()
        empty = any(bool(w.sum() == 0) for w in weights)
        lowered = self.scale.update(keep=empty)
        verdict = Verdict.EMPTY if empty else Verdict.OVERFLOW if lowered else Verdict.NONFINITE
        return self.codes[verdict], False

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

    def review(self, rows: Iterable[StepRow]) -> None:
        """Look at recorded steps in order, and end the run where the policy says so.

        Raises:
            Diverged: a bad step under `abort`, too many in a row under `skip`, or a loss scale that fell to its floor.
        """
        self.urgent = False
        for row in rows:
            bad = row.skipped in ("overflow", "nonfinite")
            self.in_a_row = self.in_a_row + 1 if bad else 0
            if self.scale.enabled and row.loss_scale < self.scale.floor:
                raise Diverged(
                    f"step {row.step}: the loss scale fell to {row.loss_scale:g} after "
                    f"{plural(self.in_a_row, 'overflow')} in a row; try trainer.precision=bf16 or a lower optim.lr"
                )
            if row.skipped == "nonfinite" and self.policy == "abort":
                raise Diverged(f"step {row.step}: {_blame(row)}; try a lower optim.lr or trainer.clip_norm=1")
            if self.policy == "skip" and row.skipped == "nonfinite" and self.in_a_row > self.max_skips:
                raise Diverged(
                    f"step {row.step}: {plural(self.in_a_row, 'step')} in a row were not finite "
                    f"(trainer.max_skips={self.max_skips}); {_blame(row)}"
                )

    def review_outputs(self, step: int, metrics: Metrics) -> None:
        """Look at an evaluation: a finite gradient times the rate can still overflow the parameters.

        Raises:
            Diverged: no metric is a number, and the policy is not `off`.
        """
        if self.policy != "off" and all(math.isnan(value) for value in metrics.values()):
            raise Diverged(f"step {step}: the model's outputs are not finite; try a lower optim.lr")


def _blame(row: StepRow) -> str:
    if not math.isfinite(row.loss):
        return f"the loss is {row.loss}"
    return f"the gradient norm is {row.grad_norm} (the loss is {row.loss:g})"


def _finite(loss: Tensor, norm: Tensor) -> bool:
    if loss.device.type == "cpu":
        return math.isfinite(loss.item()) and math.isfinite(norm.item())
    return bool(torch.isfinite(loss + norm))  # one wait for the device, not two
