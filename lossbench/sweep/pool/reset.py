"""What a job may leave behind in its process, undone before the next one. Modules stay imported."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import setup_globals
from hydra.version import setbase
from omegaconf import OmegaConf

from lossbench.naming import register_resolvers

# Each reads something that the whole process shares, and puts it back.
SETTINGS: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
    (os.getcwd, os.chdir),
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
]
ATTRIBUTES: list[tuple[Any, tuple[str, ...]]] = [
    (sys, ("argv", "path", "stdout", "stderr", "excepthook")),
    (torch.backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (torch.backends.mkldnn, ("enabled",)),
]


@contextmanager
def process_kept() -> Iterator[None]:
    """The process afterwards is as it was before, as far as a later job could notice."""
    settings = [(put_back, read()) for read, put_back in SETTINGS]
    attributes = [(owner, name, _copied(getattr(owner, name))) for owner, names in ATTRIBUTES for name in names]
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    loggers = {logger: _state(logger) for logger in _loggers()}
    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            yield
    finally:
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


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _restore_signals(handlers: Mapping[signal.Signals, Any]) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
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
