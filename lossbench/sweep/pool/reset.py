"""What a job may leave behind in its process, undone before the next one. Modules stay imported."""

from __future__ import annotations

import gc
import logging
import os
import random
import resource
import signal
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.version import setbase
from omegaconf import OmegaConf
from torch.nn.modules import module
from torch.optim import optimizer

from lossbench.naming import register_resolvers

GRACE = 1.0  # seconds for a job's threads to end
LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})
STANDARD = Path(sysconfig.get_path("stdlib"))


def _umask() -> int:
    """Which the system tells only to who sets it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _set_limits(kept: list[tuple[int, int]]) -> None:
    """Raises ValueError where a hard limit was lowered."""
    for limit, values in zip(LIMITS, kept, strict=True):
        if resource.getrlimit(limit) != values:
            resource.setrlimit(limit, values)


def _autocast() -> dict[str, tuple[bool, torch.dtype]]:
    return {kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")}


def _set_autocast(kept: dict[str, tuple[bool, torch.dtype]]) -> None:
    for kind, (enabled, dtype) in kept.items():
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _autocast_depth() -> int:
    """How many autocast contexts are open: what they have cast is kept until the last one closes."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


def _set_autocast_depth(kept: int) -> None:
    while _autocast_depth() > kept:
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()


def _hooks() -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The hooks of all modules and of all optimizers: each table, and what is in it."""
    tables = [
        each for owner in (module, optimizer) for name, each in vars(owner).items() if name.startswith("_global_")
    ]
    return [(table, dict(table)) for table in tables if isinstance(table, dict)]


def _set_hooks(kept: list[tuple[dict[Any, Any], dict[Any, Any]]]) -> None:
    for table, entries in kept:
        table.clear()
        table.update(entries)


# Each reads something that the whole process shares, and puts it back.
SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (os.getcwd, os.chdir),
    (_umask, os.umask),
    (lambda: [resource.getrlimit(limit) for limit in LIMITS], _set_limits),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (random.getstate, random.setstate),
    (lambda: np.random.get_state(legacy=True), np.random.set_state),  # noqa: NPY002
    (np.geterr, lambda kept: np.seterr(**kept)),
    (torch.initial_seed, torch.manual_seed),  # of every device
    (torch.get_rng_state, torch.set_rng_state),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_num_threads, torch.set_num_threads),
    (_autocast, _set_autocast),
    (_autocast_depth, _set_autocast_depth),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    (_hooks, _set_hooks),
]
ATTRIBUTES: list[tuple[Any, tuple[str, ...]]] = [
    (sys, ("argv", "path", "stdout", "stderr", "excepthook")),
    (torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (torch.backends.mkldnn, ("enabled",)),
]


@dataclass
class Traces:
    """What cannot be undone.

    Attributes:
        stay: whether there is any, and the process is of no more use.
    """

    stay: bool = False


@contextmanager
def process_kept() -> Iterator[Traces]:
    """The process afterwards is as it was before, as far as a later job could notice; else there are traces."""
    traces, threads = Traces(), set(sys._current_frames())
    settings = [(put_back, read()) for read, put_back in SETTINGS]
    attributes = [(owner, name, _copied(getattr(owner, name))) for owner, names in ATTRIBUTES for name in names]
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    loggers = {logger: _state(logger) for logger in _loggers()}
    disabled = logging.root.manager.disable

    def restore() -> None:
        for put_back, kept in settings:
            put_back(kept)
        for owner, name, kept in attributes:
            setattr(owner, name, kept)
        if environment != dict(os.environ):
            os.environ.clear()
            os.environ.update(environment)
        _restore_signals(handlers)
        for logger in _loggers():
            _put_back(logger, loggers.get(logger))
        logging.disable(disabled)
        torch.set_default_device(None)
        fresh_hydra()
        gc.enable()
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    try:
        with warnings.catch_warnings():
            yield traces
    finally:
        try:
            restore()
        except Exception:  # such as any call of a CUDA context that is dead
            traces.stay = True
        traces.stay = traces.stay or torch.is_inference_mode_enabled() or _has_threads(threads)


def _has_threads(before: set[int]) -> bool:
    """Whether threads of a job's own are alive, after a little while."""
    end = time.monotonic() + GRACE
    while alive := any(_is_own(frame) for ident, frame in sys._current_frames().items() if ident not in before):
        if time.monotonic() > end:
            break
        time.sleep(0.01)
    return alive


def _is_own(frame: FrameType | None) -> bool:
    """Whether a thread runs the user's code, or will after a time; not that of a library, nor one of an idle pool."""
    files: list[Path] = []
    while frame is not None:
        files.insert(0, Path(frame.f_code.co_filename))
        frame = frame.f_back
    begun = [file for file in files if file != STANDARD / "threading.py"]
    first = next((file for file in begun if _installed(file) or STANDARD not in file.parents), None)
    return not begun if first is None else not _installed(first)


def _installed(file: Path) -> bool:
    return not {"site-packages", "dist-packages"}.isdisjoint(file.parts)


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _restore_signals(handlers: Mapping[signal.Signals, Any]) -> None:
    for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(timer, 0)
    for number, kept in handlers.items():
        if kept is not None and signal.getsignal(number) is not kept:
            signal.signal(number, kept)


def fresh_hydra() -> None:
    """Hydra and OmegaConf as a job finds them under Hydra's own launchers."""
    setbase("1.3")
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    OmegaConf.clear_resolvers()
    setup_globals()
    register_resolvers()


def _loggers() -> list[logging.Logger]:
    known = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in known if isinstance(logger, logging.Logger))]


def _state(logger: logging.Logger) -> dict[str, Any]:
    return {name: _copied(getattr(logger, name)) for name in ("level", "propagate", "disabled", "handlers", "filters")}


def _put_back(logger: logging.Logger, state: dict[str, Any] | None) -> None:
    """A logger as it was; one that is new, as if it had just been made."""
    state = state or _state(logging.Logger("new"))
    for handler in logger.handlers:
        if handler not in state["handlers"]:
            with suppress(Exception):  # a user's own may fail to close
                handler.close()
    if logger.level != state["level"]:
        logger.setLevel(state["level"])  # empties the caches of all loggers
    for name, value in state.items():
        setattr(logger, name, value)
