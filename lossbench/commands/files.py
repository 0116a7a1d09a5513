"""Files that a command writes for the user: refused or whole, and never half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossbench.errors import ConfigError, ResourceError
from lossbench.observe.replacing import target


def check_place(path: Path, *, force: bool, dash: bool = False) -> None:
    """Refuse a place that cannot be written to, before the work is done.

    Args:
        dash: whether `-` could be said for standard output.

    Raises:
        ConfigError: there is a file already, and `--force` was not given.
        ResourceError: what stands there is no file, or the directory that it would be in does not.
    """
    if path.is_dir():
        raise ResourceError(f"cannot write to '{path}': it is a directory; name a file")
    if path.exists() and not path.is_file():  # a device or a pipe would be gone for every program
        other = ", or - for standard output" if dash else ""
        raise ResourceError(f"cannot write to '{path}': it is not a regular file; name one{other}")
    parent = _resolved(path).parent if path.is_symlink() else path.parent
    if not parent.is_dir():
        raise ResourceError(f"cannot write to '{path}': there is no directory '{parent}'; make it first")
    if path.exists() and not force:
        raise ConfigError(f"'{path}' is there already; --force overwrites it, --output FILE names another")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place at the end; it is gone if that fails.

    A link stays one: what it leads to is replaced.
    """
    path = _resolved(path)
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


def _resolved(path: Path) -> Path:
    try:
        return target(path)
    except OSError as error:
        raise ResourceError(f"cannot write to '{path}': it is a link that leads in a circle; name a file") from error
