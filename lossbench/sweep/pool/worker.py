"""A worker of the pool, as its own process sees it: one job after the other, until there are no more.

Nothing heavy is imported before the environment, which says on what device and with how many threads, is set.

To the worker come pickled tasks, True or False for each evaluation that it told of, and None in the end. From it come
`ready`, then for each task `began` when it listens to signals, any number of `evaluated`, and one of `ended`, `failed`
and `interrupted`, with whether the worker leaves now.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path

from lossbench.stopping import SIGNALS, heed

KINDS = ("ready", "began", "evaluated", "ended", "failed", "interrupted")
GRACE = 10.0  # seconds that a job has to save its state when it must go
PATIENCE = 0.1  # seconds to wait at an evaluation for the word whether to end


def main(connection: Connection, environment: Mapping[str, str], log: str) -> None:
    """What a worker's process runs.

    Args:
        connection: to the parent.
        environment: variables to set.
        log: the file that takes what is printed outside of jobs.
    """
    os.setsid()  # Ctrl-C goes to the parent alone
    heed(signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    os.environ.update(environment)
    _print_to(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC, 0o666))
    faulthandler.enable()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):  # when the parent has gone
        _serve(connection)


def _serve(connection: Connection) -> None:
    from lossbench.sweep.pool.attempt import attempt, is_spent
    from lossbench.sweep.pool.reset import fresh_hydra, process_kept

    fresh_hydra()
    gc.collect()
    gc.freeze()  # what is there for good need not be looked through after each job
    questions = Questions(connection)
    connection.send(("ready",))
    while (task := connection.recv()) is not None:
        config, number, path = task
        spent = False
        try:
            with printing_to(path), process_kept() as traces:
                message = attempt(config, number, path, questions, questions.began)
                spent = is_spent(*message)
            spent = spent or traces.stay
        except OSError as error:
            message = "failed", f"cannot write to {path}: {error.strerror}"
        questions.forget()
        connection.send((*message, spent))
        if spent:
            return


class Questions:
    """Tells the parent of evaluations, and asks whether the job should end.

    The answer is waited for, but not long: a parent that is busy with something else is heard at the next evaluation.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.open = 0

    def began(self) -> None:
        """The job listens to signals from now on."""
        self.connection.send(("began",))

    def __call__(self, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        end = False
        with suppress(OSError, EOFError):  # a parent that has gone will soon be noticed
            self.connection.send(("evaluated", step, epoch, metrics))
            self.open += 1
            while self.open and self.connection.poll(PATIENCE):
                end = self.connection.recv() or end
                self.open -= 1
        return end

    def forget(self) -> None:
        """The job has ended: what is still to come of answers is not for the next one."""
        while self.open:
            self.connection.recv()
            self.open -= 1


@contextmanager
def printing_to(path: Path) -> Iterator[None]:
    """What this process and those that it starts print goes to `run.log` in the directory `path`."""
    before = os.dup(1)
    path.mkdir(parents=True, exist_ok=True)
    file = path / "run.log"
    _print_to(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
    try:
        yield
    finally:
        _print_to(before)
        if not file.stat().st_size:
            file.unlink()


def _print_to(descriptor: int) -> None:
    """Let standard output and error go there; the descriptor is closed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)


def _leave_with_parent() -> None:
    """When the parent has gone, however it ended, let a job that runs save its state, and be gone too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)  # with loader processes
