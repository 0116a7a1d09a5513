"""A real number."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lossbench.tasks import metrics
from lossbench.tasks.base import Batch, Fields, Model, provide


@dataclass(frozen=True)
class Regression:
    """Predictions (N,) against targets (N,), both standardised; metrics are in the target's own units."""

    mean: float = 0.0
    std: float = 1.0

    name: ClassVar[str] = "regression"
    pair: ClassVar[tuple[str, str]] = ("pred", "target")
    fields: ClassVar[tuple[str, ...]] = ("pred", "target")
    directions: ClassVar[dict[str, str]] = {"rmse": "min", "mae": "min", "r2": "max"}

    @property
    def outputs(self) -> int:
        return 1

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        pred = model(batch["input"]).float().squeeze(1)  # (N, 1) -> (N,)
        return provide(batch, {"pred": lambda: pred, "target": lambda: batch["target"]}, needs)

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        pred = fields["pred"].double() * self.std + self.mean
        target = fields["target"].double() * self.std + self.mean
        return {
            "rmse": (pred - target).square().mean().sqrt(),
            "mae": (pred - target).abs().mean(),
            "r2": metrics.r2(pred, target),
        }
