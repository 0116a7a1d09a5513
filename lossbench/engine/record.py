"""What the engine tells its observers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

SKIPPED = ("", "empty", "overflow", "nonfinite", "latched")  # by Verdict

Metrics = Mapping[str, float]


class StepRow(NamedTuple):
    """One optimizer step as recorded.

    Attributes:
        step: from 1.
        epoch: from 1.
        loss: of the step's examples, before the step.
        lr: the rate of the first parameter group in this step.
        grad_norm: of all gradients together, before clipping.
        loss_scale: of fp16 after the step, else 1.
        skipped: empty if the step was taken, else why not: `empty`, `overflow` or `nonfinite`.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    loss_scale: float
    skipped: str


class Recorder(Protocol):
    """Takes rows after the fact; nothing that it does can change the training."""

    def push(self, step: int, epoch: int, lr: float, row: Tensor) -> None:
        """Take a step: `row` is (loss, grad_norm, loss_scale, verdict) on the device, and stays there for now."""
        ...

    def due(self) -> bool:
        """Whether it is time to flush."""
        ...

    def flush(self) -> Sequence[StepRow]:
        """Fetch what was pushed since the last flush, write it, and return it."""
        ...

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        """Take an evaluation: the metrics of each split."""
        ...
