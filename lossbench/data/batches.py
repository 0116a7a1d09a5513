"""Batches in a seeded order: gathered by index where the data are tensors, else by a DataLoader."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lossbench.data.prepare import Split
from lossbench.data.rowwise import Rowwise
from lossbench.errors import DataError
from lossbench.seeds import derive
from lossbench.tasks import Batch


class Batches:
    """The training order: epoch e visits every example once, in an order that only the seed and e decide.

    Args:
        accumulate: how many batches make one optimizer step; the last step of an epoch may hold fewer.
        drop_last: leave out a last batch that is not full.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        accumulate: int = 1,
        drop_last: bool = False,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.split, self.batch_size, self.accumulate = split, batch_size, accumulate
        self.drop_last, self.seed, self.workers = drop_last, seed, workers

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
        """The permutation of epoch `epoch` (from 0), drawn on the CPU: every device has the same."""
        generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
        return torch.randperm(len(self.split), generator=generator)

    def epoch(self, epoch: int) -> Iterator[list[Batch]]:
        """One list of micro-batches per optimizer step."""
        order = self.order(epoch)[: self.batches_per_epoch * self.batch_size]
        step: list[Batch] = []
        seed = derive(self.seed, "workers", epoch)
        for batch in gather(self.split, order, self.batch_size, self.workers, seed):
            step.append(batch)
            if len(step) == self.accumulate:
                yield step
                step = []
        if step:
            yield step


def gather(split: Split, order: Tensor, batch_size: int, workers: int = 0, seed: int = 0) -> Iterator[Batch]:
    """The examples of `order` in batches: `input`, `target`, `index` (place in the split), `weight` if any.

    `seed` is that of loader processes, for a data set that draws random numbers.

    Raises:
        DataError: an example that cannot be read.
    """
    if len(order) == 0:
        return
    indices = torch.split(order.to(split.target.device), batch_size)
    inputs: Iterator[Tensor]
    if isinstance(split.inputs, Tensor):
        inputs = (split.inputs[index] for index in indices)
    else:
        inputs = _read(split.inputs, torch.split(order, batch_size), split.target.device, workers, seed)
    for index, batch_input in zip(indices, inputs, strict=True):
        batch = {"input": batch_input, "target": split.target[index], "index": index}
        if split.weight is not None:
            batch["weight"] = split.weight[index]
        yield batch


def _read(rows: Rowwise, places: Sequence[Tensor], device: torch.device, workers: int, seed: int) -> Iterator[Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
        loader = DataLoader(
            rows,
            batch_sampler=[place.tolist() for place in places],
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(seed),  # else it draws from the stream that dropout uses
        )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch.to(device, non_blocking=True)


def _as_it_is(batch: Any) -> Any:
    return batch
