"""A split: the rows of a data set that serve one purpose, on the device where they fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossbench.data.rowwise import Rowwise
from lossbench.data.table import Rows


@dataclass(frozen=True)
class Split:
    """The rows of one split. `inputs` are a tensor on the device, or read row by row if they do not fit."""

    inputs: Tensor | Rowwise
    target: Tensor
    weight: Tensor | None
    rows: Tensor  # each example's row in the source

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> Split:
        """Some of its examples, by their place in the split."""
        at = rows.to(self.target.device)
        inputs = self.inputs[at] if isinstance(self.inputs, Tensor) else self.inputs.take(rows.numpy())
        weight = None if self.weight is None else self.weight[at]
        return Split(inputs, self.target[at], weight, self.rows[rows])


@dataclass(frozen=True)
class Ready:
    """Every row of a data set as a model and a loss take it, in host memory.

    Attributes:
        inputs: float32 (N, *input_shape), or a map-style `Dataset`.
        timeout: seconds to wait for a loader process.
    """

    inputs: Any
    target: NDArray[Any]
    weight: NDArray[np.float32] | None
    input_shape: tuple[int, ...]
    timeout: float

    def splits(self, device: torch.device, *parts: Rows) -> list[Split]:
        """A split of each of these rows, on the device if all of the inputs fit there."""
        resident = isinstance(self.inputs, np.ndarray) and _fits(self.inputs.nbytes, device)
        return [self._split(device, rows, resident) for rows in parts]

    def _split(self, device: torch.device, rows: Rows, resident: bool) -> Split:
        hosted = None if resident else Rowwise(self.inputs, rows, self.input_shape, self.timeout)
        return Split(
            inputs=torch.from_numpy(self.inputs[rows]).to(device) if hosted is None else hosted,
            target=torch.from_numpy(self.target[rows]).to(device),
            weight=None if self.weight is None else torch.from_numpy(self.weight[rows]).to(device),
            rows=torch.from_numpy(rows),
        )


def _fits(nbytes: int, device: torch.device) -> bool:
    """Whether half of the device's free memory is left for the training; host memory holds them already."""
    return device.type != "cuda" or nbytes < torch.cuda.mem_get_info(device)[0] / 2
