"""Yes or no."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lossbench.tasks import metrics
from lossbench.tasks.base import Batch, Fields, Model, given, groups, provide
from lossbench.tasks.output import YES_OR_NO, Output, binary_fields, form_for


@dataclass(frozen=True)
class Binary:
    """Logits (N,) against 0/1 targets (N,)."""

    output: Output = "logits"

    name: ClassVar[str] = "binary"
    pair: ClassVar[tuple[str, str]] = ("logits", "targets")
    fields: ClassVar[tuple[str, ...]] = ("logits", "targets", "probs", "groups")

    @property
    def outputs(self) -> int:
        return 1

    @property
    def measured(self) -> tuple[str, ...]:
        return self.pair

    @property
    def directions(self) -> dict[str, str]:
        return {
            "accuracy": "max",
            "error_rate": "min",
            "f1": "max",
            "macro_f1": "max",
            "balanced_accuracy": "max",
            "worst_recall": "max",
            "auroc": "max",
            "average_precision": "max",
            "nll": "min",
            "brier": "min",
            "ece": "min",
            "recall/0": "max",
            "recall/1": "max",
        }

    def suited(self, needs: Collection[str], *, output: Output | None = None, levels: Sequence[float] = ()) -> Binary:
        return replace(self, output=form_for(self.name, YES_OR_NO, needs, output))

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        raw = given(model, batch).squeeze(1)  # (N, 1) -> (N,)
        made = {
            **binary_fields(raw, self.output),
            "targets": lambda: batch["target"],
            "groups": lambda: groups(batch, batch["target"]),
        }
        return provide(batch, made, needs)

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        logits, targets = fields["logits"].double(), fields["targets"].double()
        predicted, positive = logits > 0, targets > 0.5
        auroc, average_precision = metrics.ranking(logits, positive)
        right = metrics.accuracy(predicted, positive)
        counts = metrics.Counts.of(predicted.long(), positive.long(), 2)
        return {
            "accuracy": right,
            "error_rate": 1 - right,
            "f1": metrics.f1(predicted, positive),
            **counts.averages(),
            "auroc": auroc,
            "average_precision": average_precision,
            "nll": F.binary_cross_entropy_with_logits(logits, targets),
            "brier": (logits.sigmoid() - targets).square().mean(),
            "ece": metrics.calibration_error(logits.abs().sigmoid(), predicted == positive),
            **counts.recalls(),
        }
