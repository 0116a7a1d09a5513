"""TensorBoard event files: every step's scalars, the metrics, and the hyperparameters in the same run."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from lossbench.engine.record import Metrics, StepRow

_STATUS = {"completed": api_pb2.STATUS_SUCCESS, "diverged": api_pb2.STATUS_FAILURE, "failed": api_pb2.STATUS_FAILURE}


class TensorBoard:
    """One event file of a run. The scalars of a step travel in one event, which is many times cheaper than one each.

    Args:
        hparams: the run's hyperparameters, for the HPARAMS tab.
        metrics: the tags that the HPARAMS tab compares runs by; other scalars stay out of it.
    """

    def __init__(self, directory: Path, hparams: Mapping[str, Any], metrics: Sequence[str]) -> None:
        now = time.time()
        name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = (directory / name).open("wb")
        self._records = RecordWriter(self._file)
        self._epoch, self._losses = 0, [0.0, 0.0]
        self._step = 0
        self._write(Event(file_version="brain.Event:2", wall_time=now))
        self._write(Event(session_log=SessionLog(status=SessionLog.START), step=0, wall_time=now))
        plain = {name: _plain(value) for name, value in hparams.items()}
        self._summary(_experiment(plain, metrics), 0)
        self._summary(hparams_pb(plain, trial_id=str(directory), start_time_secs=now), 0)
        self._file.flush()

    def steps(self, rows: Sequence[StepRow]) -> None:
        for row in rows:
            values = {"train/loss": row.loss, "train/lr": row.lr, "train/grad_norm": row.grad_norm}
            if row.loss_scale != 1:
                values["train/loss_scale"] = row.loss_scale
            self._mean_of_epoch(row)
            self._scalars(row.step, values)
            self._step = row.step
        self._file.flush()

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        values = {f"{split}/{name}": value for split, found in metrics.items() for name, value in found.items()}
        values.pop("train/loss", None)  # the tag is every step's own loss; the mean of the epoch has its own
        self._scalars(step, values)
        self._file.flush()

    def finish(self, status: str) -> None:
        """Close the session for the HPARAMS tab."""
        end = plugin_data_pb2.SessionEndInfo(
            status=_STATUS.get(status, api_pb2.STATUS_UNKNOWN), end_time_secs=time.time()
        )
        data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        self._summary(_hparams_summary(metadata.SESSION_END_INFO_TAG, data), self._step)

    def close(self) -> None:
        if self._epoch:
            self._epoch_loss()
        self._file.close()

    def _mean_of_epoch(self, row: StepRow) -> None:
        if row.epoch != self._epoch:
            if self._epoch:
                self._epoch_loss()
            self._epoch, self._losses = row.epoch, [0.0, 0.0]
        if not row.skipped:
            self._losses[0] += row.loss
            self._losses[1] += 1

    def _epoch_loss(self) -> None:
        total, count = self._losses
        self._scalars(self._step, {"train/loss_epoch": total / count if count else math.nan})

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._summary(Summary(value=[Summary.Value(tag=t, simple_value=v) for t, v in values.items()]), step)

    def _summary(self, summary: Summary, step: int) -> None:
        self._write(Event(summary=summary, step=step, wall_time=time.time()))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


def _plain(value: Any) -> bool | int | float | str:
    """A value as the HPARAMS tab can hold it: None and lists become text."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _experiment(hparams: Mapping[str, Any], metrics: Sequence[str]) -> Summary:
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64))
            for name, value in sorted(hparams.items())
        ],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )
    return _hparams_summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _hparams_summary(tag: str, data: Any) -> Summary:
    summary = Summary()
    summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return summary
