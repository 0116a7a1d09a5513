"""A job in a worker: run as Hydra's own launchers run one, and what to tell the parent of it."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sklearn.model_selection  # noqa: F401  # rows are split by it, and it is imported where that is done
import torch
import torch._dynamo  # every optimizer imports it when it is made, and that takes as long as torch itself
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import run_job
from hydra.types import HydraContext
from omegaconf import DictConfig

from lossbench.app import job
from lossbench.observe.reporter import Report
from lossbench.stopping import Terminated, heed, terminate
from lossbench.sweep.expand import options_loader
from lossbench.sweep.placed import place
from lossbench.sweep.run_job import reported


def attempt(config: DictConfig, number: int, path: Path, report: Report, began: Callable[[], None]) -> tuple[Any, ...]:
    """Run a job in the directory `path`.

    Args:
        config: the job's, which is changed.
        began: is called once the job listens to signals.

    Returns:
        `ended` and its row, `interrupted` and by what, or `failed` and why there is no row.
    """
    place(config, number, path)
    token = reported.set(report)
    try:
        try:
            heed(terminate)
            began()
            context = HydraContext(options_loader([]), Callbacks(config))
            return "ended", run_job(job, config, "hydra.sweep.dir", "hydra.sweep.subdir", context).return_value
        finally:
            heed(signal.SIG_IGN)
    except KeyboardInterrupt as stop:
        heed(signal.SIG_IGN)
        return "interrupted", signal.Signals(stop.signal).name if isinstance(stop, Terminated) else "KeyboardInterrupt"
    except BaseException as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        reported.reset(token)


def is_spent(kind: str, *said: Any) -> bool:
    """Whether a process is of no more use after a job that ended so.

    What was stopped may have been in the middle of an import.
    """
    return kind == "interrupted" or (kind == "ended" and _context_is_dead(said[0]))


def _context_is_dead(row: Mapping[str, Any]) -> bool:
    """Whether a job failed with an error of CUDA after which a process cannot use it again: any but of memory."""
    if row["status"] != "failed" or "out of memory" in row["error"]:
        return False
    if "CUDA error" in row["error"]:
        return True
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
