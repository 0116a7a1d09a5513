"""One class out of C, of which each example's target says how probable it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lossbench.tasks.base import Batch, Fields, Model, given, groups, provide
from lossbench.tasks.multiclass import OneOfMany, counts_on, measures
from lossbench.tasks.output import class_fields


@dataclass(frozen=True)
class SoftLabels(OneOfMany):
    """Logits (N, C) against rows of probabilities (N, C).

    The negative log-likelihood and the Brier score are of the probabilities, the other metrics of the most probable
    class.
    """

    name: ClassVar[str] = "soft_labels"
    pair: ClassVar[tuple[str, str]] = ("logits", "soft_labels")
    fields: ClassVar[tuple[str, ...]] = ("logits", "soft_labels", "log_probs", "probs", "class_counts", "groups")

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        raw = given(model, batch)  # (N, C)
        made = {
            **class_fields(raw, self.output),
            "soft_labels": lambda: batch["target"],
            "class_counts": lambda: counts_on(raw.device, self.class_counts),
            "groups": lambda: groups(batch),
        }
        return provide(batch, made, needs)

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        shares = fields["soft_labels"].double()
        return measures(fields["logits"].double(), shares.argmax(1), shares)
