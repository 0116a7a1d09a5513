"""Batches in a seeded order: gathered by index where the data are tensors, else by a DataLoader."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from lossbench.data.loader import read_batches
from lossbench.data.sampler import Sampler, drawer
from lossbench.data.split import Split
from lossbench.seeds import derive
from lossbench.tasks import Batch


class Batches:
    """The training order: only the seed and e decide which examples epoch e visits, and in what order.

    Args:
        sampler: `shuffle` visits every example once; `balanced` draws as many, each class equally often.
        accumulate: how many batches make one optimizer step; the last step of an epoch may hold fewer.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        sampler: Sampler = "shuffle",
        accumulate: int = 1,
        drop_last: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.split, self.batch_size, self.accumulate = split, batch_size, accumulate
        self.drop_last, self.seed, self.workers = drop_last, seed, workers
        self._draw = drawer(sampler, split.target)

    @property
    def batches_per_epoch(self) -> int:
        full, rest = divmod(len(self.split), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    @property
    def examples_per_epoch(self) -> int:
        return min(len(self.split), self.batches_per_epoch * self.batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-self.batches_per_epoch // self.accumulate)

    def order(self, epoch: int) -> Tensor:
        """The examples of epoch `epoch` (from 0) in their order, as places in the split: the same on every device."""
        return self._draw(torch.Generator().manual_seed(derive(self.seed, "order", epoch)))

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[list[Batch]]:
        """One list of micro-batches per optimizer step, without the first `skip` steps, which are not read."""
        return self._steps(epoch, skip, self.steps_per_epoch, self.workers)

    def at(self, step: int) -> list[Batch]:
        """The micro-batches of an optimizer step (from 1, over the whole run), as the training had them."""
        epoch, place = divmod(step - 1, self.steps_per_epoch)
        return next(self._steps(epoch, place, place + 1, workers=0))

    def _steps(self, epoch: int, start: int, stop: int, workers: int) -> Iterator[list[Batch]]:
        first, last = start * self.accumulate, min(stop * self.accumulate, self.batches_per_epoch)
        order = self.order(epoch)[first * self.batch_size : last * self.batch_size]
        batches = gather(
            self.split, order, self.batch_size, workers, seed=derive(self.seed, "read", epoch), first=first
        )
        while step := list(islice(batches, self.accumulate)):
            yield step


def gather(
    split: Split, order: Tensor, batch_size: int, workers: int = 0, *, seed: int = 0, first: int = 0
) -> Iterator[Batch]:
    """The examples of `order` in batches: `input`, `target`, `index` (place in the split), `weight` and `group` if any.

    A map-style data set that draws random numbers draws them for batch i from a seed of its own, which `seed` and
    `first` + i decide.

    Raises:
        DataError: an example that cannot be read.
        ResourceError: a loader process that was killed or hangs.
    """
    if len(order) == 0:
        return
    indices = torch.split(order.to(split.target.device), batch_size)
    inputs: Iterator[Tensor]
    if isinstance(split.inputs, Tensor):
        inputs = (split.inputs[index] for index in indices)
    else:
        places = enumerate(torch.split(order, batch_size), first)
        requests = [(derive(seed, "batch", i), place.tolist()) for i, place in places]
        inputs = read_batches(split.inputs, requests, split.target.device, workers)
    for index, batch_input in zip(indices, inputs, strict=True):
        batch = {"input": batch_input, "target": split.target[index], "index": index}
        if split.weight is not None:
            batch["weight"] = split.weight[index]
        if split.group is not None:
            batch["group"] = split.group[index]
        yield batch
