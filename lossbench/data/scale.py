"""Numbers made fit for training: checked, scaled by the training rows, in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.data import strict
from lossbench.errors import DataError

Floats = NDArray[np.floating]
LARGEST = np.finfo(np.float32).max
ROUNDING = 1e-12  # a deviation below this share of the mean is rounding, not information


def unusable(values: NDArray[np.number]) -> tuple[int, ...] | None:
    """The place of the first value that is NaN, infinite or beyond float32; None if there is none."""
    if values.size == 0 or (values.min() >= -LARGEST and values.max() <= LARGEST):  # quick; False where one is NaN
        return None
    bad = np.argwhere(~(np.abs(values) <= LARGEST))
    return tuple(bad[0].tolist()) if len(bad) else None


def moments(values: Floats, axes: tuple[int, ...] = (0,)) -> tuple[Floats, Floats]:
    """Mean and standard deviation, reduced axes kept at length 1; exactly 0 where nothing varies."""
    mean = values.mean(axes, keepdims=True, dtype=np.float64)
    std = values.std(axes, keepdims=True, dtype=np.float64)
    return mean, np.where(std > ROUNDING * np.abs(mean), std, 0.0)


@dataclass(frozen=True)
class Scale:
    """Zero mean and unit variance over the training rows.

    What never varies there (a deviation of 0) becomes 0 in every row: no weight learns from it, so none may act on it
    later.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def learn(cls, values: Floats, axes: tuple[int, ...] = (0,)) -> Scale:
        """The moments of training rows (N, ...), reduced over `axes`."""
        mean, std = moments(values, axes)
        return cls(tuple(mean.ravel().tolist()), tuple(std.ravel().tolist()))

    def to_json(self) -> dict[str, Any]:
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, saved: Any, place: str) -> Scale:
        found = cls(
            **strict.read(saved, place, mean=strict.list_of(strict.number), std=strict.list_of(strict.deviation))
        )
        if len(found.mean) != len(found.std):
            raise strict.damaged(place, "has a mean and a std of different lengths")
        return found

    def apply(self, values: Floats, shape: tuple[int, ...]) -> Floats:
        """Values (N, ...) scaled by moments of a shape that they broadcast with."""
        mean, std = np.array(self.mean).reshape(shape), np.array(self.std).reshape(shape)
        with np.errstate(over="ignore", invalid="ignore"):  # `narrow` says where
            scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
            scaled: Floats = (values - mean.astype(values.dtype)) * scale.astype(values.dtype)
        return scaled


def narrow(values: Floats) -> NDArray[np.float32]:
    """As float32.

    Raises:
        DataError: a value that scaling has made too large.
    """
    bad = unusable(values)
    if bad:
        raise DataError(f"input of example {bad[0]} is {values[bad]:g} once scaled: an outlier beyond all others")
    return values.astype(np.float32, copy=False)
