"""Arms: runs that differ in nothing but their seed, or in what they are paired by."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossbench.errors import ConfigError, did_you_mean, plural, printable
from lossbench.report.runs import GROUPS, Run

SEED = "seed"
Cells = tuple[str | None, ...]  # values of some settings as text; None for one that a run does not have
Columns = Mapping[str, Sequence[str | None]]  # the values of each setting, one a run
_SHOWN = 4  # arms whose values a note shows


@dataclass(frozen=True)
class Arm:
    """Runs that are compared with those of other arms.

    Attributes:
        settings: what sets it apart, as text; without keys that it does not have.
        runs: by their seeds, and what else they are paired by.
    """

    name: str
    settings: Mapping[str, str]
    runs: Mapping[Cells, Run]


@dataclass(frozen=True)
class Grouped:
    """All arms, the keys that set them apart, those that their runs are paired by, and what is to be said of it."""

    arms: list[Arm]
    keys: list[str]
    paired_by: list[str]
    notes: list[str]


def group(runs: Sequence[Run], by: Sequence[str] = ()) -> Grouped:
    """The arms of the runs, by the settings that differ, and the runs of each by their seed.

    A setting that says no more than those before it does not count, such as `loss.gamma` where each loss has one value
    of it; choices come first.

    Args:
        by: keys that set arms apart in place of these; the others that differ join the seed.

    Raises:
        ConfigError: no run has such a key.
    """
    known = dict.fromkeys(key for run in runs for key in run.settings)
    keys = sorted(known, key=lambda key: (key not in GROUPS, "." in key))
    for key in by:
        if key not in keys:
            raise ConfigError(f"--by: no run has a setting '{key}'{did_you_mean(key, keys)}")
    differing = [key for key in keys if _differs([run.settings.get(key) for run in runs])]
    columns = {key: [_text(run, key) for run in runs] for key in dict.fromkeys([SEED, *by, *differing])}
    others = [key for key in differing if key not in (*by, SEED)]
    arm_keys = list(dict.fromkeys(by)) or _telling(others, (), columns)
    paired_by = [key for key in (SEED, *(_telling(others, arm_keys, columns) if by else ())) if key not in arm_keys]
    found, repeated = _sorted_out(runs, _rows(arm_keys, columns), _rows(paired_by, columns))
    settings = [{k: v for k, v in zip(arm_keys, cells, strict=True) if v is not None} for cells in found]
    arms = [Arm(*facts) for facts in zip(_names(settings), settings, found.values(), strict=True)]
    notes = []
    if repeated:
        notes.append(f"{plural(repeated, 'run')} with the settings and the seed of another: of equal ones one counts")
    hidden = [key for key in others if key not in arm_keys and not _telling([key], arm_keys, columns)]
    notes += [_along(key, arms) for key in hidden if _is_own(key, arm_keys, runs)]
    if not by and "dataset" in arm_keys and len(arm_keys) > 1:
        rest = ",".join(key for key in arm_keys if key != "dataset")
        notes.append(f"the arms are of several data sets; --by {rest} pairs their runs by data set and seed")
    return Grouped(arms, arm_keys, paired_by, notes)


def _differs(values: Sequence[Any]) -> bool:
    return values.count(values[0]) < len(values)


def _text(run: Run, key: str) -> str | None:
    """A setting's value as one would type it, in which equal numbers are equal."""
    if key not in run.settings:
        return None
    value: Any = run.settings[key]
    if isinstance(value, float):
        return str(int(value)) if abs(value) < 1e6 and value.is_integer() else repr(value).replace("e+", "e")
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _rows(keys: Sequence[str], columns: Columns) -> list[Cells]:
    return list(zip(*(columns[key] for key in keys), strict=True)) if keys else [() for _ in columns[SEED]]


def _telling(keys: Sequence[str], given: Sequence[str], columns: Columns) -> list[str]:
    """Those keys that say something of a run which the given ones, and those before them, do not."""
    kept: list[str] = []
    known = _numbered(_rows(given, columns))
    for key in keys:
        finer = _numbered(list(zip(known, columns[key], strict=True)))
        if max(finer) > max(known):
            kept.append(key)
            known = finer
    return kept


def _numbered(values: Sequence[Any]) -> list[int]:
    """Each value's number, counted from 0 as they first appear."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _sorted_out(
    runs: Sequence[Run], arms: Sequence[Cells], pairings: Sequence[Cells]
) -> tuple[dict[Cells, dict[Cells, Run]], int]:
    """The run that counts for each arm and pairing, and how many do not."""
    found: dict[Cells, dict[Cells, Run]] = {}
    for run, arm, pairing in zip(runs, arms, pairings, strict=True):
        other = found.setdefault(arm, {}).setdefault(pairing, run)
        if _weight(run) > _weight(other):
            found[arm][pairing] = run
    return found, len(runs) - sum(map(len, found.values()))


def _weight(run: Run) -> tuple[int, float]:
    """By which one of equal runs counts: the one that came furthest, and of these the last."""
    return ("failed", "diverged", "completed").index(run.status), run.ended


def _names(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """A name for each arm: what is chosen by its name alone, other settings with their keys."""

    def named(bare: Sequence[str]) -> list[str]:
        said = (", ".join(v if k in bare else f"{k}={v}" for k, v in cells.items()) for cells in settings)
        return [printable(name) or "all runs" for name in said]

    names = named(GROUPS)
    if len(set(names)) < len(names):
        names = named(())
    count: Counter[str] = Counter()
    for i, name in enumerate(names):  # they may differ in what a terminal cannot show
        count[name] += 1
        names[i] = name if count[name] == 1 else f"{name} ({count[name]})"
    return names


def _is_own(key: str, arm_keys: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether a setting is one of all runs, and not of what is chosen in the arms."""
    return key.partition(".")[0] not in arm_keys and all(key in run.settings for run in runs)


def _along(key: str, arms: Sequence[Arm]) -> str:
    """That a setting differs with the arms: what makes the difference cannot be told from it."""
    values = [f"{arm.name}: {_text(next(iter(arm.runs.values())), key)}" for arm in arms[:_SHOWN]]
    return printable(f"{key} differs with the arms ({'; '.join(values)}{'; ...' if arms[_SHOWN:] else ''})")
