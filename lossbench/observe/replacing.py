"""Files that are replaced as a whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def target(path: Path) -> Path:
    """What a link leads to, whether it is there or not; of what is no link the path in full.

    Raises:
        OSError: it leads in a circle.
    """
    found = Path(os.path.realpath(path))
    if found.is_symlink():  # `Path.resolve` tells of it before Python 3.13 only
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return found


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write in the place of `path`, where a reader sees the old or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
