"""`steps.csv` and `evals.csv`: the records that notebooks read, and that every picture can be drawn from again."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from lossbench.engine.record import Metrics, StepRow


class CsvFiles:
    """Writes one row a step to `steps.csv` and one row an evaluated split to `evals.csv`.

    There is no clock in `steps.csv` and its floats round-trip, so that equal runs give equal files.
    """

    def __init__(self, directory: Path) -> None:
        self._steps = (directory / "steps.csv").open("w", newline="")
        self._evals = (directory / "evals.csv").open("w", newline="")
        self._step_writer = csv.writer(self._steps, lineterminator="\n")
        self._eval_writer = csv.writer(self._evals, lineterminator="\n")
        self._step_writer.writerow(StepRow._fields)
        self._has_header = False

    def steps(self, rows: Sequence[StepRow]) -> None:
        self._step_writer.writerows(rows)
        self._steps.flush()

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        for split, values in metrics.items():
            if not self._has_header:
                self._eval_writer.writerow(("step", "epoch", "split", *values))
                self._has_header = True
            self._eval_writer.writerow((step, epoch, split, *values.values()))
        self._evals.flush()

    def close(self) -> None:
        self._steps.close()
        self._evals.close()
