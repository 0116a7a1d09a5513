"""Several yes-or-no labels at once."""

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
class Multilabel:
    """Logits (N, K) against 0/1 targets (N, K)."""

    labels: int
    output: Output = "logits"

    name: ClassVar[str] = "multilabel"
    pair: ClassVar[tuple[str, str]] = ("logits", "targets")
    fields: ClassVar[tuple[str, ...]] = ("logits", "targets", "multi_hot", "probs", "groups")

    @property
    def outputs(self) -> int:
        return self.labels

    @property
    def measured(self) -> tuple[str, ...]:
        return self.pair

    @property
    def directions(self) -> dict[str, str]:
        return {
            "macro_f1": "max",
            "accuracy": "max",
            "exact_match": "max",
            "micro_f1": "max",
            "auroc": "max",
            "average_precision": "max",
            "nll": "min",
            "brier": "min",
            "ece": "min",
        }

    def suited(
        self, needs: Collection[str], *, output: Output | None = None, levels: Sequence[float] = ()
    ) -> Multilabel:
        return replace(self, output=form_for(self.name, YES_OR_NO, needs, output))

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        made = {
            **binary_fields(given(model, batch), self.output),  # (N, K)
            "targets": lambda: batch["target"],
            "multi_hot": lambda: batch["target"],
            "groups": lambda: groups(batch),
        }
        return provide(batch, made, needs)

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        logits, targets = fields["logits"].double(), fields["targets"].double()
        predicted, positive = logits > 0, targets > 0.5
        auroc, average_precision = metrics.ranking(logits, positive)
        right = predicted == positive
        counts = metrics.Counts((predicted & positive).sum(0).double(), predicted.sum(0), positive.sum(0))
        return {
            "macro_f1": counts.f1().nanmean(),
            "accuracy": right.double().mean(),
            "exact_match": right.all(1).double().mean(),
            "micro_f1": metrics.f1(predicted, positive),
            "auroc": auroc,
            "average_precision": average_precision,
            "nll": F.binary_cross_entropy_with_logits(logits, targets),
            "brier": (logits.sigmoid() - targets).square().mean(),
            "ece": metrics.calibration_error(logits.abs().sigmoid().flatten(), right.flatten()),
        }
