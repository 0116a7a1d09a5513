"""Averages of the weights: exponential moving (EMA) and stochastic weight averaging (SWA), as torch's AveragedModel.

They are measured beside the raw weights, which they never change. Statistics of BatchNorm are no weights, and an
average of statistics is not that of the averaged weights: they are found again from training batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from lossbench.data import Batches, gather
from lossbench.data.rowwise import seeded
from lossbench.engine.best import Best
from lossbench.engine.buffers import Buffers
from lossbench.engine.precision import Cast
from lossbench.engine.record import Metrics
from lossbench.engine.tree import cloned
from lossbench.seeds import derive

REFRESHED = 10_000  # training rows that BatchNorm's statistics are found from, at the most

Kind = Literal["ema", "swa"]


@dataclass(frozen=True)
class AverageOptions:
    """`trainer.average.*`; conf/trainer/default.yaml says what each is."""

    kind: Kind | None = None
    decay: Annotated[float, "(0, 1)"] = 0.999
    warmup: bool = True
    start: Annotated[float | None, "[0, inf)"] = None
    every: Literal["step", "epoch"] | Annotated[int, "[1, inf)"] | None = None


class Average:
    """A running average of parameters, which moves with the steps that were taken.

    `ema` (Polyak and Juditsky 1992; Tarvainen and Valpola 2017): average = decay * average + (1 - decay) * weights,
    with the weights themselves as the first average. `swa` (Izmailov et al. 2018): the mean of the weights.

    To the last bit of float32 it is what torch's AveragedModel gives, which counts its updates in a tensor and waits
    for the device to read it: here the host counts. A step that is refused leaves the average as it is. Where the
    host does not learn of the refusal in time (the guard's device gate), the step is not counted, the run ends at it,
    and no average of later ones is looked at.

    Args:
        start: the optimizer steps before averaging begins.
        every: it moves at each step that is a multiple of this.
        decay: of `ema`.
        warmup: the decay of the n-th update is at most (1 + n) / (10 + n), as in TensorFlow's
            ExponentialMovingAverage: the first weights are forgotten soon.
    """

    def __init__(
        self,
        kind: Kind,
        parameters: Sequence[nn.Parameter],
        *,
        start: int = 0,
        every: int = 1,
        decay: float = 0.999,
        warmup: bool = True,
    ) -> None:
        self.kind, self.start, self.every, self.decay, self.warmup = kind, start, every, decay, warmup
        self.source: list[Tensor] = list(parameters)
        self.weights: list[Tensor] = cloned(self.source)
        self.moves, self.last = 0, 0  # how often it has moved, and the step of the last time
        self.refused = torch.zeros((), dtype=torch.long, device=self.source[0].device)  # moves at no step

    @property
    def updates(self) -> int:
        """At how many steps it has moved; there is no average before the first. Waits for the device."""
        return self.moves - int(self.refused)

    def take(self, step: int, verdict: Tensor | None = None) -> None:
        """The step was taken: move, if it is one to move at.

        Args:
            verdict: whether it was taken after all, where only the device knows; a scalar, 0 if it was.
        """
        if step <= self.start or step % self.every:
            return
        self._move()
        self.moves, self.last = self.moves + 1, step
        if verdict is not None:
            self.refused += verdict != 0

    @contextmanager
    def in_place(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """The average in the place of the weights; afterwards parameters and buffers are what they were.

        Args:
            modules: those that hold the parameters.
        """
        with kept(modules):
            with torch.no_grad():
                torch._foreach_copy_(self.source, self.weights)
            yield

    def state_dict(self) -> dict[str, Any]:
        """The average by reference, its number of updates, and the step of the last one."""
        return {"kind": self.kind, "updates": self.updates, "last": self.last, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.moves, self.last = state["updates"], state["last"]
        self.refused.zero_()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, state["weights"])

    def goes_on(self, state: Mapping[str, Any] | None) -> bool:
        """Whether a state is of the same kind of average, of the same parameters, and of no steps before the start.

        A longer run, whose start is a share of its length, may begin to average after the step it is resumed at.
        """
        if state is None or state["kind"] != self.kind:
            return False
        alike = [tensor.shape for tensor in state["weights"]] == [tensor.shape for tensor in self.weights]
        return alike and (state["updates"] == 0 or state["last"] > self.start)

    def _move(self) -> None:
        n = self.moves
        if n == 0:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.source)
            return
        if self.kind == "swa":
            move = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        else:
            decay = min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
            move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move(self.weights, self.source, n)


@dataclass(frozen=True)
class Averaged:
    """An average, what is measured of it, and its weights at its best evaluation.

    Attributes:
        evaluate: the validation metrics of the weights in place, statistics refreshed.
    """

    average: Average
    best: Best
    evaluate: Callable[[], Metrics]

    def measure(self, step: int, epoch: int) -> dict[str, Metrics]:
        """The validation metrics by the split's name, `val_ema` or `val_swa`; nothing before the first average."""
        if not self.average.updates:
            return {}
        with self.average.in_place(self.best.modules):
            metrics = self.evaluate()
            self.best.update(step, epoch, metrics)
        return {f"val_{self.average.kind}": metrics}


@contextmanager
def kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Put back at the end what becomes of the modules' parameters and buffers."""
    parameters: list[Tensor] = list(dict.fromkeys(p for module in modules for p in module.parameters()))
    saved, buffers = cloned(parameters), Buffers(modules)
    try:
        yield
    finally:
        with torch.no_grad():
            if parameters:
                torch._foreach_copy_(parameters, saved)
        buffers.restore()


@torch.no_grad()
def refresh_batch_norm(
    model: nn.Module, batches: Batches, cast: Cast, augment: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Find the running statistics of BatchNorm again for the weights as they are, from at most 10,000 training rows.

    As torch's `update_bn`: the mean over batches of the training's size of what the layers see in training mode. The
    batches are those of the first epoch, augmented as the training's are. Only whole ones count, because each weighs
    the same. Layers that are frozen (in evaluation mode) stay as they are, and so do the host's random streams; a
    device's is seeded at each step.

    Raises:
        DataError: an example that cannot be read.
    """
    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not found:
        return
    momenta = [layer.momentum for layer in found]
    try:
        with seeded(derive(batches.seed, "refresh")):
            for layer in found:
                layer.reset_running_stats()
                layer.momentum = None  # a mean over all batches
            for inputs in _inputs(batches, augment):
                with cast():
                    model(inputs)
    finally:
        for layer, momentum in zip(found, momenta, strict=True):
            layer.momentum = momentum


def _inputs(batches: Batches, augment: Callable[[Tensor], Tensor] | None) -> Iterator[Tensor]:
    size = batches.batch_size
    order = batches.order(0)[:REFRESHED]
    order = order[: max(len(order) // size, 1) * size]
    seed = derive(batches.seed, "read", 0)
    for batch in gather(batches.split, order, size, batches.workers, seed=seed):
        yield batch["input"] if augment is None else augment(batch["input"])
