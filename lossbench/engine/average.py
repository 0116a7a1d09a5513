"""Averages of the weights: exponential moving (EMA) and stochastic weight averaging (SWA), by torch's AveragedModel.

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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

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
Tensors = tuple[Tensor, ...] | list[Tensor]


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

    A step that is refused leaves it as it is. Where the host does not learn of the refusal in time (the guard's
    device gate), the run ends at that step, and no average of later ones is looked at.

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
        self.source = nn.ParameterList(parameters)
        self.model = AveragedModel(self.source, multi_avg_fn=self._move)

    @property
    def updates(self) -> int:
        """How often it has moved; there is no average before the first time."""
        return int(self.model.n_averaged)

    def take(self, step: int) -> None:
        """The step was taken: move, if it is one to move at."""
        if step > self.start and step % self.every == 0:
            self.model.update_parameters(self.source)

    @contextmanager
    def in_place(self, modules: Sequence[nn.Module]) -> Iterator[None]:
        """The average in the place of the weights; afterwards parameters and buffers are what they were.

        Args:
            modules: those that hold the parameters.
        """
        with kept(modules):
            with torch.no_grad():
                torch._foreach_copy_(list(self.source), list(self.model.parameters()))
            yield

    def state_dict(self) -> dict[str, Any]:
        """The average and its number of updates, by reference."""
        return {"kind": self.kind, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])

    def _move(self, averages: Tensors, weights: Tensors, n: Tensor | int) -> None:
        """What AveragedModel calls from the second update on, with the number of those before."""
        if self.kind == "swa":
            move = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
        else:
            decay = min(self.decay, (1 + int(n)) / (10 + int(n))) if self.warmup else self.decay
            move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move(averages, weights, n)


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
    with seeded(derive(batches.seed, "refresh")):
        for layer in found:
            layer.reset_running_stats()
            layer.momentum = None  # a mean over all batches
        for inputs in _inputs(batches, augment):
            with cast():
                model(inputs)
    for layer, momentum in zip(found, momenta, strict=True):
        layer.momentum = momentum


def _inputs(batches: Batches, augment: Callable[[Tensor], Tensor] | None) -> Iterator[Tensor]:
    size = batches.batch_size
    order = batches.order(0)[:REFRESHED]
    order = order[: max(len(order) // size, 1) * size]
    seed = derive(batches.seed, "read", 0)
    for batch in gather(batches.split, order, size, batches.workers, seed=seed):
        yield batch["input"] if augment is None else augment(batch["input"])
