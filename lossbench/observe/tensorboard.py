"""TensorBoard event files: every step's scalars, the metrics, and the hyperparameters in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event

from lossbench.console import say
from lossbench.engine.record import Metrics, StepRow
from lossbench.observe import events
from lossbench.observe.event_files import EventFile, held, new_path
from lossbench.observe.events import EpochLoss
from lossbench.observe.hparams import Card, Column
from lossbench.observe.rebuild import complete, rebuild
from lossbench.observe.recorder import Sink


class TensorBoard(Sink):
    """The event file of a run. One that cannot be written is switched off, with a line; it never stops a training.

    Args:
        hparams: the run's hyperparameters, for the HPARAMS tab.
        metrics: the tags that the HPARAMS tab compares runs by; other scalars stay out of it.
        scaled: whether there is a loss scale to show (fp16).
        columns: what the rows have as `details`.
        shared: the columns that the HPARAMS tab has for all runs of a sweep.
        resume: go on after this step: in one more file where the earlier ones hold what the CSV files hold up to it
            and nothing else, and otherwise in one that is rebuilt from these.

    Raises:
        CheckpointError: the CSV files do not hold the steps up to `resume`.
    """

    def __init__(
        self,
        directory: Path,
        hparams: Mapping[str, Any],
        metrics: Sequence[str],
        *,
        scaled: bool = False,
        columns: Sequence[str] = (),
        shared: Mapping[str, Column] | None = None,
        resume: int | None = None,
    ) -> None:
        self.status = "failed"  # whoever knows better says so before `close`
        self._directory, self._columns = directory, columns
        self._card = Card.of(hparams, metrics, scaled, time.time(), shared)
        self._file: EventFile | None = None
        self._losses = EpochLoss()
        self._step = resume or 0
        self._do(self._begin if resume is None else lambda: self._resume(resume))

    def steps(self, rows: Sequence[StepRow]) -> None:
        if self._file is None:
            return
        now, scaled = time.time(), self._card.scaled
        self._write([e for row in rows for e in events.stepped(row, self._losses, scaled, self._columns, now)])
        self._step = rows[-1].step

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        self._write([events.evaluated(step, metrics, time.time())])
        self._step = max(self._step, step)

    def rewind(self, step: int) -> None:
        """Forget what came after `step`."""
        if self._file is not None and self._step > step:
            self._do(lambda: self._rebuild(step))

    def close(self) -> None:
        """Write how the run ended: `status`, as it stands. An interrupted one may go on and has no end yet."""
        self._write(events.ending(self.status, self._losses, self._step, time.time()))
        self._do(self._shut)

    def _begin(self) -> None:
        self._card.save(self._directory)
        self._file = EventFile(new_path(self._directory))
        self._file.write(events.beginning(self._card, self._directory, self._card.started))

    def _resume(self, step: int) -> None:
        before, found = Card.load(self._directory), held(self._directory)
        if before is not None:
            self._card = self._card._replace(started=before.started)
        if complete(found, self._directory, step, self._losses) and self._card.shows_as(before):
            self._file = EventFile(new_path(self._directory))
            self._file.write(events.restart(step + 1, time.time()))
        else:
            self._card.save(self._directory)
            self._rebuild(step)

    def _rebuild(self, step: int) -> None:
        self._shut()
        self._losses, self._step = EpochLoss(), step
        self._file, _ = rebuild(self._directory, self._card, step, self._losses)

    def _write(self, made: Sequence[Event]) -> None:
        file = self._file
        if file is not None:
            self._do(lambda: file.write(made))

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            why = f"TensorBoard: cannot write to {self._directory}: {error.strerror or error}"
            say(f"{why}; it is switched off, the CSV files go on")
            with suppress(OSError):
                self._shut()

    def _shut(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()
