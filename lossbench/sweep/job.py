"""What the parts of a sweep hand to one another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from omegaconf import DictConfig

Row = dict[str, Any]  # a run's summary, or of a run without one its status and error; with its `directory`


@dataclass(frozen=True)
class Job:
    """One combination, composed and checked.

    Attributes:
        name: what sets it apart from the sweep's others, such as `loss=focal,seed=1`.
        overrides: its words, as for a run of its own; none of `sweep.*`.
        config: with Hydra's own part.
        hash: equal for jobs that must give equal results.
        settings: every setting by its key, those of `summary.json`.
        hparams: those that TensorBoard's HPARAMS tab shows.
        phase: which part of a sweep of several parts it belongs to.
    """

    name: str
    overrides: tuple[str, ...]
    config: DictConfig
    hash: str
    settings: Mapping[str, Any]
    hparams: Mapping[str, Any]
    phase: str = ""


def different(jobs: Iterable[Job]) -> list[Job]:
    """The first of each that are equal: another would give the same result again."""
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(job.hash, job)
    return list(found.values())


@dataclass(frozen=True)
class Task:
    """A job that is to be run, or gone on with, in the directory `path`."""

    number: int
    job: Job
    path: Path


class Source(Protocol):
    """Where a sweep's jobs come from. What it hands out may depend on what became of earlier jobs."""

    @property
    def known(self) -> Sequence[Job]:
        """Jobs that can be known from the start: all of them, or one for each way in which their settings differ."""
        ...

    @property
    def listed(self) -> bool:
        """Whether `known` are all the jobs that there will be."""
        ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """What `sweep.json` says of it beside its jobs, for the comparison of their results."""
        ...

    @property
    def total(self) -> int | None:
        """How many jobs there will be, as far as that is known."""
        ...

    @property
    def batch(self) -> int | None:
        """How many jobs a launcher that takes lists of them should get at a time; None is all."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether `next` gives no job any more, whatever becomes of those that run."""
        ...

    def next(self) -> Job | None:
        """The next job; None where there is none, or none before one that runs has ended."""
        ...

    def ended(self, job: Job, row: Row) -> None:
        """Take note of how a job ended, now or in an earlier call of the same sweep."""
        ...

    def evaluated(self, job: Job, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """Take note of an evaluation in a job that runs; true if the job should end now."""
        ...


class Listed:
    """Jobs that are all known from the start."""

    batch = None
    listed = True
    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, jobs: list[Job]) -> None:
        self.known, self.total = jobs, len(jobs)
        self._rest = iter(jobs)
        self._left = len(jobs)

    @property
    def exhausted(self) -> bool:
        return self._left == 0

    def next(self) -> Job | None:
        job = next(self._rest, None)
        self._left -= job is not None
        return job

    def ended(self, job: Job, row: Row) -> None:
        """Nothing depends on it."""

    def evaluated(self, job: Job, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        return False
