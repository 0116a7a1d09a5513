"""A search as a source of jobs: what each is depends on what became of those before."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lossbench.console import say
from lossbench.errors import ConfigError
from lossbench.sweep.compose import Composer
from lossbench.sweep.job import Job, Row, different
from lossbench.sweep.options import SweepOptions
from lossbench.sweep.search.objective import objectives
from lossbench.sweep.search.space import Dimension, space
from lossbench.sweep.search.trials import FILE, Search, Trial, Trials, refuse_another

ROUNDS = 10  # a launcher that takes lists of jobs gets the trials in so many
BUDGET = 50
ENDED = ("completed", "diverged", "failed")


class Study:
    """The trials of a search, each asked for when there is room for it.

    What Optuna is told: of a completed run what it reached; of a diverged one, or one without a finite value, infinity
    on the worse side, which drives the search away from there; of a failed one nothing, which counts as a trial and
    teaches nothing. A trial whose job equals an earlier one has that one's result, and is not run.

    Args:
        fixed: the overrides that all trials have.
        known: jobs that show how their settings can differ.
        retry: run failed trials once more.

    Raises:
        ConfigError: what is asked for does not go together, or the directory is of another search.
    """

    facts: Mapping[str, Any] = MappingProxyType({})
    listed = False

    def __init__(
        self,
        composer: Composer,
        search: Search,
        fixed: Sequence[str],
        known: Sequence[Job],
        directory: Path,
        *,
        retry: bool = False,
    ) -> None:
        search.check()
        self.composer, self.search, self.fixed, self.known = composer, search, fixed, known
        self.directory, self.retry = directory, retry
        self.total = search.budget  # of different jobs, as far as is known
        self._handed: set[str] = set()  # hashes
        self._rows: dict[str, Row] = {}  # by hash, of jobs that ended
        self._waiting: dict[str, list[Trial]] = {}  # by hash, the trials that have no result yet
        refuse_another(directory / FILE, search)

    @cached_property
    def trials(self) -> Trials:
        return Trials(self.directory / FILE, self.search, retry=self.retry)

    @property
    def batch(self) -> int:
        return math.ceil(self.search.budget / ROUNDS)

    @property
    def exhausted(self) -> bool:
        return not self.trials.earlier and self.trials.left == 0

    def next(self) -> Job | None:
        job = self._next()
        self.total = len(self._handed) + len(self.trials.earlier) + self.trials.left
        return job

    def handed(self, job: Job) -> None:
        """The job is run anyhow: a trial equal to it has its result."""
        self._handed.add(job.hash)

    def _next(self) -> Job | None:
        while not self.exhausted:
            trial = self.trials.earlier.popleft() if self.trials.earlier else self.trials.ask()
            settings = self.trials.settings(trial)
            try:
                job = _job(self.composer, self.fixed, settings)
            except ConfigError as error:
                if not isinstance(trial, Trial):  # of an earlier call
                    continue
                say(f"trial {trial.number} is left out: {error}")
                self.trials.fail(trial)
                continue
            if isinstance(trial, Trial):
                self._waiting.setdefault(job.hash, []).append(trial)
            if job.hash not in self._handed:
                self._handed.add(job.hash)
                return job
            if job.hash in self._rows:
                self.ended(job, self._rows[job.hash])
        return None

    def ended(self, job: Job, row: Row) -> None:
        if row["status"] not in ENDED:  # it was stopped, and a later call goes on with it
            return
        self._rows[job.hash] = row
        for trial in self._waiting.pop(job.hash, []):
            self.trials.tell(trial, row)

    def evaluated(self, job: Job, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        if self.search.pruner is None:
            return False
        every, (goal,) = job.config.trainer.eval_every, self.search.goals
        number = epoch if every == "epoch" else -(-step // int(every))
        trials = self._waiting.get(job.hash, ())
        asked = [self.trials.prune(trial, goal.of_evaluation(metrics), number) for trial in trials]
        return bool(asked) and all(asked)


def study(words: Sequence[str], composer: Composer, options: SweepOptions, directory: Path, seed: int) -> Study:
    """The search that a command line asks for.

    Args:
        words: the overrides, without those of `sweep.*`.
        directory: of the sweep.

    Raises:
        ConfigError: nothing to search in, settings that no trial could have, or what does not go together.
    """
    dimensions, fixed = space(words, composer.loader)
    if not dimensions:
        raise ConfigError(
            "hydra/sweeper=optuna has nothing to search in: give a setting several values, such as "
            "optim=sgd,adamw or 'optim.lr=tag(log,interval(1e-4,1e-1))'"
        )
    budget = options.trials or BUDGET
    if budget > options.max_jobs:
        raise ConfigError(f"{budget} trials (limit {options.max_jobs}); pass sweep.max_jobs={budget}")
    if any(dimension.key == "seed" for dimension in dimensions):
        say("the seed is searched like any other setting; hydra/sweeper=fair compares over seeds")
    known = _ends(dimensions, fixed, composer)
    search = Search(
        space=dimensions,
        goals=objectives(options.metric, known),
        budget=budget,
        sampler=options.sampler or "tpe",
        pruner=options.pruner,
        seed=seed,
    )
    return Study(composer, search, fixed, known, directory, retry=options.retry_failed)


def _ends(dimensions: Sequence[Dimension], fixed: Sequence[str], composer: Composer) -> list[Job]:
    """Jobs with each choice and with both ends of each interval, the other settings in the middle or the first."""
    middle = {d.key: d.word(d.choices[0] if d.choices else d.at(0.5)) for d in dimensions}
    ends = ((d, value) for d in dimensions for value in d.choices or (d.low, d.high))
    return different(_job(composer, fixed, list({**middle, d.key: d.word(value)}.values())) for d, value in ends)


def _job(composer: Composer, fixed: Sequence[str], settings: Sequence[str]) -> Job:
    return composer.job([*fixed, *settings], ",".join(map(_short, settings)))


def _short(setting: str) -> str:
    """A setting for a name: long numbers with four digits."""
    key, _, text = setting.lstrip("+").partition("=")
    return f"{key}={float(text):.4g}" if re.fullmatch(r"-?\d+\.\d{5,}(e-?\d+)?", text) else f"{key}={text}"
