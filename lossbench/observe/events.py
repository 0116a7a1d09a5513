"""What is written of a run for TensorBoard, as events: the same from rows as they come and from rows read again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

from lossbench.engine.record import Metrics, StepRow
from lossbench.observe.hparams import Card, plugin_summary

LOSS, EPOCH_LOSS = "train/loss", "train/loss_epoch"
ENDED = metadata.SESSION_END_INFO_TAG
HPARAMS = "_hparams_/"  # how the tags begin that hold the hyperparameters

_STATUS = {"completed": api_pb2.STATUS_SUCCESS, "diverged": api_pb2.STATUS_FAILURE, "failed": api_pb2.STATUS_FAILURE}


class EpochLoss:
    """The mean loss of an epoch over the steps that were taken, known when the next epoch begins."""

    def __init__(self) -> None:
        self._step, self._epoch = 0, 0
        self._losses: list[float] = []

    def push(self, row: StepRow) -> tuple[int, float] | None:
        """Take a step; if it is an epoch's first, return the last step and the mean of the one before."""
        done = None
        if row.epoch != self._epoch:
            done = self.mean()
            self._epoch, self._losses = row.epoch, []
        if not row.skipped:
            self._losses.append(row.loss)
        self._step = row.step
        return done

    def mean(self) -> tuple[int, float] | None:
        if not self._losses:
            return None
        try:
            return self._step, math.fsum(self._losses) / len(self._losses)
        except ValueError:  # of inf and -inf, where the guard is off
            return self._step, math.nan


def beginning(card: Card, directory: Path, now: float) -> list[Event]:
    """The first events of a run."""
    summaries = card.summaries(directory)
    return [*restart(0, now), *(Event(summary=summary, step=0, wall_time=now) for summary in summaries)]


def restart(step: int, now: float) -> list[Event]:
    """The first events of a file: nothing before it is of `step` or later."""
    log = SessionLog(status=SessionLog.START)
    return [Event(file_version="brain.Event:2", wall_time=now), Event(session_log=log, step=step, wall_time=now)]


def stepped(row: StepRow, losses: EpochLoss, scaled: bool, columns: Sequence[str], now: float) -> list[Event]:
    """A step's values, after the mean of the epoch that it ends; `columns` name its details."""
    values = {LOSS: row.loss, "train/lr": row.lr, "train/grad_norm": row.grad_norm}
    if scaled:
        values["train/loss_scale"] = row.loss_scale
    if columns:
        values.update(zip((f"train/{name}" for name in columns), row.details, strict=True))
    return [*mean(losses.push(row), now), _scalars(row.step, values, now)]


def mean(found: tuple[int, float] | None, now: float) -> list[Event]:
    """The mean loss of an epoch, if there is one."""
    return [_scalars(found[0], {EPOCH_LOSS: found[1]}, now)] if found else []


def evaluated(step: int, metrics: Mapping[str, Metrics], now: float) -> Event:
    """The metrics of each split; those of single classes (`recall/3`) of the splits that were not trained on."""
    values = {
        f"{split}/{name}": value
        for split, found in metrics.items()
        for name, value in found.items()
        if "/" not in name or split in ("val", "test")
    }
    values.pop(LOSS, None)  # the tag is every step's own loss; the mean of the epoch has its own
    return _scalars(step, values, now)


def of_the_best(metrics: Mapping[str, Metrics]) -> dict[str, Metrics]:
    """What the summary has of the best weights, by the first part of its tags: `best`, `test`, `best_ema`, `test_ema`.

    `val/...` is a curve, and its last point is not the best one.
    """
    splits = {"val": "best", "test": "test"}
    found = ((*name.partition("_"), values) for name, values in metrics.items())
    return {f"{splits[split]}{line}{kind}": values for split, line, kind, values in found if split in splits}


def ending(status: str, losses: EpochLoss, step: int, now: float) -> list[Event]:
    """The last epoch's mean and, for the HPARAMS tab, how the run ended; nothing of a run that may yet go on.

    TensorBoard keeps the first end that it sees, and an epoch has its mean where it ends.
    """
    if status not in _STATUS:
        return []
    end = plugin_data_pb2.SessionEndInfo(status=_STATUS[status], end_time_secs=now)
    summary = plugin_summary(ENDED, plugin_data_pb2.HParamsPluginData(session_end_info=end))
    return [*mean(losses.mean(), now), Event(summary=summary, step=step, wall_time=now)]


def _scalars(step: int, values: Mapping[str, float], now: float) -> Event:
    # The scalars of a step travel in one event, which is many times cheaper than one each.
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    return Event(summary=summary, step=step, wall_time=now)
