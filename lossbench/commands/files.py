"""Files that a command writes for the user: refused or whole, and never half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossbench.errors import ConfigError, ResourceError


def check_place(path: Path, *, force: bool) -> None:
    """Refuse a place that cannot be written to, before the work is done.

    Raises:
        ConfigError: there is a file already, and `--force` was not given.
        ResourceError: a directory stands there, or the one that it would be in does not.
    """
    if path.is_dir():
        raise ResourceError(f"cannot write to '{path}': it is a directory; name a file")
    if not path.parent.is_dir():
        raise ResourceError(f"cannot write to '{path}': there is no directory '{path.parent}'; make it first")
    if path.exists() and not force:
        raise ConfigError(f"'{path}' is there already; --force overwrites it, --output FILE names another")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place at the end; it is gone if that fails."""
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise ResourceError(f"cannot write to '{path}': {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
