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

from lossbench.engine.record import Metrics, StepRow
from lossbench.observe.records import frame

_STATUS = {"completed": api_pb2.STATUS_SUCCESS, "diverged": api_pb2.STATUS_FAILURE, "failed": api_pb2.STATUS_FAILURE}


class TensorBoard:
    """One event file of a run. The scalars of a step travel in one event, which is many times cheaper than one each.

    Args:
        hparams: the run's hyperparameters, for the HPARAMS tab.
        metrics: the tags that the HPARAMS tab compares runs by; other scalars stay out of it.
        scaled: whether there is a loss scale to show (fp16).
    """

    def __init__(
        self, directory: Path, hparams: Mapping[str, Any], metrics: Sequence[str], *, scaled: bool = False
    ) -> None:
        now = time.time()
        name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.0"
        self._file = (directory / name).open("wb")
        self._epoch, self._step, self._scaled = 0, 0, scaled
        self.status = "failed"  # whoever knows better says so before `close`
        self._losses: list[float] = []
        trial = "/".join(directory.parts[-2:])
        plain = {name: _plain(value) for name, value in hparams.items()}
        self._write(
            [
                Event(file_version="brain.Event:2", wall_time=now),
                Event(session_log=SessionLog(status=SessionLog.START), step=0, wall_time=now),
                Event(summary=_experiment(plain, metrics), step=0, wall_time=now),
                Event(summary=hparams_pb(plain, trial_id=trial, start_time_secs=now), step=0, wall_time=now),
            ]
        )

    def steps(self, rows: Sequence[StepRow]) -> None:
        now = time.time()
        events = []
        for row in rows:
            values = {"train/loss": row.loss, "train/lr": row.lr, "train/grad_norm": row.grad_norm}
            if self._scaled:
                values["train/loss_scale"] = row.loss_scale
            if row.epoch != self._epoch:
                events += self._epoch_loss(now)
                self._epoch, self._losses = row.epoch, []
            if not row.skipped:
                self._losses.append(row.loss)
            events.append(_scalars(row.step, values, now))
            self._step = row.step
        self._write(events)

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        values = {f"{split}/{name}": value for split, found in metrics.items() for name, value in found.items()}
        values.pop("train/loss", None)  # the tag is every step's own loss; the mean of the epoch has its own
        self._write([_scalars(step, values, time.time())])

    def close(self) -> None:
        """Write the last epoch's mean and, for the HPARAMS tab, how the run ended: `status`, as it stands."""
        now = time.time()
        end = plugin_data_pb2.SessionEndInfo(status=_STATUS.get(self.status, api_pb2.STATUS_UNKNOWN), end_time_secs=now)
        data = plugin_data_pb2.HParamsPluginData(session_end_info=end)
        summary = _hparams_summary(metadata.SESSION_END_INFO_TAG, data)
        with self._file:
            self._write([*self._epoch_loss(now), Event(summary=summary, step=self._step, wall_time=now)])

    def _epoch_loss(self, now: float) -> list[Event]:
        """The mean loss of the epoch that has ended, over the steps that were taken."""
        if not self._losses:
            return []
        return [_scalars(self._step, {"train/loss_epoch": math.fsum(self._losses) / len(self._losses)}, now)]

    def _write(self, events: Sequence[Event]) -> None:
        self._file.write(frame([event.SerializeToString() for event in events]))
        self._file.flush()


def _scalars(step: int, values: Mapping[str, float], now: float) -> Event:
    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    return Event(summary=summary, step=step, wall_time=now)


def _plain(value: Any) -> bool | int | float | str:
    """A value as the HPARAMS tab can hold it: None and lists become text."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _experiment(hparams: Mapping[str, Any], metrics: Sequence[str]) -> Summary:
    # TensorBoard sorts by `differs`, then by name: choices, seed and rate come before the many settings.
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(
                name=name,
                type=kinds.get(type(value), api_pb2.DATA_TYPE_FLOAT64),
                differs="." not in name or name == "optim.lr",
            )
            for name, value in hparams.items()
        ],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )
    return _hparams_summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _hparams_summary(tag: str, data: Any) -> Summary:
    summary = Summary()
    summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return summary
