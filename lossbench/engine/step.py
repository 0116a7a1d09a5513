"""One optimizer step: backward, clip, guard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.engine.guard import Guard
from lossbench.engine.objective import Objective, Term, reduce, sums
from lossbench.engine.precision import Cast, LossScale
from lossbench.optim import Schedule
from lossbench.tasks import Batch, Task


@dataclass(frozen=True)
class Clip:
    """How gradients are limited: their joint norm, or each one's size."""

    norm: float | None = None
    value: float | None = None


@dataclass
class Player:
    """What one optimizer step needs. An ordinary run has one player; an adversarial one has two."""

    model: nn.Module
    task: Task
    objective: Objective
    parameters: list[nn.Parameter]
    optimizers: Sequence[Optimizer]
    schedules: Sequence[Schedule]
    guard: Guard
    scale: LossScale
    cast: Cast
    clip: Clip

    @property
    def lr(self) -> float:
        """The rate of the first parameter group."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    def step(self, micro_batches: Sequence[Batch]) -> Tensor:
        """One optimizer step on one or more micro-batches, as if they were one batch.

        Returns:
            (loss, grad_norm, loss_scale, verdict), a tensor of 4 on the device.
        """
        self.guard.save()
        for parameter in self.parameters:
            parameter.grad = None
        loss, weights = self._backward(micro_batches) if len(micro_batches) == 1 else self._accumulate(micro_batches)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = clip_gradients(gradients, self.clip, look=self.guard.looks)
        verdict, moved = self.guard.take(loss, norm, weights)
        if moved:
            for schedule in self.schedules:
                schedule.step()
        return torch.stack((loss, norm, self.scale.value, verdict))

    def _terms(self, batch: Batch) -> list[Term]:
        with self.cast():
            fields = self.task.forward(self.model, batch, self.objective.needs)
        return self.objective.terms(fields)

    def _backward(self, micro_batches: Sequence[Batch]) -> tuple[Tensor, list[Tensor]]:
        """The gradient of one batch; returns the loss and its terms' weights."""
        terms = self._terms(micro_batches[0])
        loss = reduce(terms, self.objective.reduction)
        self.scale.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scale.unscale(self.optimizers)
        return loss.detach(), [term.weights for term in terms if term.weights is not None]

    def _accumulate(self, micro_batches: Sequence[Batch]) -> tuple[Tensor, list[Tensor]]:
        """The gradient of several batches, exactly that of their union.

        Only the end of the step knows the sum of the weights, so the backward passes divide by a constant (a raw sum
        would overflow fp16) and the gradients are rescaled before anyone looks at them.
        """
        constant = sum(len(batch["index"]) for batch in micro_batches)
        parts = []
        for batch in micro_batches:
            (term,) = self._terms(batch)
            value, weight = sums(term, len(batch["index"]))
            self.scale.scale(value / constant).backward()  # type: ignore[no-untyped-call]
            weight = weight if isinstance(weight, Tensor) else torch.full_like(value, weight)
            parts.append(torch.stack((value.detach(), weight)))
        total, weight = torch.stack(parts).sum(0)
        divisor = torch.ones_like(weight) if self.objective.reduction == "sum" else weight
        self.scale.unscale(self.optimizers)
        torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], constant / divisor)
        return total / divisor, [weight]


def clip_gradients(gradients: list[Tensor], clip: Clip, *, look: bool = False) -> Tensor:
    """Limit the gradients in place; returns their joint 2-norm from before. Equal to torch's `clip_grad_norm_`.

    Args:
        look: read the norm, which is free on the CPU, and leave gradients alone that a factor of 1 would not change.
    """
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if clip.norm is not None and not (look and norm.item() + 1e-6 < clip.norm):
        torch._foreach_mul_(gradients, (clip.norm / (norm + 1e-6)).clamp(max=1.0))
    elif clip.value is not None:
        torch._foreach_clamp_min_(gradients, -clip.value)
        torch._foreach_clamp_max_(gradients, clip.value)
    return norm
