"""What the engine tells its observers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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
        details: what the objective's `columns` name.
    """

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    loss_scale: float
    skipped: str
    details: tuple[float, ...] = ()


FIELDS = StepRow._fields[:-1]  # what every run records of a step


def step_row(step: int, epoch: int, lr: float, values: Sequence[float], settings: tuple[float, ...] = ()) -> StepRow:
    """A row of (loss, grad_norm, loss_scale, verdict, *details), as a step gives them, and of the step's settings."""
    loss, norm, scale, verdict, *details = values
    return StepRow(step, epoch, loss, lr, norm, scale, SKIPPED[int(verdict)], (*details, *settings))


@dataclass(frozen=True)
class Incident:
    """A step that was not finite: what `nonfinite.json` holds of it.

    Attributes:
        row: the step as recorded.
        action: what followed: `abort`, `skip`, `rollback`, or `repeat` (it was finite when it was run again).
        place: what went non-finite first: `input`, `target`, `parameter`, `forward`, `loss`, `gradient`, `norm` or
            `update`; `nothing` where a second run was finite.
        name: of the module, the loss or the parameter.
        kind: `nan` or `inf`.
        deterministic: whether it came again when the step was run again.
        batch: the step's examples, as rows of the data set.
        examples: those at fault, where they can be told apart.
        parameters: those whose gradient or value is not finite.
        text: all of it in one line.
    """

    row: StepRow
    action: str
    place: str
    name: str
    kind: str
    deterministic: bool
    batch: tuple[int, ...]
    examples: tuple[int, ...]
    parameters: tuple[str, ...]
    text: str


class Recorder(Protocol):
    """Takes rows after the fact; nothing that it does can change the training."""

    def push(self, step: int, epoch: int, lr: float, row: Tensor, settings: tuple[float, ...] = ()) -> None:
        """Take a step: `row` is what `Player.step` gave, on the device, and stays there for now.

        `settings` are the hyperparameters that follow a course.
        """
        ...

    def due(self) -> bool:
        """Whether it is time to fetch."""
        ...

    def fetch(self) -> list[StepRow]:
        """Bring what was pushed since the last fetch to the host."""
        ...

    def write(self, rows: Sequence[StepRow]) -> None:
        """Take rows for good, in order."""
        ...

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        """Take an evaluation: the metrics of each split."""
        ...

    def incident(self, incident: Incident) -> None:
        """Take note of a step that was not finite."""
        ...

    def rewind(self, step: int, progress: Mapping[str, Any]) -> None:
        """Forget what came after a step, to which the training has returned; `progress` is that step's."""
        ...

    def elapsed(self) -> float:
        """Seconds of training, those before a resume included."""
        ...
