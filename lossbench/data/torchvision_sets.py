"""Image sets that torchvision reads from `root`, and downloads only if asked; the published test part is held out.

CIFAR's files are pickles, which could run code: torchvision opens them only where their checksums are the published
ones, and so only ever the known files. The other formats hold numbers alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossbench.data.source import Source
from lossbench.errors import DataError, ResourceError

DIGITS = tuple("0123456789")

Array = NDArray[Any]


def mnist(*, root: str = "data", download: bool = False) -> Source:
    """70,000 handwritten digits, images (1, 28, 28), the last 10,000 for the test (LeCun et al. 1998)."""
    from torchvision.datasets import MNIST

    return _grey("mnist", MNIST, DIGITS, root, download)


def fashion_mnist(*, root: str = "data", download: bool = False) -> Source:
    """70,000 articles of clothing, images (1, 28, 28), the last 10,000 for the test (Xiao et al. 2017)."""
    from torchvision.datasets import FashionMNIST

    return _grey("fashion_mnist", FashionMNIST, FashionMNIST.classes, root, download)


def cifar10(*, root: str = "data", download: bool = False) -> Source:
    """60,000 photographs (3, 32, 32) of ten classes, the last 10,000 for the test (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR10

    return _cifar("cifar10", CIFAR10, root, download)


def cifar100(*, root: str = "data", download: bool = False) -> Source:
    """60,000 photographs (3, 32, 32) of a hundred classes, the last 10,000 for the test (Krizhevsky 2009)."""
    from torchvision.datasets import CIFAR100

    return _cifar("cifar100", CIFAR100, root, download)


def svhn(*, root: str = "data", download: bool = False) -> Source:
    """99,289 house numbers, images (3, 32, 32) of a digit, the last 26,032 for the test (Netzer et al. 2011)."""
    from torchvision.datasets import SVHN

    parts = _parts("svhn", SVHN, root, "", download, ("train", "test"))
    return _source([(part.data, part.labels) for part in parts], DIGITS)


def _grey(name: str, kind: Any, classes: Sequence[str], root: str, download: bool) -> Source:
    parts = _parts(name, kind, root, f"{kind.__name__}/raw", download)
    return _source([(part.data.numpy()[:, None], part.targets.numpy()) for part in parts], classes)


def _cifar(name: str, kind: Any, root: str, download: bool) -> Source:
    parts = _parts(name, kind, root, kind.base_folder, download)
    return _source([(part.data.transpose(0, 3, 1, 2), part.targets) for part in parts], parts[0].classes)


def _parts(
    name: str, kind: Any, root: str, folder: str, download: bool, which: Sequence[Any] = (True, False)
) -> list[Any]:
    """The training and the test part; `which` is what torchvision's class calls them.

    Raises:
        DataError: files that are not there, damaged or not the published ones.
        ResourceError: a download that fails.
    """
    place = Path(root).expanduser()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the files are older than the libraries that read them
            return [kind(place, part, download=download) for part in which]
    except Exception as error:  # anything can come out of a damaged file
        reason = str(error).strip().rpartition("\n")[2] or type(error).__name__  # the last line says why
        missing = re.search("not found|Error downloading", str(error)) is not None
        if download and (missing or isinstance(error, (OSError, HTTPException))):
            raise ResourceError(f"dataset '{name}': cannot download its files to '{place}': {reason}") from error
        if missing:
            raise DataError(
                f"dataset '{name}': its files are not in '{place / folder}', or are not the published ones; "
                "dataset.download=true downloads them there, dataset.root=PATH says where you have them"
            ) from error
        raise DataError(f"dataset '{name}': its files in '{place / folder}' cannot be read: {reason}") from error


def _source(parts: Sequence[tuple[Array, Any]], classes: Sequence[str]) -> Source:
    """Training and test part, images of uint8 (N, C, H, W) and class ids, one behind the other."""
    (train, _), (test, _) = parts
    images = np.empty((len(train) + len(test), *train.shape[1:]), dtype=np.float32)
    np.divide(train, 255, out=images[: len(train)], dtype=np.float32)
    np.divide(test, 255, out=images[len(train) :], dtype=np.float32)
    labels = np.concatenate([np.asarray(labels) for _, labels in parts])
    return Source(images, labels, "multiclass", tuple(classes), held_out=len(test))
