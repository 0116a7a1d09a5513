"""A run's events from its CSV files: what TensorBoard should have of the steps so far, and a file that has it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event

from lossbench.observe import events
from lossbench.observe.csv_files import detail_columns, read_evals, read_steps
from lossbench.observe.event_files import EventFile, Held, held, replace
from lossbench.observe.events import EpochLoss
from lossbench.observe.hparams import LATEST, Card


def complete(found: Held, directory: Path, upto: int, losses: EpochLoss) -> bool:
    """Whether event files hold just what the CSV files do up to a step, and a run can go on after them.

    TensorBoard's data server heeds no START: of each tag it drops what is not before the next event. So what is
    beyond `upto` would stay to be seen, and files that hold such are not complete either.

    Args:
        losses: is given the rows.
    """
    rows = read_steps(directory / "steps.csv", upto)
    wanted = [(done[0], events.EPOCH_LOSS) for row in rows if (done := losses.push(row))]
    for step, metrics in read_evals(directory / "evals.csv", upto):
        wanted += [(step, value.tag) for value in events.evaluated(step, metrics, 0.0).summary.value]
    steps = np.arange(1, upto + 1)
    return (
        found.whole
        and not found.ended
        and np.array_equal(found.steps, steps)
        and sorted(found.others) == sorted(wanted)
    )


def rebuild(
    directory: Path, card: Card, upto: int, losses: EpochLoss, found: Held | None = None, tail: Iterable[Event] = ()
) -> tuple[EventFile, list[Path]]:
    """Write the events of the CSV files up to a step to one new file, in the place of the earlier ones.

    Args:
        losses: is given the rows.
        found: what the earlier files hold, where they have been read.
        tail: events to follow, made when the rows have been read.

    Returns:
        The file, open, and what the earlier ones are now called.
    """
    times = _times(found or held(directory), directory, upto)
    head = events.beginning(card, directory, card.started)
    return replace(directory, chain(head, _history(directory, card.scaled, upto, losses, times), tail))


def span(directory: Path) -> tuple[float, float]:
    """When a run began and when it was last heard of, by its `status.json`; now, where that does not say."""
    now = time.time()
    try:
        state = json.loads((directory / "status.json").read_text())
        times = float(state["started"]), float(state["heartbeat"])
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return now, now
    return times if all(0 <= moment < LATEST for moment in times) else (now, now)


def _history(
    directory: Path, scaled: bool, upto: int, losses: EpochLoss, times: NDArray[np.float64]
) -> Iterator[Event]:
    evals = read_evals(directory / "evals.csv", upto)
    following = next(evals, None)
    columns = detail_columns(directory / "steps.csv")
    for row in read_steps(directory / "steps.csv", upto):
        while following and following[0] < row.step:
            yield events.evaluated(*following, float(times[following[0]]))
            following = next(evals, None)
        yield from events.stepped(row, losses, scaled, columns, float(times[row.step]))
    while following:
        yield events.evaluated(*following, float(times[following[0]]))
        following = next(evals, None)


def _times(found: Held, directory: Path, upto: int) -> NDArray[np.float64]:
    """When each step was recorded, from 0: as the events that can be read say, and evenly in between."""
    started, heard = span(directory)
    kept = (found.steps >= 1) & (found.steps <= upto)
    steps, first = np.unique(found.steps[kept], return_index=True)
    known = found.times[kept][first]
    begin = min([started, *known[:1]])
    x = np.concatenate(([0], steps, [upto + 1]))
    y = np.concatenate(([begin], known, [max([heard, *known[-1:]])]))
    return np.interp(np.arange(upto + 1), x, np.maximum.accumulate(y))
