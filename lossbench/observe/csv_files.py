"""`steps.csv` and `evals.csv`: the records that notebooks read, and that every picture can be drawn from again."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from lossbench.engine.record import FIELDS, Metrics, StepRow
from lossbench.errors import CheckpointError
from lossbench.observe.recorder import Sink
from lossbench.observe.replacing import replacing

_HEADER = ",".join(FIELDS).encode()
_EVAL_HEADER = b"step,epoch,split,"


class CsvFiles(Sink):
    """Writes one row a step to `steps.csv` and one row an evaluated split to `evals.csv`.

    There is no clock in `steps.csv` and its floats round-trip, so that equal runs give equal files.

    Args:
        columns: what the rows have as `details`.
        resume: go on after this step: the rows up to it stay, what comes after them goes.

    Raises:
        CheckpointError: the files to go on with do not hold the steps up to `resume`.
    """

    _has_header: bool

    def __init__(self, directory: Path, columns: Sequence[str] = (), *, resume: int | None = None) -> None:
        self._columns = tuple(columns)
        self._paths = directory / "steps.csv", directory / "evals.csv"
        self._open(resume)

    def steps(self, rows: Sequence[StepRow]) -> None:
        self._step_writer.writerows((*row[:-1], *row.details) for row in rows)
        self._steps.flush()

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        for split, values in metrics.items():
            if not self._has_header:
                self._eval_writer.writerow(("step", "epoch", "split", *values))
                self._has_header = True
            self._eval_writer.writerow((step, epoch, split, *values.values()))
        self._evals.flush()

    def rewind(self, step: int) -> None:
        """Forget the rows after `step`."""
        self.close()
        self._open(step)

    def sync(self) -> None:
        """Bring the rows to the disk: a checkpoint that outlives a power loss must not be ahead of them."""
        for file in (self._steps, self._evals):
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        self._steps.close()
        self._evals.close()

    def _open(self, resume: int | None) -> None:
        steps, evals = self._paths
        if resume is not None:
            _cut(steps, _end_of_steps(steps, resume))
            _cut(evals, _end_of_evals(evals, resume))
        mode = "w" if resume is None else "a"
        self._steps, self._evals = steps.open(mode, newline=""), evals.open(mode, newline="")
        self._step_writer = csv.writer(self._steps, lineterminator="\n")
        self._eval_writer = csv.writer(self._evals, lineterminator="\n")
        self._has_header = resume is not None and evals.stat().st_size > 0
        if resume is None:
            self._step_writer.writerow((*FIELDS, *self._columns))


def detail_columns(path: Path) -> list[str]:
    """The columns of a `steps.csv` beside those that every run has."""
    with _opened(path) as file:
        return file.readline().decode(errors="replace").rstrip("\n").split(",")[len(FIELDS) :]


def last_step(path: Path) -> int:
    """How many steps a `steps.csv` holds; a partial last line, as a kill leaves, is none."""
    with _opened(path) as file:
        return sum(1 for _ in _step_lines(path, file, None))


def read_steps(path: Path, upto: int) -> Iterator[StepRow]:
    """The rows of steps 1 to `upto`.

    Raises:
        CheckpointError: they are not all there.
    """
    with _opened(path) as file:
        for line in _step_lines(path, file, upto):
            step, epoch, loss, lr, norm, scale, skipped, *details = line[:-1].split(b",")
            try:
                floats = float(loss), float(lr), float(norm), float(scale)
                yield StepRow(int(step), int(epoch), *floats, skipped.decode(), tuple(map(float, details)))
            except ValueError as error:
                raise CheckpointError(f"{path}: cannot read the row of step {int(step):,}: {error}") from None


def read_evals(path: Path, upto: int) -> Iterator[tuple[int, dict[str, dict[str, float]]]]:
    """Each evaluation up to step `upto`: its step and the metrics of each split.

    Raises:
        CheckpointError: a row cannot be read.
    """
    with _opened(path) as file:
        names = file.readline().decode(errors="replace").rstrip("\n").split(",")[3:]
        rows = (line.decode(errors="replace").rstrip("\n").split(",") for line in _eval_lines(path, file, upto))
        try:
            for step, found in groupby(rows, lambda row: int(row[0])):
                yield step, {row[2]: dict(zip(names, map(float, row[3:]), strict=True)) for row in found}
        except ValueError as error:
            raise CheckpointError(f"{path}: cannot read a row: {error}") from None


def _end_of_steps(path: Path, step: int) -> int:
    """The size of the file's part up to the row of `step`."""
    with _opened(path) as file:
        rows = sum(map(len, _step_lines(path, file, step)))
        file.seek(0)
        return len(file.readline()) + rows


def _end_of_evals(path: Path, step: int) -> int:
    with _opened(path) as file:
        header = file.readline()
        if not header.endswith(b"\n"):  # there was no evaluation yet, or a kill left half of the first
            return 0
        return len(header) + sum(map(len, _eval_lines(path, file, step)))


def _step_lines(path: Path, file: BinaryIO, upto: int | None) -> Iterator[bytes]:
    """The lines of steps 1 to `upto`, or to the last whole line, checked to be those and to have every column."""
    file.seek(0)
    header = file.readline()
    if not (header.endswith(b"\n") and header[:-1].startswith(_HEADER) and header[len(_HEADER) :][:1] in b",\n"):
        raise CheckpointError(f"{path} does not begin as a steps.csv: its first line is to be {_HEADER.decode()}")
    step, commas = 0, header.count(b",")
    while step != upto:
        line = file.readline()
        if not line.endswith(b"\n"):
            break
        step += 1
        if not line.startswith(b"%d," % step) or line.count(b",") != commas:
            found = line[:40].decode(errors="replace").strip()
            raise CheckpointError(f"{path}: the row of step {step:,} is missing; found '{found}' in its place")
        yield line
    if upto is not None and step < upto:
        raise CheckpointError(f"{path} ends at step {step:,}; the steps to {upto:,} are missing")


def _eval_lines(path: Path, file: BinaryIO, upto: int) -> Iterator[bytes]:
    """The whole lines up to step `upto`, checked to be in order, each split once."""
    file.seek(0)
    header = file.readline()
    if not header.endswith(b"\n"):
        return
    if not header.startswith(_EVAL_HEADER):
        raise CheckpointError(f"{path} does not begin as an evals.csv: its first line is to be step,epoch,split,...")
    last, splits, columns = 0, set[bytes](), header.count(b",")
    for line in file:
        if not line.endswith(b"\n"):
            return
        step, _, split, *_ = (*line.split(b",", 3), b"", b"")
        number = int(step) if step.isdigit() else -1
        if number > upto:
            return
        splits = splits if number == last else set()
        if number < last or split in splits or line.count(b",") != columns:
            found = line[:40].decode(errors="replace").strip()
            raise CheckpointError(f"{path}: after step {last:,} comes a row that does not belong there: '{found}'")
        last = number
        splits.add(split)
        yield line


def _cut(path: Path, size: int) -> None:
    """Keep the first `size` bytes of a file."""
    if path.stat().st_size == size:
        return
    with path.open("rb") as file, replacing(path) as kept:
        while size:
            block = file.read(min(size, 1 << 20))
            kept.write(block)
            size -= len(block)


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing: without it the run cannot go on, nor its events be rebuilt"
        ) from None
