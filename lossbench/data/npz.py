"""Your own arrays from an .npz file: the task is inferred from the targets' type and shape, or stated."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from lossbench.data.columns import TableTask, infer_target
from lossbench.data.source import Source, TaskName
from lossbench.errors import ConfigError, DataError, first_line, plural

COLOURS = (1, 3, 4)  # how many channels an image has: grey, RGB, RGB and transparency

Array = NDArray[Any]
Channels = Literal["auto", "first", "last"]


def npz(
    *, path: str, inputs: str = "x", target: str = "y", task: TableTask = "auto", channels: Channels = "auto"
) -> Source:
    """Read inputs (N, ...) and targets from a file that `np.savez` or `np.savez_compressed` wrote.

    Images are (N, C, H, W) or (N, H, W, C), or grey ones (N, H, W) of uint8. Those of uint8 become numbers from 0 to
    1, other inputs stay as they are. Python objects are never loaded: they can run code.

    Args:
        path: the file.
        inputs: the name of the array of inputs.
        target: the name of the array of targets: (N,) numbers, class ids or words; (N, K) of 0 and 1; or (N, C) rows
            of probabilities.
        task: what the targets mean; `auto`: floats are a regression target, rows of probabilities soft labels for
            multiclass, rows of 0 and 1 multilabel; one word or whole number each is taken as in a CSV file.
        channels: where images (N, A, B, C) have their channels; `auto`: where there are 1, 3 or 4 of them.

    Raises:
        ConfigError: channels that may be first or last.
        DataError: no such file or array, Python objects in it, or targets that cannot be.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"dataset.path: there is no file '{file}'")
    with reading_arrays(file) as found:
        if isinstance(found, np.ndarray):
            raise DataError(f"{file} holds one array; save inputs and targets together: np.savez(FILE, x=..., y=...)")
        features, values = _named(file, found, "inputs", inputs), _named(file, found, "target", target)
    if features.ndim < 2 or features.dtype.kind not in "biuf":
        raise DataError(f"'{inputs}' must hold numbers (N, ...), got {features.dtype} of shape {features.shape}")
    if values.ndim == 0 or len(values) != len(features):
        raise DataError(f"'{inputs}' has shape {features.shape} and '{target}' {values.shape}: their lengths differ")
    what = f"the target '{target}'"
    if values.ndim == 2 and values.shape[1] > 1:
        kind, labels, classes = _rows(what, values, task)
    else:
        kind, labels, classes = _single(what, values, task)
    notes = [] if task != "auto" else [f"task {kind}, inferred from '{target}'; dataset.task=... states another"]
    return Source(_images(inputs, features, channels), labels, kind, classes, tuple(notes))


@contextmanager
def reading_arrays(path: Path) -> Iterator[Any]:
    """What an .npy or .npz file holds: an array, or arrays by name.

    Raises:
        DataError: a damaged file, or one that holds Python objects.
    """
    try:
        with path.open("rb") as file:  # given a path, NumPy leaves a damaged .npz file open
            found = np.load(file, allow_pickle=False)
            yield found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} is no file of np.save, or it holds Python objects, which can run code and are never loaded; "
                "save an array of numbers"
            ) from error
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error


def _named(path: Path, arrays: Any, key: str, name: str) -> Array:
    if name not in arrays.files:
        raise DataError(f"dataset.{key}: {path} has no array '{name}' (has: {', '.join(arrays.files) or 'none'})")
    array: Array = arrays[name]
    return array


def _single(what: str, values: Array, task: TableTask) -> tuple[TaskName, Array, tuple[str, ...]]:
    """One number, class id or word for each example."""
    if values.ndim > 2:
        raise DataError(f"{what} must have shape (N,) or (N, K), got {values.shape}")
    if task == "multilabel":
        raise DataError(f"dataset.task=multilabel, but {what} has shape {values.shape}, and not (N, K)")
    column = values.reshape(len(values))
    if task == "auto" and column.dtype.kind == "f":
        task = "regression"
    if column.dtype.kind not in "biufU":
        raise DataError(f"{what} must hold numbers or words, got {column.dtype}")
    column = column.astype(object if column.dtype.kind == "U" else np.float64)
    return infer_target(what, column, task, lambda row: f"row {row}")


def _rows(what: str, values: Array, task: TableTask) -> tuple[TaskName, Array, tuple[str, ...]]:
    """Rows of 0 and 1, or of probabilities."""
    names = tuple(map(str, range(values.shape[1])))
    if values.dtype.kind not in "biuf" or task in ("regression", "binary"):
        raise DataError(f"{what} has shape {values.shape} and type {values.dtype}, which is not for task {task}")
    flags = bool(np.isin(values, (0, 1)).all())
    shares = bool((values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-4))
    if task == "multilabel" and not flags:
        raise DataError(f"dataset.task=multilabel, but {what} holds other values than 0 and 1")
    if task == "multiclass" and not shares:
        _refuse_shares(f"dataset.task=multiclass, but {what} holds no probabilities", values)
    if task == "auto" and shares and values.dtype.kind in "iub" and values.shape[1] > 1:
        raise DataError(
            f"each row of {what} holds one 1: dataset.task=multiclass takes it as a class, dataset.task=multilabel as "
            "labels of which more could hold"
        )
    if shares and (task == "multiclass" or (task == "auto" and values.dtype.kind == "f")):
        return "multiclass", values.astype(np.float64), names
    if not flags:
        columns = plural(values.shape[1], "column")
        _refuse_shares(f"{what} has {columns}, which hold neither 0 and 1 alone nor probabilities", values)
    return "multilabel", values.astype(np.int64), names


def _refuse_shares(what: str, values: Array) -> NoReturn:
    """Name the first row that is not one of probabilities that sum to 1."""
    rows = np.flatnonzero((values < 0).any(1) | (np.abs(values.sum(1) - 1) > 1e-4))
    row = int(rows[0])
    why = "holds a number below 0" if (values[row] < 0).any() else f"sums to {values[row].sum():g}, and must sum to 1"
    raise DataError(f"{what}: row {row} {why}")


def _images(name: str, features: Array, channels: Channels) -> Array:
    """Images as (N, C, H, W); those of uint8 from 0 to 1."""
    pixels = features.dtype == np.uint8 and features.ndim > 2
    if features.ndim == 4 and _are_last(name, features.shape, channels):
        features = features.transpose(0, 3, 1, 2)
    if features.ndim == 3 and pixels:
        features = features[:, None]
    return np.divide(features, 255, dtype=np.float32) if pixels else np.ascontiguousarray(features)


def _are_last(name: str, shape: tuple[int, ...], channels: Channels) -> bool:
    if channels != "auto":
        return channels == "last"
    first, last = shape[1] in COLOURS, shape[3] in COLOURS
    if first and last:
        raise ConfigError(f"'{name}' has shape {shape}: set dataset.channels=first or dataset.channels=last")
    return last
