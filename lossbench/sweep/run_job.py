"""A job of a sweep, in whichever process it runs: what goes wrong in it is its row, and the others run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from omegaconf import DictConfig

from lossbench.build import build
from lossbench.config import Config, check
from lossbench.errors import LossbenchError, cause
from lossbench.hydra_errors import translate
from lossbench.observe.reporter import Report
from lossbench.observe.run_dir import ended
from lossbench.rates import settled
from lossbench.resume import continued, is_running
from lossbench.run import execute
from lossbench.stopping import Stop
from lossbench.summary import identity
from lossbench.sweep.job import Row
from lossbench.sweep.lost import failed

PATIENCE = 10.0  # seconds

# Who is told of evaluations, where a launcher runs jobs in the sweep's own process.
reported: ContextVar[Report | None] = ContextVar("reported", default=None)


def run_job(
    cfg: DictConfig, choices: Mapping[str, str], overrides: Sequence[str], path: Path, report: Report | None = None
) -> Row:
    """Train in the directory `path`, or go on with the part of the job that lies there.

    Args:
        cfg: as composed, without Hydra's own part.
        report: is told of each evaluation.

    Returns:
        The run's summary, also where the run had ended before; of one that failed, was interrupted or could not begin
        only its `status` and `error`. Its `directory` is the path.

    Raises:
        KeyboardInterrupt: the job was asked to stop, and has saved its state.
    """
    stop = Stop()
    checked: Config | None = None
    earlier = None
    try:
        checked = check(cfg, choices)
        _let_go(path)
        if row := ended(path, checked.hash):
            return row
        earlier = continued(checked, path)
        run = build(settled(checked, earlier.checkpoint.facts if earlier else None))
        if earlier:
            earlier.load(run)
        with stop.listening():
            row = execute(
                run, path, overrides, resume=earlier, stopped=stop.asked, brief=True, report=report or reported.get()
            )
    except (Exception, SystemExit) as error:  # a user's own code can even leave
        if earlier:
            earlier.lock.close()
        row = _failed(checked, overrides, path, error)
    if row["status"] == "interrupted" or stop.asked():  # too late for this job, and before the next
        stop.leave()
    return {**row, "directory": str(path)}


def _let_go(path: Path) -> None:
    """Wait a little for a process of a sweep that was killed, which ends soon after, to let the directory go."""
    end = time.monotonic() + PATIENCE
    while path.is_dir() and is_running(path) and time.monotonic() < end:
        time.sleep(0.1)


def _failed(checked: Config | None, overrides: Sequence[str], path: Path, error: BaseException) -> Row:
    """The row of a job that failed, which its directory holds as well."""
    facts, config = (identity(checked), (checked.text, list(overrides))) if checked else ({}, None)
    trace = "".join(traceback.format_exception(error)) if _is_foreign(error) else ""
    return failed(path, facts, cause(translate(error, overrides) or error), log=trace, config=config)


def _is_foreign(error: BaseException | None) -> bool:
    """Whether an error is not ours, or says what one means that is not."""
    return error is not None and (not isinstance(error, LossbenchError) or _is_foreign(error.__cause__))
