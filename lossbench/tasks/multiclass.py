"""One class out of C."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lossbench.tasks import metrics
from lossbench.tasks.base import Batch, Fields, Model, provide


@dataclass(frozen=True)
class Multiclass:
    """Logits (N, C) against class ids (N,)."""

    classes: int

    name: ClassVar[str] = "multiclass"
    pair: ClassVar[tuple[str, str]] = ("logits", "labels")
    fields: ClassVar[tuple[str, ...]] = ("logits", "labels", "log_probs", "probs")
    directions: ClassVar[dict[str, str]] = {"accuracy": "max", "macro_f1": "max", "nll": "min", "ece": "min"}

    @property
    def outputs(self) -> int:
        return self.classes

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        logits = model(batch["input"]).float()  # (N, C)
        made = {
            "logits": lambda: logits,
            "labels": lambda: batch["target"],
            "log_probs": lambda: logits.log_softmax(1),
            "probs": lambda: logits.softmax(1),
        }
        return provide(batch, made, needs)

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        logits, labels = fields["logits"].double(), fields["labels"]
        confidence, predicted = logits.softmax(1).max(1)
        return {
            "accuracy": metrics.accuracy(predicted, labels),
            "macro_f1": metrics.macro_f1(predicted, labels, self.classes),
            "nll": F.cross_entropy(logits, labels),
            "ece": metrics.calibration_error(confidence, predicted == labels),
        }
