"""Batches of inputs that are read when they are needed, here or by loader processes."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from threading import Timer
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lossbench.data.rowwise import Request, Rowwise
from lossbench.errors import DataError, ResourceError, first_line, plural

POLL = 1.0  # seconds between two looks at whether the loader processes live
GRACE = 5.0  # seconds that they have to end by themselves
HANDLED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # by the main process alone


def read_batches(rows: Rowwise, requests: Sequence[Request], device: torch.device, workers: int) -> Iterator[Tensor]:
    """The inputs of each request, in order, on the device.

    Raises:
        DataError: an example that cannot be read.
        ResourceError: a loader process that was killed, or that gives nothing for `rows.timeout` seconds.
    """
    waiting = {"timeout": min(POLL, rows.timeout), "worker_init_fn": _leave_signals} if workers else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
        loader = DataLoader(
            rows,
            batch_sampler=requests,  # type: ignore[arg-type]  # what `__getitems__` takes
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(0),  # else it draws from the stream that dropout uses
            **waiting,  # type: ignore[arg-type]
        )
    for batch in _from_processes(loader, workers, rows.timeout) if workers else loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch.to(device, non_blocking=True)


def _from_processes(loader: DataLoader[Any], workers: int, timeout: float) -> Iterator[Any]:
    """What the loader gives; its processes have ended when this one has."""
    batches, processes = _start(loader, workers)
    kill = partial(_kill, processes)
    atexit.register(kill)  # a traceback may keep this generator alive until then, and `multiprocessing` would wait
    try:
        while (batch := _wait(batches, processes, timeout)) is not None:
            yield batch
    finally:
        late = Timer(GRACE, kill)
        if any(process.is_alive() for process in processes):  # no thread can start while the interpreter shuts down
            late.start()
        del batches  # torch asks its processes to end, and waits for them
        late.cancel()
        kill()
        atexit.unregister(kill)


def _start(loader: DataLoader[Any], workers: int) -> tuple[Iterator[Any], list[BaseProcess]]:
    handler, others = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
    try:
        batches = iter(loader)
    except OSError as error:
        raise ResourceError(
            f"cannot start {plural(workers, 'loader process')}: {first_line(error)}; lower dataset.workers"
        ) from error
    # torch's handler raises wherever the main thread is when a process dies, in the middle of a step too. We look
    # for dead ones whenever we wait for a batch.
    if handler is not None and signal.getsignal(signal.SIGCHLD) is not handler:
        signal.signal(signal.SIGCHLD, handler)
    return batches, [p for p in multiprocessing.active_children() if p not in others]


def _wait(batches: Iterator[Any], processes: Sequence[BaseProcess], timeout: float) -> Any:
    """The next batch, or None after the last."""
    started = time.monotonic()
    while True:
        try:
            return next(batches, None)
        except RuntimeError as error:
            codes = [process.exitcode for process in processes if process.exitcode is not None]
            if codes:
                raise ResourceError(_death(codes[0])) from error
            if "timed out" not in str(error):
                raise
            if time.monotonic() - started >= timeout:
                raise ResourceError(
                    f"no batch from the loader processes for {timeout:g} s (dataset.timeout); an example's reading "
                    "hangs, or is slower than that: see what it waits for with dataset.workers=0, or raise "
                    "dataset.timeout"
                ) from error


def _death(code: int) -> str:
    if code >= 0:
        return f"a loader process ended by itself with exit code {code}; dataset.workers=0 shows why"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else "unknown"
    why = "probably out of memory: lower dataset.workers" if name == "SIGKILL" else "dataset.workers=0 may show why"
    return f"a loader process was killed by signal {-code} ({name}); {why}"


def _kill(processes: Sequence[BaseProcess]) -> None:
    """End processes that may be stuck, and that ignore SIGTERM."""
    for process in processes:
        with suppress(RuntimeError):  # from torch's handler, where other code has set it
            process.kill()
            process.join(GRACE)


def _leave_signals(worker: int) -> None:
    """In a loader process: a signal to the whole group is the main one's, which saves and then ends its loaders."""
    for name in HANDLED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
