"""A fair sweep: the same budget tunes every arm on validation, and fresh seeds measure what each arm's best gives."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lossbench.console import say
from lossbench.errors import ConfigError
from lossbench.sweep.compose import Composer
from lossbench.sweep.fair.protocol import SOBOL, Protocol, read_protocol
from lossbench.sweep.fair.tuning import Arm, as_typed, compose_arms, sobol_trials
from lossbench.sweep.job import Job, Listed, Row, Source
from lossbench.sweep.options import SweepOptions
from lossbench.sweep.search.objective import Objective, objectives


def fair(words: Sequence[str], composer: Composer, options: SweepOptions, directory: Path) -> Fair:
    """The fair sweep that a command line asks for, all that can be known of it composed and checked; says what it is.

    Args:
        words: its overrides, without those of `sweep.*`.
        directory: the sweep's.

    Raises:
        ConfigError: what cannot be compared fairly, or is refused in some arm.
    """
    protocol = read_protocol(words, options, composer.loader)
    arms = compose_arms(protocol, composer)
    protocol = replace(protocol, arms=[list(arm.default.overrides) for arm in arms])
    seed = arms[0].default.settings["seed"]
    seeds = protocol.fresh_seeds(seed)
    objective = _objective(options.metric, arms)
    trials: list[Source]
    if protocol.sampler == SOBOL:
        trials = [Listed(jobs) for jobs in sobol_trials(arms, protocol, composer, seed)]
    else:
        trials = [_searched(arm, objective, protocol, seed, directory, options, composer) for arm in arms]
    one = "" if arms[1:] else "nothing is swept, so there is one arm"
    say("; ".join(filter(None, (one, protocol.size, protocol.too_few))))
    for arm in arms:
        say(f"{arm.name or 'the arm'}: {_search_space(arm)}")
    tuned = [Tuned(arm, source) for arm, source in zip(arms, trials, strict=True)]
    known = {key for arm in arms for key in arm.default.settings}
    facts: dict[str, Any] = {"arms": [key for key in protocol.swept if key in known]}
    if options.metric is not None:
        facts["metric"] = f"test/{objective.metric}"
    return Fair(tuned, seeds, objective, protocol.trials, composer, facts)


@dataclass
class Tuned:
    """An arm while it is tuned, and after.

    Attributes:
        trials: where its trials come from; the first of them is its default.
        handed: the trials so far, in their order.
        scores: by hash, of those that ended: the chosen metric, larger is better; None for one that failed, diverged
            or measured nothing, which is worse than any other.
        rows: by hash, of those that ended.
        best: the trial that was chosen.
    """

    arm: Arm
    trials: Source
    handed: list[Job] = field(default_factory=list)
    scores: dict[str, float | None] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    best: Job | None = None

    @property
    def over(self) -> bool:
        """Whether all trials have ended."""
        return self.trials.exhausted and len(self.scores) == len(self.handed)

    def next(self) -> Job | None:
        """The next trial."""
        job = self.trials.next()
        if job is not None:
            self.handed.append(job)
        return job

    def ended(self, job: Job, row: Row, objective: Objective) -> None:
        """Take note of a trial."""
        self.scores[job.hash], self.rows[job.hash] = score(row, objective), row
        self.trials.ended(job, row)

    def choice(self) -> Job:
        """The trial with the best score, the earliest of equal ones; where all are worst, the default."""
        return max(self.handed, key=lambda job: -math.inf if (x := self.scores[job.hash]) is None else x)


class Fair:
    """The jobs of a fair sweep: trials of all arms in turn, and final runs of an arm once its trials have ended.

    Args:
        seeds: of the final runs.
        objective: chooses each arm's best trial.
        trials: how many each arm has, equal ones counted too.
        facts: which settings set the arms apart, and by which metric of the test split they are compared.
    """

    listed = False

    def __init__(
        self,
        arms: Sequence[Tuned],
        seeds: Sequence[int],
        objective: Objective,
        trials: int,
        composer: Composer,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.arms, self.seeds, self.objective, self.trials, self.composer = arms, seeds, objective, trials, composer
        self.facts = facts or {}
        self._tuning = deque(arms)
        self._finals: deque[Job] = deque()
        self._arm_of: dict[str, Tuned] = {}

    @property
    def known(self) -> Sequence[Job]:
        """Each arm's default: trials and final runs have the same keys."""
        return [tuned.arm.default for tuned in self.arms]

    @property
    def total(self) -> int | None:
        """How many jobs there are, equal ones counted once."""
        trials = [tuned.trials.total for tuned in self.arms]
        return None if None in trials else sum(filter(None, trials)) + len(self.arms) * len(self.seeds)

    @property
    def batch(self) -> int | None:
        batches = [tuned.trials.batch for tuned in self.arms]
        return None if None in batches else sum(filter(None, batches))

    @property
    def exhausted(self) -> bool:
        return all(tuned.best for tuned in self.arms) and not self._finals

    def next(self) -> Job | None:
        """A trial of the arm whose turn it is; where there is none, a final run."""
        for _ in range(len(self._tuning)):
            tuned = self._tuning.popleft()
            job = tuned.next()
            if not tuned.trials.exhausted:
                self._tuning.append(tuned)
            if job is not None:
                self._arm_of[job.hash] = tuned
                return job
            self._decide(tuned)  # the search had no more to propose after all
        return self._finals.popleft() if self._finals else None

    def ended(self, job: Job, row: Row) -> None:
        """Take note of a trial; the last one of an arm decides what its final runs are."""
        tuned = self._arm_of.get(job.hash)
        if tuned is None:
            return
        tuned.ended(job, row, self.objective)
        self._decide(tuned)

    def evaluated(self, job: Job, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> bool:
        """No job is ended early: all have the same budget."""
        return False

    def _decide(self, tuned: Tuned) -> None:
        """Choose the best trial of an arm, once, when all have ended."""
        if tuned.over and tuned.best is None:
            tuned.best = tuned.choice()
            self._finals.extend(final_job(tuned, seed, self.composer) for seed in self.seeds)


def score(row: Row, objective: Objective) -> float | None:
    """What a trial is chosen by, larger is better; None for one that counts as worse than all others."""
    value = objective.of(row) if row["status"] == "completed" else math.nan
    if not math.isfinite(value):
        return None
    return value if objective.direction == "max" else -value


def final_job(tuned: Tuned, seed: int, composer: Composer) -> Job:
    """The chosen setting, with a fresh seed."""
    assert tuned.best is not None
    words = [word for word in tuned.best.overrides if not word.lstrip("+").startswith("seed=")]
    return composer.job([*words, f"seed={seed}"], tuned.arm.named("final", f"seed={seed}"), "final")


def _objective(asked: Any, arms: Sequence[Arm]) -> Objective:
    """The validation metric that chooses."""
    if isinstance(asked, (list, tuple)):
        raise ConfigError("sweep.metric must be one metric in a fair sweep: there is one best setting to choose")
    (found,) = objectives(asked, [arm.default for arm in arms])
    if found.split != "val":
        raise ConfigError(
            f"sweep.metric={asked}: a fair sweep chooses by a metric of the validation split, such as val/loss"
        )
    return found


def _searched(
    arm: Arm,
    objective: Objective,
    protocol: Protocol,
    seed: int,
    directory: Path,
    options: SweepOptions,
    composer: Composer,
) -> Source:
    """The trials that Optuna proposes for an arm, where there is something to propose."""
    if not arm.dimensions or protocol.trials == 1:
        return Listed([arm.default])
    from lossbench.sweep.fair.searched import Searched

    return Searched(
        arm,
        objective,
        budget=protocol.trials,
        sampler=protocol.sampler,
        seed=seed,
        directory=directory / "tuning" / arm.default.hash[:12],
        retry=options.retry_failed,
        composer=composer,
    )


def _search_space(arm: Arm) -> str:
    return " ".join(map(as_typed, arm.dimensions)) or "its default: none of what is tuned is an option of it"
