"""Signals: the first asks a run to finish its step and save, the second leaves at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR2, which end a run as Ctrl-C does, with an exit code of their own.

    Args:
        number: which of them it was.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def terminate(number: int, frame: FrameType | None) -> None:
    """As a signal's handler: leave at once."""
    raise Terminated(number)


def heed(handler: Any) -> None:
    """Let the signals do this."""
    for number in SIGNALS:
        signal.signal(number, handler)


class Stop:
    """Whether a signal has asked the run to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def asked(self) -> bool:
        return self.signal is not None

    def leave(self) -> None:
        """Raise what the signal would have raised at once: KeyboardInterrupt, or Terminated."""
        if self.signal is None or self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise Terminated(self.signal)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals meanwhile; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self.signal = number
            self.leave()
        self.signal = number
