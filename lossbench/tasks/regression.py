"""A real number: itself, quantiles of it, its mean with a variance, or the rate of a count."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lossbench.errors import ConfigError, DataError
from lossbench.losses.shape import exp_linear
from lossbench.tasks import metrics
from lossbench.tasks.base import Batch, Fields, Model, given, groups, provide
from lossbench.tasks.output import Output

Head = Literal["value", "quantiles", "variance", "log_rate"]

HEADS: dict[str, Head] = {"pred_quantiles": "quantiles", "variance": "variance", "log_rate": "log_rate"}  # by field
LEAST_VARIANCE = 1e-6  # as torch's gaussian_nll_loss has it
GAUSSIAN = {0.1: -1.2815515655446004, 0.5: 0.0, 0.9: 1.2815515655446004}  # quantiles of the standard normal


@dataclass(frozen=True)
class Regression:
    """Predictions (N,) against targets (N,), both standardised; metrics are in the target's own units.

    Attributes:
        head: what the model's outputs are: the value; a quantile for each of `levels`; the mean and the log-variance;
            or the logarithm of a rate, as a multiple of the training rows' mean.
        levels: of the quantiles that the outputs stand for; one for a value that is a quantile.
    """

    mean: float = 0.0
    std: float = 1.0
    head: Head = "value"
    levels: tuple[float, ...] = ()

    name: ClassVar[str] = "regression"
    pair: ClassVar[tuple[str, str]] = ("pred", "target")
    fields: ClassVar[tuple[str, ...]] = (
        "pred",
        "target",
        "pred_quantiles",
        "variance",
        "log_rate",
        "counts",
        "groups",
    )
    output: ClassVar[Output] = "logits"

    @property
    def outputs(self) -> int:
        return {"quantiles": len(self.levels), "variance": 2}.get(self.head, 1)

    @property
    def measured(self) -> tuple[str, ...]:
        fields: dict[Head, tuple[str, ...]] = {
            "value": self.pair,
            "quantiles": ("pred_quantiles", "target"),
            "variance": ("pred", "variance", "target"),
            "log_rate": ("log_rate", "counts"),
        }
        return fields[self.head]

    @property
    def directions(self) -> dict[str, str]:
        found = {"variance": {"nll": "min"}, "log_rate": {"deviance": "min"}}.get(self.head, {})
        levels = len(GAUSSIAN) if self.head == "variance" else len(self.levels)
        if levels:
            found |= {"pinball": "min", "coverage": "max"}
        if levels > 1:
            found |= {"interval_width": "min"}
        if self.head == "quantiles" and levels > 1:
            found |= {"crossing_rate": "min"}
        return {**found, "rmse": "min", "mae": "min", "r2": "max"}

    def suited(
        self, needs: Collection[str], *, output: Output | None = None, levels: Sequence[float] = ()
    ) -> Regression:
        if output is not None:
            raise ConfigError(f"model.output={output} is for classes, and task regression has none; leave it out")
        asked = [field for field in HEADS if field in needs]
        if len(asked) > 1:
            raise ConfigError(f"the loss takes {' and '.join(asked)}, and a model has one head: take one of them")
        head: Head = HEADS[asked[0]] if asked else "value"
        if head == "log_rate" and self.mean <= 0:
            raise DataError(f"the loss needs counts of 0 or more, and the mean of the training rows is {self.mean:g}")
        kept = tuple(levels) if head in ("value", "quantiles") else ()
        if head == "quantiles" and not kept:
            raise ConfigError("the loss takes pred_quantiles: mark the parameter that holds their levels as Levels")
        if head == "quantiles" and any(a >= b for a, b in pairwise(kept)):
            raise ConfigError(f"loss.quantiles must rise, got {list(kept)}")
        if head == "value" and len(set(kept)) > 1:
            raise ConfigError(
                f"one prediction cannot stand for the quantiles {', '.join(f'{q:g}' for q in kept)}; "
                "take loss=multi_quantile"
            )
        return replace(self, head=head, levels=kept if head == "quantiles" else kept[:1])

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        raw = given(model, batch)
        made = {
            **self._of_head(raw),
            "target": lambda: batch["target"],
            "counts": lambda: self.in_units(batch["target"]).clamp_min(0),
            "groups": lambda: groups(batch),
        }
        return provide(batch, made, needs)

    def _of_head(self, raw: Tensor) -> dict[str, Callable[[], Tensor]]:
        """The fields that the model's outputs (N, outputs) make."""
        if self.head == "quantiles":
            middle = min(range(len(self.levels)), key=lambda k: abs(self.levels[k] - 0.5))
            return {"pred": lambda: raw[:, middle], "pred_quantiles": lambda: raw}
        if self.head == "variance":
            return {"pred": lambda: raw[:, 0], "variance": lambda: exp_linear(raw[:, 1])}
        value = raw.squeeze(1)
        if self.head == "log_rate":
            log_rate = value + math.log(self.mean)
            return {"pred": lambda: (exp_linear(log_rate) - self.mean) / self.std, "log_rate": lambda: log_rate}
        return {"pred": lambda: value}

    def in_units(self, standardised: Tensor) -> Tensor:
        """In the target's own units."""
        return standardised * self.std + self.mean

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        found = {name: fields[name].double() for name in self.measured}
        if self.head == "log_rate":
            rate, counts = exp_linear(found["log_rate"]), found["counts"]
            return {"deviance": metrics.poisson_deviance(found["log_rate"], counts), **_of_value(rate, counts)}
        target = self.in_units(found["target"])
        if self.head == "quantiles":
            quantiles = self.in_units(found["pred_quantiles"])
            middle = self._of_head(quantiles)["pred"]()
            crossing = {"crossing_rate": metrics.crossing_rate(quantiles)} if len(self.levels) > 1 else {}
            return {**_of_quantiles(quantiles, target, self.levels), **crossing, **_of_value(middle, target)}
        pred = self.in_units(found["pred"])
        if self.head == "variance":
            variance = found["variance"].clamp_min(LEAST_VARIANCE) * self.std**2
            nll = ((target - pred).square() / variance + (2 * math.pi * variance).log()).mean() / 2
            scores = torch.tensor(list(GAUSSIAN.values()), dtype=pred.dtype, device=pred.device)
            quantiles = pred[:, None] + variance.sqrt()[:, None] * scores
            return {"nll": nll, **_of_quantiles(quantiles, target, tuple(GAUSSIAN)), **_of_value(pred, target)}
        of_level = _of_quantiles(pred[:, None], target, self.levels) if self.levels else {}
        return {**of_level, **_of_value(pred, target)}


def _of_quantiles(quantiles: Tensor, target: Tensor, levels: Sequence[float]) -> dict[str, Tensor]:
    return {"pinball": metrics.pinball(quantiles, target, levels), **metrics.interval(quantiles, target)}


def _of_value(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
    return {
        "rmse": (pred - target).square().mean().sqrt(),
        "mae": (pred - target).abs().mean(),
        "r2": metrics.r2(pred, target),
    }
