"""The metrics of a split."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lossbench.data import Split, gather
from lossbench.engine.objective import Objective, mean, sums, total
from lossbench.engine.precision import Cast
from lossbench.tasks import Task


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, objective: Objective, split: Split, *, batch_size: int, cast: Cast, workers: int = 0
) -> dict[str, float]:
    """The task's metrics over a split, and `loss`, the training loss as a mean over it.

    Metrics weigh every example the same; `loss` uses the examples' own weights, as the training does. The model is in
    evaluation mode meanwhile. Where an output is not finite, every metric is NaN.
    """
    modes = [(m, m.training) for m in (*model.modules(), *objective.modules.modules())]
    model.eval()
    objective.modules.eval()
    needs: Collection[str] = dict.fromkeys((*objective.needs, *task.measured))
    totals, kept = [], []
    for batch in gather(split, torch.arange(len(split)), batch_size, workers):
        with cast():
            fields = task.forward(model, batch, needs)
        terms = objective.terms(fields)
        totals.append([torch.stack(_pair(*sums(term, len(batch["index"])))) for term in terms])
        kept.append([fields[name] for name in task.measured])
    for module, training in modes:
        module.training = training
    whole = dict(zip(task.measured, map(torch.cat, zip(*kept, strict=True)), strict=True))
    penalties = objective.penalties()
    means = [*_means(totals), *(mean(term) for term in penalties)]
    metrics = {"loss": total([*terms, *penalties], means), **task.metrics(whole)}
    # Metrics that only sort or compare make numbers out of NaN too: of such outputs every metric is NaN.
    usable = torch.stack([values.isfinite().all() for values in whole.values()]).all()
    numbers = torch.stack([torch.where(usable, value.double(), torch.nan) for value in metrics.values()]).tolist()
    return dict(zip(metrics, numbers, strict=True))


def _pair(value: Tensor, weight: Tensor | int) -> tuple[Tensor, Tensor]:
    return value.double(), torch.as_tensor(weight, dtype=torch.float64, device=value.device)


def _means(totals: list[list[Tensor]]) -> tuple[Tensor, ...]:
    """Of each term, over the batches."""
    value, weight = torch.stack([torch.stack(terms) for terms in totals]).sum(0).unbind(-1)
    return (value / weight).unbind()
