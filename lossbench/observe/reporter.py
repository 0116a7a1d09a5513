"""Evaluations for whoever watches many runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lossbench.engine.record import Metrics
from lossbench.observe.recorder import Sink

# Takes the step, the epoch and the metrics of each split; true if the run should end now.
Report = Callable[[int, int, Mapping[str, Metrics]], bool]


class Reporter(Sink):
    """Tells of each evaluation.

    Attributes:
        ends: whether the run was told to end.
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.ends = False

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        self.ends = self.report(step, epoch, metrics) or self.ends
