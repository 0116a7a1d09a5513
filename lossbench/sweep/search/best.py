"""What a search found: its best trials, and the command that trains with the settings of the best."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from lossbench.console import console, say
from lossbench.errors import printable
from lossbench.sweep.search.trials import Frozen, Trials

SHOWN = 10
_ORDER = ("completed", "pruned", "diverged", "failed", "refused")


def show_best(trials: Trials, fixed: Sequence[str], flags: Sequence[str]) -> None:
    """Print the table and the command.

    Args:
        fixed: the overrides that all trials have.
        flags: the user's config directories as flags.
    """
    several = len(trials.search.goals) > 1
    shown = front(trials) if several else ranked(trials)[:SHOWN]
    kind = "those that no other one beats in every metric" if several else "the best"
    say(f"trials: {_counted(trials)}; {kind}:")  # a table's title would be folded to the table's width
    console.print(_table(trials, shown))
    if shown and status(shown[0]) == "completed":
        words = ["lossbench", "train", *flags, *fixed, *trials.settings(shown[0])]
        say(f"train with the settings of {'the first' if several else 'the best'}: {shlex.join(words)}")


def ranked(trials: Trials) -> list[Frozen]:
    """The trials that ended, equal ones once, the best first: the completed ones by their value, then the others."""
    sign = 1 if trials.search.goals[0].direction == "min" else -1
    ended = [trial for trial in trials.all() if trial.state.is_finished()]
    ended.sort(key=lambda trial: (_ORDER.index(status(trial)), sign * (trial.values or [0.0])[0]))
    return _different(ended)  # of one that failed and was run again, what that gave


def front(trials: Trials) -> list[Frozen]:
    """The completed trials that no other one is at least as good as in every objective and better in one."""
    best = _different(trial for trial in trials.study.best_trials if status(trial) == "completed")
    return sorted(best, key=lambda trial: trial.values, reverse=trials.search.goals[0].direction == "max")


def status(trial: Frozen) -> str:
    """How its job ended: `completed`, `pruned`, `diverged`, `failed`, or `refused` where there could be no job."""
    return str(trial.user_attrs["status"])


def _counted(trials: Trials) -> str:
    ended = [trial for trial in trials.all() if trial.state.is_finished()]
    counts, equal = Counter(map(status, ended)), len(ended) - len(_different(ended))
    found = [f"{counts[name]} {name}" for name in _ORDER if counts[name]]
    return ", ".join([*found, *([f"{equal} of them equal to another"] if equal else [])])


def _different(trials: Iterable[Frozen]) -> list[Frozen]:
    """Those whose settings no earlier one has."""
    found: dict[str, Frozen] = {}
    for trial in trials:
        found.setdefault(json.dumps(trial.params, sort_keys=True), trial)
    return list(found.values())


def _table(trials: Trials, shown: Sequence[Frozen]) -> Table:
    keys = [dimension.key for dimension in trials.search.space]
    table = Table()
    for name in ("trial", *(goal.name for goal in trials.search.goals)):
        table.add_column(Text(printable(name)), justify="right")
    for name in (*keys, "status"):
        table.add_column(Text(printable(name)), overflow="fold")
    for trial in shown:
        found = trial.values if trial.values and status(trial) != "diverged" else [None] * len(trials.search.goals)
        values = ["-" if value is None else f"{value:.4g}" for value in found]
        params = [f"{param:.4g}" if isinstance(param, float) else str(param) for param in map(trial.params.get, keys)]
        style = {"diverged": "yellow", "failed": "red", "refused": "red"}.get(status(trial))
        table.add_row(
            str(trial.number), *values, *(Text(printable(param)) for param in params), status(trial), style=style
        )
    return table
