"""Trials of an arm that Optuna proposes, each by what became of those before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lossbench.sweep.compose import Composer
from lossbench.sweep.fair.tuning import Arm
from lossbench.sweep.job import Job, Row
from lossbench.sweep.search.objective import Objective
from lossbench.sweep.search.study import Study
from lossbench.sweep.search.trials import Search


class Searched:
    """An arm's default, and then the trials of a search of its own.

    Args:
        budget: how many trials, with the default.
        directory: for the search's file.
        retry: run failed trials once more.

    Raises:
        ConfigError: the sampler cannot search there, or the directory is of another search.
    """

    def __init__(
        self,
        arm: Arm,
        objective: Objective,
        *,
        budget: int,
        sampler: str,
        seed: int,
        directory: Path,
        retry: bool,
        composer: Composer,
    ) -> None:
        search = Search(arm.dimensions, [objective], budget - 1, sampler, None, seed)
        self.arm, self.known, self.total = arm, [arm.default], budget
        self._study = Study(composer, search, arm.default.overrides, self.known, directory, retry=retry)
        self._begun = False

    @property
    def batch(self) -> int | None:
        return self._study.batch

    @property
    def exhausted(self) -> bool:
        return self._begun and self._study.exhausted

    def next(self) -> Job | None:
        if not self._begun:
            self._begun = True
            return self.arm.default
        job = self._study.next()
        if job is None or job.hash == self.arm.default.hash:
            return None
        return replace(job, name=self.arm.named("tune", job.name), phase="tune")

    def ended(self, job: Job, row: Row) -> None:
        if job.hash != self.arm.default.hash:
            self._study.ended(job, row)

    def evaluated(self, job: Job, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """No trial is ended early."""
        return False
