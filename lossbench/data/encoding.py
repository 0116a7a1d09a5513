"""Encodings: how features become inputs. Learned from the training rows, kept as plain JSON, applied to any rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lossbench.data import strict
from lossbench.data.rowwise import example
from lossbench.data.scale import Scale, narrow, unusable
from lossbench.data.table import Rows, Table
from lossbench.data.table_encoding import TableEncoding
from lossbench.errors import ConfigError, DataError


class Encoding(Protocol):
    """How features become inputs; `kind` is its name in the file."""

    kind: ClassVar[str]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example's inputs."""
        ...

    def apply(self, features: Any) -> Any:
        """Float32 inputs (N, *input_shape); a map-style `Dataset` stays as it is.

        Raises:
            ConfigError: features of another kind than those it was learned from.
            DataError: features that it cannot encode, each with its place.
        """
        ...

    def to_json(self) -> dict[str, Any]: ...


def learn(features: Any, train: Rows, standardize: bool) -> Encoding:
    """The encoding of these features, with statistics of the training rows only.

    Raises:
        DataError: a value that is not finite.
    """
    if isinstance(features, Table):
        return TableEncoding.learn(features, train, standardize)
    if isinstance(features, np.ndarray):
        return ArrayEncoding.learn(features, train, standardize)
    return DatasetEncoding(tuple(example(features, 0).shape))


def from_json(saved: Any, place: str) -> Encoding:
    """The encoding that `to_json` gave.

    Raises:
        CheckpointError: it is damaged.
    """
    kind = saved.get("kind") if isinstance(saved, Mapping) else None
    rest = {k: v for k, v in saved.items() if k != "kind"} if isinstance(saved, Mapping) else saved
    readers: dict[Any, Callable[[Any, str], Encoding]] = {
        "table": TableEncoding.from_json,
        "array": ArrayEncoding.from_json,
        "dataset": DatasetEncoding.from_json,
    }
    if not isinstance(kind, str) or kind not in readers:
        raise strict.damaged(place, f"has no kind out of {', '.join(readers)}")
    return readers[kind](rest, place)


@dataclass(frozen=True)
class ArrayEncoding:
    """Arrays, scaled by their training rows; images (C, H, W) by channel.

    Attributes:
        dtype: what they are scaled in: the precision of the training's own array.
        scale: None where they are not scaled.
    """

    input_shape: tuple[int, ...]
    dtype: str
    scale: Scale | None

    kind: ClassVar[str] = "array"

    @classmethod
    def learn(cls, features: NDArray[Any], train: Rows, standardize: bool) -> ArrayEncoding:
        _check_finite(features)
        dtype = np.dtype("float32" if np.result_type(features, np.float32) == np.float32 else "float64")
        shape = features.shape[1:]
        if not standardize:
            return cls(shape, dtype.name, None)
        axes = (0, 2, 3) if _is_image(shape) else (0,)
        return cls(shape, dtype.name, Scale.learn(features[train].astype(dtype, copy=False), axes))

    def apply(self, features: Any) -> NDArray[np.float32]:
        check_array(features, self.input_shape)
        inputs = features.astype(self.dtype, copy=False)
        return narrow(inputs if self.scale is None else self.scale.apply(inputs, _reduced(self.input_shape)))

    def to_json(self) -> dict[str, Any]:
        scale = None if self.scale is None else self.scale.to_json()
        return {"kind": self.kind, "input_shape": list(self.input_shape), "dtype": self.dtype, "scale": scale}

    @classmethod
    def from_json(cls, saved: Any, place: str) -> ArrayEncoding:
        found = strict.read(
            saved,
            place,
            input_shape=strict.list_of(strict.count),
            dtype=strict.one_of("float32", "float64"),
            scale=strict.optional(Scale.from_json),
        )
        scale, moments = found["scale"], math.prod(_reduced(found["input_shape"]))
        if scale is not None and len(scale.mean) != moments:
            raise strict.damaged(f"{place}.scale", f"has {len(scale.mean)} numbers, not {moments}")
        return cls(**found)


@dataclass(frozen=True)
class DatasetEncoding:
    """A map-style `Dataset` gives inputs that are ready; arrays in its place must be so too."""

    input_shape: tuple[int, ...]

    kind: ClassVar[str] = "dataset"

    def apply(self, features: Any) -> Any:
        if not isinstance(features, Dataset):
            check_array(features, self.input_shape)
            return narrow(features.astype(np.result_type(features, np.float32), copy=False))
        found = tuple(example(features, 0).shape)
        if found != self.input_shape:
            raise DataError(f"example 0 has shape {found}, and the model takes {self.input_shape}")
        return features

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "input_shape": list(self.input_shape)}

    @classmethod
    def from_json(cls, saved: Any, place: str) -> DatasetEncoding:
        return cls(**strict.read(saved, place, input_shape=strict.list_of(strict.count)))


def check_array(features: Any, shape: tuple[int, ...]) -> None:
    """Refuse what is not an array of finite numbers (N, *shape)."""
    if not isinstance(features, np.ndarray):
        kind = "a table of named columns" if isinstance(features, Table) else f"a {type(features).__name__}"
        raise ConfigError(f"the model was trained on arrays of shape {_batch(shape)}, and these data are {kind}")
    if features.ndim == 0 or features.shape[1:] != shape:
        alone = "; put one example into a batch of its own: array[None]" if features.shape == shape else ""
        raise DataError(f"the model takes inputs of shape {_batch(shape)}, got {features.shape}{alone}")
    _check_finite(features)


def _check_finite(features: NDArray[Any]) -> None:
    bad = unusable(features)
    if bad:
        raise DataError(f"input of example {bad[0]} at {bad[1:]} is {features[bad]}")


def _batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['N', *map(str, shape)])})"


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


def _reduced(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the moments: images by channel, as a pixel that hardly varies in training would be blown up."""
    return (1, shape[0], 1, 1) if _is_image(shape) else (1, *shape)
