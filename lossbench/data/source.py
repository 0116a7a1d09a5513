"""What a data set hands over before it is split: features, target and what the target means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lossbench.data.table import Table
from lossbench.errors import ConfigError, DataError

TaskName = Literal["regression", "binary", "multilabel", "multiclass"]


@dataclass(frozen=True)
class Source:
    """A whole data set, unsplit and unscaled; what a `conf/dataset/` function returns.

    Attributes:
        features: a `Table` of named columns; an array or tensor (N, ...), such as images (N, C, H, W); or a
            map-style `Dataset` of float tensors, scaled already, for inputs that do not fit in memory.
        target: (N,), numbers for regression, class indices 0..C-1 for binary and multiclass; (N, K) of 0 and 1 for
            multilabel; (N, C) rows of probabilities for multiclass with soft labels.
        task: what the target means.
        classes: the classes' names, in the order of their indices.
        notes: what the user should be told, such as an inferred task.
        held_out: the last so many examples are the data set's own test split, as published; 0 if it has none.
        strata: (N,) whole numbers; examples of the same one keep their share in each split, as those of a class do.

    Raises:
        ConfigError: an unknown task, or a `Dataset` without a length.
        DataError: features or targets that are ragged, or hold no numbers.
    """

    features: Table | NDArray[Any] | Dataset[Any]
    target: NDArray[Any]
    task: TaskName
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    held_out: int = 0
    strata: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.task not in get_args(TaskName):
            raise ConfigError(f"a Source's task must be one of {', '.join(get_args(TaskName))}, got '{self.task}'")
        object.__setattr__(self, "target", _numbers(self.target, "targets"))
        if not isinstance(self.features, (Table, Dataset)):
            object.__setattr__(self, "features", _numbers(self.features, "inputs"))
        elif not hasattr(self.features, "__len__"):
            raise ConfigError(f"{type(self.features).__name__} must have __len__ and __getitem__: a map-style Dataset")
        if self.strata is not None:
            object.__setattr__(self, "strata", _numbers(self.strata, "strata"))
            if self.strata.shape != (len(self.target),):
                raise DataError(f"strata have shape {self.strata.shape}, and there are {len(self.target)} targets")


def _numbers(values: Any, what: str) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.numpy(force=True)
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{what} differ in shape from one another") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} must be numbers, got {array.dtype}")
    return array
