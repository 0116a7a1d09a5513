"""A run's event files: how they are named and written, what they hold, and how a new one takes their place."""

from __future__ import annotations

import os
import re
import socket
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event

from lossbench.observe.events import ENDED, HPARAMS, LOSS
from lossbench.observe.records import Damaged, frame, read

_CHUNK = 1000  # events that are framed at once when a file is rebuilt


class EventFile:
    """A file to append events to. A write that fails leaves it as it was before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # No buffer, because one would keep what could not be written and try it again at `close`.
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, events: Sequence[Event]) -> None:
        data = memoryview(frame([event.SerializeToString() for event in events]))
        size = self._size + len(data)
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._size = size

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Held(NamedTuple):
    """What a run's event files hold, as far as they can be read.

    Attributes:
        whole: every record could be read.
        ended: how the run ended is in them.
        steps: of the steps' own events, in the order of the files.
        times: of the same, in seconds since 1970.
        others: step and tag of every other scalar.
    """

    whole: bool
    ended: bool
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    others: list[tuple[int, str]]


def event_files(directory: Path) -> list[Path]:
    """Those that TensorBoard reads, in its order."""
    return sorted(path for path in directory.iterdir() if "tfevents" in path.name)


def new_path(directory: Path) -> Path:
    """A name that comes after every other in the directory, whatever the clock says: TensorBoard reads by name."""
    found = (re.search(r"events\.out\.(?:tfevents\.)?(\d+)\.", path.name) for path in directory.iterdir())
    second = max([int(time.time()), *(int(match[1]) + 1 for match in found if match)])
    return directory / f"events.out.tfevents.{second}.{socket.gethostname()}.{os.getpid()}.0"


def held(directory: Path) -> Held:
    """Read a run's event files."""
    steps, times, others = array("q"), array("d"), list[tuple[int, str]]()
    whole = True
    for path in event_files(directory):
        try:
            for event in map(Event.FromString, read(path)):
                values = event.summary.value
                if values and values[0].tag == LOSS:
                    steps.append(event.step)
                    times.append(event.wall_time)
                else:
                    others += [(event.step, value.tag) for value in values]
        except Damaged:
            whole = False
    ended = any(tag == ENDED for _, tag in others)
    others = [(step, tag) for step, tag in others if not tag.startswith(HPARAMS)]
    return Held(whole, ended, np.array(steps, np.int64), np.array(times, np.float64), others)


def replace(directory: Path, events: Iterable[Event]) -> tuple[EventFile, list[Path]]:
    """Put a new file in the place of a run's event files, and return it with what the earlier ones are now called.

    A crash on the way leaves the earlier ones or none, never the steps of both.
    """
    part, path = directory / "events.part", new_path(directory)
    part.unlink(missing_ok=True)
    try:
        file = EventFile(part)
        try:
            for chunk in _chunks(events):
                file.write(chunk)
            file.sync()
        finally:
            file.close()
        aside = [_put_aside(old) for old in event_files(directory) if old.stat().st_size]
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return EventFile(path), aside


def _put_aside(path: Path) -> Path:
    """Rename an event file so that TensorBoard does not read it, and leave an empty one.

    A TensorBoard without its data server that is reading the file would wait for ever where it is gone, and goes on to
    the next where it is empty.
    """
    n = 1 + sum(other.name.startswith("replaced.") for other in path.parent.iterdir())
    aside = path.with_name(f"replaced.{n}.{re.sub('tfevents[.]?', '', path.name)}")
    path.rename(aside)
    path.touch()
    return aside


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    iterator = iter(events)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
