"""The event file of a run that is not running, made again from its CSV files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event

from lossbench.engine.record import Metrics
from lossbench.errors import ConfigError, ResourceError, plural
from lossbench.observe import events
from lossbench.observe.csv_files import last_step, read_evals, read_steps
from lossbench.observe.event_files import held
from lossbench.observe.events import EpochLoss
from lossbench.observe.hparams import Card
from lossbench.observe.rebuild import rebuild, span
from lossbench.observe.run_dir import lock, read_json


def repair(directory: Path) -> str:
    """Rebuild a run's event file from `steps.csv`, `evals.csv` and the JSON files, and say in one line what was done.

    Raises:
        ConfigError: the directory holds no run, or one that is going on.
        CheckpointError: the CSV files do not hold the run's steps.
        ResourceError: the directory cannot be written.
    """
    status = _status(directory)
    try:
        with lock(directory):
            return _repair(directory, status)
    except OSError as error:
        raise ResourceError(f"cannot write to {directory}: {error.strerror or error}") from error


def _repair(directory: Path, status: str) -> str:
    steps = last_step(directory / "steps.csv")
    evaluations = sum(1 for _ in read_evals(directory / "evals.csv", steps))
    card = Card.load(directory)
    kept = card or Card.of({}, [], _scaled(directory, steps), span(directory)[0])
    found, losses = held(directory), EpochLoss()
    file, aside = rebuild(directory, kept, steps, losses, found, _tail(directory, status, steps, losses))
    file.close()
    text = f"rebuilt {plural(steps, 'step')} and {plural(evaluations, 'evaluation')} into {file.path.name}"
    if aside:
        which = "earlier" if found.whole else "damaged"
        text += f"; the {which} file{'s are' if len(aside) > 1 else ' is'} kept as {', '.join(p.name for p in aside)}"
    return text + (
        "" if card else "; hparams.json cannot be read, so the HPARAMS tab shows the run without its hyperparameters"
    )


def _status(directory: Path) -> str:
    """How the run stands; one that was killed still calls itself running."""
    status = read_json(directory / "status.json", {}).get("status")
    if status is None:
        raise ConfigError(f"{directory} is not the directory of a run: it has no status.json to be read")
    return str(status)


def _tail(directory: Path, status: str, steps: int, losses: EpochLoss) -> Iterator[Event]:
    """What a run writes when it ends: the metrics of the best weights, the last epoch's mean, and how it ended."""
    _, now = span(directory)
    best = _best(directory, status)
    if best:
        yield events.evaluated(*best, now)
    yield from events.ending(status, losses, steps, now)


def _best(directory: Path, status: str) -> tuple[int, dict[str, Metrics]] | None:
    """The step and the metrics that the summary has of the best weights; None where it cannot be read.

    A resumed run can have the summary of its first end.
    """
    try:
        summary = json.loads((directory / "summary.json").read_text())
        metrics = summary["metrics"]
        if not metrics or summary["status"] != status:
            return None
        found: dict[str, Metrics] = {
            split: {name: math.nan if value is None else float(value) for name, value in values.items()}
            for split, values in events.of_the_best(metrics).items()
        }
        step = int(summary["steps"])
        return (step, found) if 0 <= step < 2**63 else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None


def _scaled(directory: Path, steps: int) -> bool:
    """Whether the run had a loss scale, where nothing says so but the rows."""
    return any(row.loss_scale != 1 for row in read_steps(directory / "steps.csv", steps))
