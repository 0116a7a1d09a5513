"""Yes or no."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.tasks import metrics
from lossbench.tasks.base import Batch, Fields, Model, provide


@dataclass(frozen=True)
class Binary:
    """Logits (N,) against 0/1 targets (N,)."""

    name: ClassVar[str] = "binary"
    pair: ClassVar[tuple[str, str]] = ("logits", "targets")
    fields: ClassVar[tuple[str, ...]] = ("logits", "targets", "probs")
    directions: ClassVar[dict[str, str]] = {
        "accuracy": "max",
        "f1": "max",
        "auroc": "max",
        "nll": "min",
        "ece": "min",
    }

    @property
    def outputs(self) -> int:
        return 1

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        logits = model(batch["input"]).float().squeeze(1)  # (N, 1) -> (N,)
        made = {
            "logits": lambda: logits,
            "targets": lambda: batch["target"],
            "probs": lambda: logits.sigmoid(),
        }
        return provide(batch, made, needs)

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        logits, targets = fields["logits"].double(), fields["targets"].double()
        predicted, positive = logits > 0, targets > 0.5
        confidence = torch.sigmoid(logits.abs())
        return {
            "accuracy": metrics.accuracy(predicted, positive),
            "f1": metrics.f1(predicted, positive),
            "auroc": metrics.auroc(logits, positive),
            "nll": F.binary_cross_entropy_with_logits(logits, targets),
            "ece": metrics.calibration_error(confidence, predicted == positive),
        }
