"""`lossbench` in a process of its own that has everything imported already: real signals, without seconds of start."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


class Process:
    """`lossbench WORDS`, forked from the tests' own process; what it prints goes to files."""

    def __init__(self, *words: str) -> None:
        self.out, self.err = Path("process.out"), Path("process.err")
        sys.stdout.flush()
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            self._become(words)

    def _become(self, words: tuple[str, ...]) -> None:
        code = 70
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            for descriptor, path in ((1, self.out), (2, self.err)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            from lossbench import console
            from lossbench.cli import main

            console.console.file = sys.stdout
            try:
                main(words)
                code = 0
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 0
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """The exit code; one that does not come is killed, with the processes that it started."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                raise TimeoutError(f"still running after {seconds} s; it printed:\n{self.out.read_text()}")
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def until(self, reached: object, seconds: float = 120) -> bool:
        """Wait for `reached()`; False if the process ended first."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if reached():  # type: ignore[operator]
                return True
            assert time.monotonic() < end
            time.sleep(0.001)
        return False
