"""Your own images: a directory with one folder of images per class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lossbench.data.source import Source
from lossbench.errors import DataError, first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
GIB = 2**30

Pixels = NDArray[np.float32]


def image_folder(
    *,
    root: str,
    size: Annotated[int, "[1, 4096]"] = 64,
    grey: bool = False,
    memory: Annotated[float, "[0, inf)"] = 2.0,
) -> Source:
    """Read ROOT/CLASS/NAME.png (or jpg, bmp, gif, webp, tif, ppm, pgm): one folder per class, in the alphabet's order.

    Images are turned as their EXIF data say, scaled to a square without regard to their shape, and become numbers from
    0 to 1, (C, size, size). Transparency is ignored. Of a moving image the first frame is taken.

    Args:
        root: the directory.
        size: pixels along each side.
        grey: one channel, not red, green and blue.
        memory: GiB that the images may take. A set that is larger is read when needed, by `dataset.workers`
            processes; its inputs are 4 x - 2 then, as its mean and deviation are not known.

    Raises:
        DataError: no such directory, fewer than two classes in it, or an image that cannot be decoded.
    """
    place = Path(root).expanduser()
    folders, empty = _folders(place)
    if len(folders) < 2:
        has = f"class '{next(iter(folders))}' alone" if folders else "no folder with images in it"
        raise DataError(
            f"{place} holds {has}; it must hold a folder for each of two or more classes: ROOT/CLASS/NAME.png"
        )
    paths = [path for files in folders.values() for path in files]
    labels = np.repeat(np.arange(len(folders)), [len(files) for files in folders.values()])
    shape = (1 if grey else 3, size, size)
    features: Pixels | Images
    if 4 * len(paths) * shape[0] * size * size <= memory * GIB:
        features = np.empty((len(paths), *shape), dtype=np.float32)
        for i, path in enumerate(paths):
            features[i] = decode(i, path, size, grey)
    else:
        features = Images(paths, size, grey)
    notes = [f"folder '{name}' has no images in it: left out" for name in empty]
    return Source(features, labels, "binary" if len(folders) == 2 else "multiclass", tuple(folders), tuple(notes))


class Images(Dataset[Tensor]):
    """Images that are read when they are needed: 4 x - 2, about zero mean and unit variance."""

    def __init__(self, paths: list[Path], size: int, grey: bool) -> None:
        self.paths, self.size, self.grey = paths, size, grey

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        return torch.from_numpy(4 * decode(row, self.paths[row], self.size, self.grey) - 2)


def decode(row: int, path: Path, size: int, grey: bool) -> Pixels:
    """An image as numbers from 0 to 1, (1 or 3, size, size).

    Raises:
        DataError: it cannot be read or decoded; with its row and its file.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits, of which `convert` would cut off all above 255
                image = Image.fromarray((np.asarray(image) // 257).clip(0, 255).astype(np.uint8))
            image = image.convert("L" if grey else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # anything can come out of a damaged file
        raise DataError(f"image {row} ({path}) cannot be decoded: {first_line(error)}") from error
    pixels: Pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return pixels[None] if grey else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _folders(place: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The images of each class, both sorted, and the folders without any."""
    try:
        found = {entry.name: _images(entry) for entry in os.scandir(place) if entry.is_dir() and _is_shown(entry)}
    except FileNotFoundError as error:
        raise DataError(f"dataset.root: there is no directory '{place}'") from error
    except OSError as error:
        raise DataError(f"dataset.root: cannot read '{error.filename}': {error.strerror}") from error
    return {name: found[name] for name in sorted(found) if found[name]}, sorted(n for n in found if not found[n])


def _images(folder: os.DirEntry[str]) -> list[Path]:
    files = [entry for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES) and _is_shown(entry)]
    return sorted(Path(entry.path) for entry in files)


def _is_shown(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".")
