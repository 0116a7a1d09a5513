"""The best weights so far, by a validation metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from lossbench.engine.record import Metrics
from lossbench.engine.tree import cloned

Direction = Literal["min", "max"]


class Best:
    """Holds a copy of the weights at the best evaluation; NaN is never best.

    Of equals the last one stays: on few rows accuracy moves in steps, and within one the loss still falls.

    Args:
        metric: the name of the validation metric.
        direction: whether larger (`max`) or smaller (`min`) is better.
        patience: evaluations without a better value before `exhausted`; null waits for ever.
    """

    def __init__(
        self, modules: Sequence[nn.Module], metric: str, direction: Direction, patience: int | None = None
    ) -> None:
        self.modules, self.metric, self.direction, self.patience = modules, metric, direction, patience
        self.value, self.step, self.epoch, self.waited = float("nan"), 0, 0, 0
        self.weights: list[dict[str, Any]] = []

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def update(self, step: int, epoch: int, metrics: Metrics) -> bool:
        """Take an evaluation; true if it is the best so far."""
        value = metrics[self.metric]
        better = value > self.value if self.direction == "max" else value < self.value
        better = better or (not self.weights and value == value)
        self.waited = 0 if better else self.waited + 1
        if better or value == self.value:
            self.value, self.step, self.epoch = value, step, epoch
            self.weights = []  # let the old ones go first
            self.weights = [cloned(module.state_dict()) for module in self.modules]
        return better

    def restore(self) -> None:
        """Put the best weights back; where no evaluation was a number, the last ones stay."""
        for module, weights in zip(self.modules, self.weights, strict=False):
            module.load_state_dict(weights)

    def forget(self) -> None:
        """Have no best yet."""
        self.value, self.step, self.epoch, self.weights = float("nan"), 0, 0, []

    def state_dict(self) -> dict[str, Any]:
        """All but the weights."""
        return {"value": self.value, "step": self.step, "epoch": self.epoch, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.value, self.step, self.epoch, self.waited = (state[k] for k in ("value", "step", "epoch", "waited"))
