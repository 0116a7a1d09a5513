"""One optimizer step: backward, clip, guard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.data import Batches
from lossbench.engine.average import Average, kept, refresh_batch_norm
from lossbench.engine.guard import Guard
from lossbench.engine.objective import Objective, Term, mean, reduce, sums, total
from lossbench.engine.precision import Cast, LossScale
from lossbench.engine.thaw import Thaw
from lossbench.engine.tree import cloned
from lossbench.optim import Schedule
from lossbench.seeds import nth
from lossbench.tasks import Batch, Task

Sums = tuple[Tensor, list[Tensor], list[Tensor]]  # the loss, its terms' weights, and what is recorded of the terms


@dataclass(frozen=True)
class Clip:
    """How gradients are limited: their joint norm, or each one's size."""

    norm: float | None = None
    value: float | None = None


@dataclass
class Player:
    """What one optimizer step needs. An ordinary run has one player; an adversarial one has two.

    Attributes:
        seed: of what a step draws at random, such as dropout.
        augment: changes the inputs of a step, at random.
        thaw: what is frozen for the first epochs.
        average: of the weights, which moves with the steps that are taken.
    """

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
    seed: int = 0
    augment: Callable[[Tensor], Tensor] | None = None
    thaw: Thaw = field(default_factory=Thaw)
    average: Average | None = None

    def __post_init__(self) -> None:
        device = self.parameters[0].device
        on_device = [torch.cuda.default_generators[device.index or 0]] if device.type == "cuda" else []
        self.generators = [torch.default_generator, *on_device]
        self.now = 0  # the step that it stands at
        for optimizer in self.optimizers:
            if hasattr(optimizer, "train"):  # schedule-free
                optimizer.train()

    @property
    def modules(self) -> tuple[nn.Module, nn.Module]:
        """What is trained: the model, and the losses that have parameters or buffers of their own."""
        return self.model, self.objective.modules

    @property
    def lr(self) -> float:
        """The rate of the first parameter group."""
        return float(self.optimizers[0].param_groups[0]["lr"])

    @property
    def columns(self) -> tuple[str, ...]:
        """What is recorded of each step beside its own four numbers and its rate, in the order of `details, settings`.

        Where there are several parameter groups, `lr/GROUP` is the rate of each.
        """
        return (*self.objective.columns, *(f"lr/{group['name']}" for group in self._groups))

    @property
    def settings(self) -> tuple[float, ...]:
        """The last of `columns`, those that the host knows: hyperparameters on a course, and the groups' rates."""
        return (*self.objective.settings, *(float(group["lr"]) for group in self._groups))

    @property
    def _groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimizers, if there are several."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return groups if len(groups) > 1 else []

    def begin(self, step: int) -> None:
        """Stand at a step: what it draws at random, and what moves over the training, depend on the step alone.

        So a step can be run again, and a resumed run draws what the uninterrupted one would have.
        """
        self.now, seed = step, nth(self.seed, step)
        for generator in self.generators:
            generator.manual_seed(seed)
        self.objective.begin(step)
        if self.thaw.begin(step):  # to the optimizer, the first step of these
            self.guard.first = True

    @contextmanager
    def evaluating(self, batches: Batches) -> Iterator[None]:
        """Weights as they are to be measured and kept: those of a schedule-free optimizer are others than it trains.

        Afterwards the weights are put back, since switching forth and back moves them by rounding.

        Args:
            batches: of the training, from which BatchNorm's statistics are found for weights that it never saw.
        """
        switching: list[Any] = [o for o in self.optimizers if hasattr(o, "eval") and hasattr(o, "train")]
        if not switching:
            yield
            return
        with kept(self.modules):
            for optimizer in switching:
                optimizer.eval()
            try:
                refresh_batch_norm(self.model, batches, self.cast, self.augment)
                yield
            finally:
                for optimizer in switching:
                    optimizer.train()

    def step(self, micro_batches: Sequence[Batch]) -> Tensor:
        """One optimizer step on one or more micro-batches, as if they were one batch.

        Returns:
            (loss, grad_norm, loss_scale, verdict), then what `objective.details` gives, in one tensor on the device.
        """
        self.guard.save()
        for parameter in self.parameters:
            parameter.grad = None
        run = self._backward if len(micro_batches) == 1 else self._accumulate
        loss, weights, details = run(micro_batches)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = clip_gradients(gradients, self.clip, look=self.guard.looks)
        again = partial(self._again, run, micro_batches) if self.guard.searches else None
        verdict, moved = self.guard.take(loss, norm, weights, again)
        if moved:
            for schedule in self.schedules:
                schedule.step()
            if self.average is not None:
                self.average.take(self.now, verdict if self.guard.gate == "device" else None)
        return torch.stack((loss, norm, self.scale.value, verdict, *details))

    def terms(self, batch: Batch) -> list[Term]:
        """The terms of a batch of the training, without the penalties."""
        if self.augment is not None:
            batch = {**batch, "input": self.augment(batch["input"])}
        with self.cast():
            fields = self.task.forward(self.model, batch, self.objective.needs)
        return self.objective.terms(fields)

    def state(self) -> dict[str, Any]:
        """All that a step changes and the next one starts from, by reference; `cloned` makes it last."""
        return {
            "modules": [module.state_dict() for module in self.modules],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "scale": self.scale.scaler.state_dict(),
            "guard": self.guard.state_dict(),
            **({} if self.average is None else {"average": self.average.state_dict()}),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave, which stays untouched."""
        state = cloned(state)  # an optimizer would go on in the very tensors that it is given
        for module, saved in zip(self.modules, state["modules"], strict=True):
            module.load_state_dict(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.scale.load_state_dict(state["scale"])
        self.guard.load_state_dict(state["guard"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _backward(self, micro_batches: Sequence[Batch]) -> Sums:
        """The gradient of one batch."""
        objective = self.objective
        terms = [*self.terms(micro_batches[0]), *objective.penalties()]
        means = [mean(term, objective.reduction) for term in terms]
        loss = total(terms, means)
        self.scale.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scale.unscale(self.optimizers)
        weights = [term.weights for term in terms if term.weights is not None]
        return loss.detach(), weights, objective.details(terms, means)

    def _again(self, run: Callable[[Sequence[Batch]], Sums], micro_batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """The step's loss and gradient norm once more, with the same random numbers, where the parameters are now."""
        self.begin(self.now)
        for parameter in self.parameters:
            parameter.grad = None
        loss, *_ = run(micro_batches)
        return loss, clip_gradients([p.grad for p in self.parameters if p.grad is not None], Clip())

    def _accumulate(self, micro_batches: Sequence[Batch]) -> Sums:
        """The gradient of several batches, exactly that of their union: of one term, or of several without weights.

        Only the end of the step knows the sum of the weights, so the backward passes divide by a constant (a raw sum
        would overflow fp16) and the gradients are rescaled before anyone looks at them.
        """
        objective = self.objective
        constant = sum(len(batch["index"]) for batch in micro_batches)
        parts = []
        for batch in micro_batches:
            terms = self.terms(batch)
            found = [sums(term, len(batch["index"])) for term in terms]
            values = [value for value, _ in found]
            loss = total(terms, values)
            self.scale.scale(loss / constant).backward()  # type: ignore[no-untyped-call]
            weight = torch.as_tensor(found[0][1]).to(loss)
            parts.append(torch.stack((weight, *values)).detach())
        weight, *values = torch.stack(parts).sum(0).unbind()
        divisor = torch.ones_like(weight) if objective.reduction == "sum" else weight
        self.scale.unscale(self.optimizers)
        torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], constant / divisor)
        penalties = objective.penalties()
        if penalties:
            reduce(penalties).backward()  # type: ignore[no-untyped-call]
        terms = [*terms, *penalties]
        means = [*(value / divisor for value in values), *(mean(term) for term in penalties)]
        return total(terms, means).detach(), [weight], objective.details(terms, means)


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
