"""Inputs that stay where they are, and are read when a batch needs them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lossbench.errors import DataError

TIMEOUT = 300.0

Request = tuple[int, list[int]]  # a batch: its seed, and its places in the split


class Rowwise(Dataset[Tensor]):
    """Some rows of a map-style data set, or of an array in host memory; all items have one shape.

    Args:
        timeout: seconds to wait for a loader process that reads them.
    """

    def __init__(self, items: Any, rows: NDArray[np.intp], shape: tuple[int, ...], timeout: float = TIMEOUT) -> None:
        self.items, self.rows, self.shape, self.timeout = items, rows, shape, timeout

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Tensor:
        return self.read([place])[0]

    def __getitems__(self, request: Request) -> Tensor | DataError:
        """A whole batch, as a DataLoader asks for it, or what is wrong with it.

        A data set that draws random numbers draws the same ones for the same seed, in whatever process. An error is
        returned, not raised: raised in a loader process, it would arrive as a page of traceback.
        """
        seed, places = request
        try:
            if isinstance(self.items, np.ndarray):
                return self.read(places)
            with seeded(seed):
                return self.read(places)
        except DataError as error:
            return error

    def read(self, places: list[int]) -> Tensor:
        """The examples at these places of the split, stacked.

        Raises:
            DataError: an example that cannot be read, or has another shape than the others.
        """
        rows = self.rows[places]
        if isinstance(self.items, np.ndarray):
            return torch.from_numpy(self.items[rows])
        examples = [example(self.items, row) for row in rows.tolist()]
        for row, found in zip(rows, examples, strict=True):
            if tuple(found.shape) != self.shape:
                raise DataError(f"example {row} has shape {tuple(found.shape)}, and example 0 {self.shape}")
        return torch.stack(examples)

    def take(self, places: NDArray[np.intp]) -> Rowwise:
        """Some of its rows, by their place."""
        return Rowwise(self.items, self.rows[places], self.shape, self.timeout)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global random streams of torch (on the CPU), NumPy and Python from a seed, and put back afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` seeds CUDA's streams too
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])


def example(items: Any, row: int) -> Tensor:
    """One item of a map-style data set: float32, or whole numbers as they are.

    Raises:
        DataError: the data set fails, or gives something else than a tensor or an array.
    """
    try:
        item = items[row]
    except DataError:
        raise
    except Exception as error:  # a user's own code reads it: anything can come out of it
        reason = str(error).partition("\n")[0]
        raise DataError(f"example {row} cannot be read: {type(error).__name__}: {reason}") from error
    if isinstance(item, np.ndarray):
        item = torch.tensor(item)
    if not isinstance(item, Tensor):
        raise DataError(
            f"example {row} is of type {type(item).__name__}, not a tensor; a data set gives the inputs "
            "alone, and their targets are Source.target"
        )
    return item.float() if item.is_floating_point() else item
