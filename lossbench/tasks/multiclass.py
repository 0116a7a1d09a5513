"""One class out of C."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lossbench.tasks import metrics
from lossbench.tasks.base import Batch, Fields, Model, given, groups, provide
from lossbench.tasks.output import ONE_OF_MANY, Output, class_fields, form_for

Kind = TypeVar("Kind", bound="OneOfMany")


@dataclass(frozen=True)
class OneOfMany:
    """What the tasks of one class out of C share, whatever their targets say of it.

    Attributes:
        class_counts: how many training rows each class has, in expectation; none where they are not known.
    """

    classes: int
    class_counts: tuple[float, ...] = ()
    output: Output = "logits"

    name: ClassVar[str]
    pair: ClassVar[tuple[str, str]]

    @property
    def outputs(self) -> int:
        return self.classes

    @property
    def measured(self) -> tuple[str, ...]:
        return self.pair

    @property
    def directions(self) -> dict[str, str]:
        """Each metric's better direction, of those that `measures` gives."""
        return {
            "accuracy": "max",
            "error_rate": "min",
            "macro_f1": "max",
            "balanced_accuracy": "max",
            "worst_recall": "max",
            "auroc": "max",
            "average_precision": "max",
            "nll": "min",
            "brier": "min",
            "ece": "min",
            **dict.fromkeys(metrics.recall_names(self.classes), "max"),
        }

    def suited(
        self: Kind, needs: Collection[str], *, output: Output | None = None, levels: Sequence[float] = ()
    ) -> Kind:
        return replace(self, output=form_for(self.name, ONE_OF_MANY, needs, output))


@dataclass(frozen=True)
class Multiclass(OneOfMany):
    """Logits (N, C) against class ids (N,)."""

    name: ClassVar[str] = "multiclass"
    pair: ClassVar[tuple[str, str]] = ("logits", "labels")
    fields: ClassVar[tuple[str, ...]] = (
        "logits",
        "labels",
        "log_probs",
        "probs",
        "soft_labels",
        "class_counts",
        "groups",
    )

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        raw = given(model, batch)  # (N, C)
        made = {
            **class_fields(raw, self.output),
            "labels": lambda: batch["target"],
            "soft_labels": lambda: one_hot(batch["target"], self.classes).to(raw.dtype),
            "class_counts": lambda: counts_on(raw.device, self.class_counts),
            "groups": lambda: groups(batch, batch["target"]),
        }
        return provide(batch, made, needs)

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        labels = fields["labels"]
        return measures(fields["logits"].double(), labels, one_hot(labels, self.classes).double())


def measures(logits: Tensor, labels: Tensor, shares: Tensor) -> dict[str, Tensor]:  # (N, C), (N,), (N, C)
    """Every metric of `directions`; `shares` are the classes' probabilities in truth, `labels` the most probable."""
    log_probs = logits.log_softmax(1)
    probs = log_probs.exp()
    confidence, predicted = probs.max(1)
    counts = metrics.Counts.of(predicted, labels, logits.shape[1])
    right = predicted == labels
    auroc, average_precision = metrics.ranking(probs, one_hot(labels, logits.shape[1]))
    accuracy = right.double().mean()
    return {
        "accuracy": accuracy,
        "error_rate": 1 - accuracy,
        **counts.averages(),
        "auroc": auroc,
        "average_precision": average_precision,
        "nll": -(shares * log_probs).sum(1).mean(),
        "brier": (probs - shares).square().sum(1).mean(),
        "ece": metrics.calibration_error(confidence, right),
        **counts.recalls(),
    }


def one_hot(labels: Tensor, classes: int) -> Tensor:  # (N,) -> (N, C) bool
    """Without torch's check of the ids, for which a GPU would have to be waited for."""
    return labels[:, None] == torch.arange(classes, device=labels.device)


@lru_cache(maxsize=8)
def counts_on(device: torch.device, counts: tuple[float, ...]) -> Tensor:  # (C,)
    """The counts of the training rows, put on a device once."""
    return torch.tensor(counts, device=device)
