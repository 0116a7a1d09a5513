"""A worker of the pool, as its parent sees it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from lossbench.stopping import SIGNALS
from lossbench.sweep.job import Task
from lossbench.sweep.pool import worker
from lossbench.sweep.pool.slots import Slot

LONGEST = 1 << 26  # bytes of a message; what a job wrote to our connection can look like a longer one
LEAVING = 2.0  # seconds that a process may take to be gone after it has closed its end
FATAL = {
    signal.SIGKILL: "; out of memory?",
    signal.SIGSEGV: " (segmentation fault); run.log says where",
    signal.SIGABRT: "; run.log says where",
    signal.SIGBUS: "; run.log says where",
    signal.SIGFPE: "; run.log says where",
    signal.SIGILL: "; run.log says where",
}


class Hand:
    """A worker process in a slot; it starts at once.

    Attributes:
        task: what it works on.
        ready: whether it has imported what a job needs.
        begun: whether its task listens to signals.
        leaving: whether it takes no further task.
        asked: why it was asked to save and end its job: `stop` or `timeout`.
        log: the file that takes what it prints outside of jobs.
    """

    def __init__(self, slot: Slot, log: Path, timeout: float | None) -> None:
        self.slot, self.log, self.timeout = slot, log, timeout
        self.task: Task | None = None
        self.ready = self.begun = self.leaving = self.broken = False
        self.asked: str | None = None
        self.since = 0.0
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        name = f"lossbench-worker-{slot.number}"
        arguments = (theirs, slot.environment, str(log))
        self.process = context.Process(target=worker.main, args=arguments, name=name)
        resource_tracker.ensure_running()  # which unblocks signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited, until the worker has its own group
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    @property
    def idle(self) -> bool:
        return self.ready and self.task is None and not self.leaving

    def give(self, task: Task) -> bool:
        """Let it work on the task; False where it is gone."""
        try:
            self.connection.send((task.job.config, task.number, task.path))
        except OSError:
            return False
        self.task, self.begun, self.asked, self.since = task, False, None, time.monotonic()
        return True

    def messages(self) -> Iterator[tuple[Task, str, list[Any]]]:
        """What it has said since of its tasks; one that closed its end, or says what cannot be understood, is ended."""
        while (message := self._heard()) is not None:
            kind, *rest = message
            if kind == "ready":
                self.ready = True
            elif kind == "began":
                self.begun = True
            elif task := self.task:
                if kind != "evaluated":
                    self.task, self.leaving = None, rest.pop()
                yield task, kind, rest

    def _heard(self) -> tuple[Any, ...] | None:
        """The next message; None where there is none."""
        try:
            if self.broken or not self.connection.poll():
                return None
            message = pickle.loads(self.connection.recv_bytes(LONGEST))
            if isinstance(message, tuple) and message and message[0] in worker.KINDS:
                return message
        except (EOFError, ConnectionError):
            self.process.join(LEAVING)
        except Exception:  # what a job wrote there may be anything
            pass
        self.broken = not self.gone
        self.end()
        return None

    def answer(self, end: bool) -> None:
        """Whether the job should end after the evaluation that it told of."""
        with suppress(OSError):
            self.connection.send(end)

    def ask(self, why: str) -> None:
        """Have it save its job's state and end the job, once. One that does not listen yet is to be asked again."""
        if self.task is None or not self.begun or self.asked is not None:
            return
        self.asked = why
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)

    def watch_time(self) -> None:
        """Ask a job that takes too long to end; one that does not is killed."""
        if self.timeout is None or self.task is None:
            return
        late = time.monotonic() - self.since - self.timeout
        if late > 0:
            self.ask("timeout")
        if late > worker.GRACE and self.asked == "timeout":
            self.end()

    def dismiss(self) -> None:
        """Let it leave, as nothing is left to do."""
        self.leaving = True
        with suppress(OSError):
            self.connection.send(None)

    def end(self) -> None:
        """Kill it, and with it the processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self.process.kill()  # it may have no group of its own yet

    @property
    def gone(self) -> bool:
        return self.process.exitcode is not None

    def cause(self) -> str:
        """Why it has gone."""
        code = self.process.exitcode
        if self.asked == "timeout":
            return f"timed out after {self.timeout:g} s"
        if self.broken:
            return "broke the connection to the sweep"
        if code is None or code >= 0:
            return f"its process left with exit code {code}"
        try:
            number = signal.Signals(-code)
        except ValueError:  # a real-time signal
            return f"killed by signal {-code}"
        return f"killed by {number.name}{FATAL.get(number, '')}"

    def last_words(self) -> str:
        """The end of what it printed."""
        try:
            return " | ".join(self.log.read_text(errors="replace").splitlines()[-3:])
        except OSError:
            return ""

    def close(self) -> None:
        """End it if it has not gone, and give back what it held here."""
        self.end()
        self.process.join()
        self.connection.close()
        self.process.close()

    @property
    def _pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid
