"""Trials of an arm that Optuna proposes, each by what became of those before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lossbench.sweep.compose import Composer
from lossbench.sweep.fair.tuning import Arm, trial_job
from lossbench.sweep.job import Job, Row
from lossbench.sweep.search.objective import Objective
from lossbench.sweep.search.study import Study
from lossbench.sweep.search.trials import Search, param


class Searched:
    """An arm's default, and then the trials of a search of its own, which knows how the default did.

    Args:
        budget: how many trials, with the default.
        directory: for the search's file.
        retry: run failed trials once more.

    Raises:
        ConfigError: the sampler cannot search there, or the directory is of another search.
    """

    listed = False

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
        start = _start(arm, composer)
        search = Search(arm.dimensions, [objective], budget - (start is None), sampler, None, seed, start)
        self.arm, self.known, self.total = arm, [arm.default], budget
        self.facts: Mapping[str, Any] = {}
        self._study = Study(composer, search, arm.default.overrides, self.known, directory, retry=retry)
        self._study.handed(arm.default)
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
        self.total = self._study.total
        return job and replace(job, name=self.arm.named("tune", job.name), phase="tune")

    def ended(self, job: Job, row: Row) -> None:
        self._study.ended(job, row)

    def evaluated(self, job: Job, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """No trial is ended early."""
        return False


def _start(arm: Arm, composer: Composer) -> dict[str, Any] | None:
    """The arm's default as a point of what is searched, which the search so learns from; None where it is no such."""
    settings, keys = arm.default.settings, [dimension.key.lstrip("+") for dimension in arm.dimensions]
    if not set(keys) <= settings.keys():
        return None
    found = {d.key: param(d, settings[key]) for d, key in zip(arm.dimensions, keys, strict=True)}
    if None in found.values():
        return None
    words = [d.word(settings[key]) for d, key in zip(arm.dimensions, keys, strict=True)]
    return found if trial_job(arm, words, composer).hash == arm.default.hash else None
