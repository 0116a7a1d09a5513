"""One class out of C, of which each example's target says how probable it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lossbench.tasks.base import Batch, Fields, Model, given, groups, provide
from lossbench.tasks.multiclass import counts_on, directions, measures
from lossbench.tasks.output import ONE_OF_MANY, Output, class_fields, form_for


@dataclass(frozen=True)
class SoftLabels:
    """Logits (N, C) against rows of probabilities (N, C).

    The negative log-likelihood and the Brier score are of the probabilities, the other metrics of the most probable
    class.

    Attributes:
        class_counts: how many training rows each class has, in expectation; none where they are not known.
    """

    classes: int
    class_counts: tuple[float, ...] = ()
    output: Output = "logits"

    name: ClassVar[str] = "soft_labels"
    pair: ClassVar[tuple[str, str]] = ("logits", "soft_labels")
    fields: ClassVar[tuple[str, ...]] = ("logits", "soft_labels", "log_probs", "probs", "class_counts", "groups")

    @property
    def outputs(self) -> int:
        return self.classes

    @property
    def measured(self) -> tuple[str, ...]:
        return self.pair

    @property
    def directions(self) -> dict[str, str]:
        return directions(self.classes)

    def suited(
        self, needs: Collection[str], *, output: Output | None = None, levels: Sequence[float] = ()
    ) -> SoftLabels:
        return replace(self, output=form_for(self.name, ONE_OF_MANY, needs, output))

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
