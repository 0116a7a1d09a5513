"""The trials of a search, as Optuna keeps them in a file of the sweep's directory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lossbench.errors import ConfigError
from lossbench.sweep.job import Row
from lossbench.sweep.search.objective import Objective
from lossbench.sweep.search.samplers import check_sampler, make_pruner, make_sampler, open_storage, quiet
from lossbench.sweep.search.space import Dimension

FILE = "optuna.journal"
_AGAIN = "again"  # marks a trial that repeats a failed one

State = optuna.trial.TrialState
Trial = optuna.trial.Trial
Frozen = optuna.trial.FrozenTrial


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        space: what is searched.
        goals: what is searched for.
        budget: how many trials in all, those of earlier calls included.
        sampler, pruner: as `sweep.sampler` and `sweep.pruner` name them.
        seed: of what the sampler draws.
        start: Optuna's parameters of the first trial, where it is not the sampler that chooses them.
    """

    space: Sequence[Dimension]
    goals: Sequence[Objective]
    budget: int
    sampler: str
    pruner: str | None
    seed: int
    start: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: the sampler cannot do it, or the pruner has no evaluations to go by.
        """
        check_sampler(self.sampler, self.space, len(self.goals))
        if self.pruner and len(self.goals) > 1:
            raise ConfigError("sweep.pruner goes by one metric, and several are searched for: leave it out")
        if self.pruner and not self.goals[0].split:
            raise ConfigError(f"sweep.pruner goes by evaluations, and {self.goals[0].name} is known at the end only")

    def said(self) -> dict[str, Any]:
        """What may not change while the trials are the same."""
        return {
            "a search over": [dimension.said for dimension in self.space],
            "a search for": [f"{goal.name} ({goal.direction})" for goal in self.goals],
        }


def refuse_another(path: Path, search: Search) -> None:
    """Refuse to mix two searches in one file, which is only read; where there is no file, all is well.

    Raises:
        ConfigError: names what differs.
    """
    if not path.exists():
        return
    with quiet():
        studies = optuna.get_all_study_summaries(JournalStorage(JournalFileBackend(str(path))))
    earlier = studies[0].user_attrs.get("search", {}) if studies else {}
    asked = search.said()
    for key, was in earlier.items():
        if was != asked[key]:
            raise ConfigError(
                f"sweep '{path.parent.name}' was {key} {'; '.join(was)}, and {'; '.join(asked[key])} is asked for; "
                "choose another sweep.name"
            )


class Trials:
    """The trials of a search in the file `path`, which is made where there is none.

    Args:
        retry: failed trials are asked for once more, beyond the budget.

    Attributes:
        earlier: those of earlier calls that are to be handed out again: the ones that were running to go on with them,
            the others for the record.
    """

    def __init__(self, path: Path, search: Search, *, retry: bool = False) -> None:
        self.search = search
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            self.study = optuna.create_study(
                study_name="lossbench",
                storage=open_storage(path),
                sampler=make_sampler("random", search.seed, -1),  # for what a killed process had not drawn to its end
                pruner=make_pruner(search.pruner),
                directions=["minimize" if goal.direction == "min" else "maximize" for goal in search.goals],
                load_if_exists=True,
            )
            if "search" not in self.study.user_attrs:
                self.study.set_user_attr("search", search.said())
            if search.start is not None and not self.all():
                self.study.enqueue_trial(dict(search.start))
            found = self.all()
            failed = [trial for trial in found if trial.state == State.FAIL] if retry else []
            others = [_params(trial) for trial in found if trial.state != State.FAIL]
            for params in map(_params, failed):
                if params not in others:
                    others.append(params)
                    self.study.enqueue_trial(params, user_attrs={_AGAIN: True})
            self.earlier: deque[Trial | Frozen] = deque(
                Trial(self.study, trial._trial_id) if trial.state == State.RUNNING else trial
                for trial in found
                if trial.state != State.WAITING and trial not in failed
            )

    @property
    def left(self) -> int:
        """How many are still to be asked for. Trials that repeat a failed one are beyond the budget."""
        found = self.all()
        own = sum(_AGAIN not in trial.user_attrs for trial in found)
        return sum(trial.state == State.WAITING for trial in found) + max(0, self.search.budget - own)

    def all(self) -> list[Frozen]:
        """Every trial, by number."""
        return self.study.get_trials(deepcopy=False)

    def ask(self) -> Trial:
        """A new trial, or a failed one once more."""
        with quiet():
            self.study.sampler = make_sampler(self.search.sampler, self.search.seed, len(self.all()))
            return self.study.ask()

    def settings(self, trial: Trial | Frozen) -> list[str]:
        """The trial's overrides; what it does not have yet the sampler suggests."""
        if isinstance(trial, Trial):
            with quiet():
                for dimension in self.search.space:
                    _suggest(trial, dimension)
        return [dimension.word(_value(dimension, trial.params[dimension.key])) for dimension in self.search.space]

    def tell(self, trial: Trial, row: Row) -> None:
        """How the trial's job ended."""
        with quiet():
            trial.set_user_attr("status", "pruned" if row.get("reason") == "pruned" else row["status"])
            trial.set_user_attr("directory", Path(row["directory"]).name)
            if row["status"] == "failed":
                self.study.tell(trial, state=State.FAIL)
            elif row.get("reason") == "pruned" and self.search.pruner:
                self.study.tell(trial, state=State.PRUNED)
            else:
                self.study.tell(trial, [self._told(goal, row) for goal in self.search.goals])

    def fail(self, trial: Trial) -> None:
        """The trial can have no job."""
        with quiet():
            trial.set_user_attr("status", "refused")
            self.study.tell(trial, state=State.FAIL)

    def prune(self, trial: Trial, value: float, evaluation: int) -> bool:
        """Whether the trial should end, after its evaluation of this number."""
        with quiet():
            trial.report(value, evaluation)
            return trial.should_prune()

    def _told(self, goal: Objective, row: Row) -> float:
        value = goal.of(row)
        worst = math.inf if goal.direction == "min" else -math.inf
        return worst if row["status"] == "diverged" or not math.isfinite(value) else value


def _params(trial: Frozen) -> dict[str, Any]:
    """Its parameters, or those that it will have where it waits."""
    return dict(trial.system_attrs.get("fixed_params", trial.params))


def _suggest(trial: Trial, dimension: Dimension) -> None:
    key, low, high = dimension.key, dimension.low, dimension.high
    if dimension.kind == "choice":
        trial.suggest_categorical(key, list(map(dimension.text, dimension.choices)))
    elif dimension.kind == "int":
        trial.suggest_int(key, int(low), int(high), step=int(dimension.step or 1), log=dimension.log)
    else:
        trial.suggest_float(key, low, high, step=dimension.step, log=dimension.log)


def param(dimension: Dimension, value: Any) -> Any:
    """Optuna's parameter for a value of the dimension, and None for a value that is none of it."""
    if dimension.kind == "choice":
        text = dimension.text(value)
        return text if text in map(dimension.text, dimension.choices) else None
    kinds = (int,) if dimension.kind == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not dimension.low <= value <= dimension.high:
        return None
    return value


def _value(dimension: Dimension, param: Any) -> Any:
    """What Optuna's parameter stands for: of a choice it has the text."""
    if dimension.kind != "choice":
        return param
    return next(choice for choice in dimension.choices if dimension.text(choice) == param)
