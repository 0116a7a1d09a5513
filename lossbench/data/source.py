"""What a data set hands over before it is split: features, target and what the target means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lossbench.data.table import Table

TaskName = Literal["regression", "binary", "multiclass"]


@dataclass(frozen=True)
class Source:
    """A whole data set, unsplit and unscaled; what a `conf/dataset/` function returns.

    Attributes:
        features: a `Table` of named columns, an array (N, ...) such as images (N, C, H, W), or a map-style `Dataset`
            whose items are float tensors, for inputs that do not fit in memory.
        target: (N,), numbers for regression, class indices 0..C-1 otherwise.
        task: what the target means.
        classes: the classes' names, in the order of their indices.
        notes: what the user should be told, such as an inferred task.
    """

    features: Table | NDArray[Any] | Dataset[Any]
    target: NDArray[Any]
    task: TaskName
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", np.asarray(self.target))
