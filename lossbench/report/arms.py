"""Arms: runs that differ in nothing but their seed, or in what is averaged over."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossbench.errors import ConfigError, did_you_mean, plural, printable
from lossbench.report.runs import GROUPS, Run

SEED = "seed"
Cells = tuple[str | None, ...]  # values of some settings as text; None for one that a run does not have
Columns = Mapping[str, Sequence[str | None]]  # the values of each setting, one a run
Place = tuple[Cells, str | None, Cells]  # of a run: its arm's settings, its seed, and those that are averaged over
Seeds = Mapping[str | None, Sequence[Run]]
_SHOWN = 4  # arms whose values a note shows


@dataclass(frozen=True)
class Arm:
    """Runs that are compared with those of other arms.

    Attributes:
        settings: what sets it apart, as text; without keys that it does not have.
        runs: of each seed, one for every combination of the settings that are averaged over.
    """

    name: str
    settings: Mapping[str, str]
    runs: Seeds


@dataclass(frozen=True)
class Grouped:
    """All arms, the keys that set them apart, those that are averaged over, and what is to be said of it."""

    arms: list[Arm]
    keys: list[str]
    averaged: list[str]
    notes: list[str]


def group(runs: Sequence[Run], by: Sequence[str] = (), first: Sequence[str] = (), *, short: bool = False) -> Grouped:
    """The arms of the runs, by the settings that differ, and the runs of each by their seed.

    A setting that says no more than those before it does not count, such as `loss.gamma` where each loss has one value
    of it; choices come first.

    Seeds alone repeat a run. Where `by` leaves settings that differ, they are conditions under which it is made: each
    seed has one run for every combination of them that all arms with this seed have.

    Args:
        by: keys that set arms apart in place of these; the others that differ are averaged over.
        first: keys that come before the choices.
        short: write numbers in the arms' names with four digits, where that tells them apart.

    Raises:
        ConfigError: no run has such a key, or the arms have nothing in common.
    """
    known = dict.fromkeys(key for run in runs for key in run.settings)
    keys = sorted(known, key=lambda key: (key not in first, key not in GROUPS, "." in key))
    for key in by:
        if key not in keys:
            raise ConfigError(f"--by: no run has a setting '{key}'{did_you_mean(key, keys)}")
    runs, repeated = _latest(runs, [run.hash or run.path for run in runs])
    differing = [key for key in keys if _differs([run.settings.get(key) for run in runs])]
    columns = {key: [_text(run, key) for run in runs] for key in dict.fromkeys([SEED, *by, *differing])}
    others = [key for key in differing if key not in (*by, SEED)]
    arm_keys = list(dict.fromkeys(by)) or _telling(others, (), columns)
    averaged = _telling(others, arm_keys, columns) if by else []
    hidden = [key for key in others if key not in arm_keys and not _telling([key], arm_keys, columns)]
    seeds = [None for _ in runs] if SEED in arm_keys else columns[SEED]
    places = list(zip(_rows(arm_keys, columns), seeds, _rows(averaged, columns), strict=True))
    kept, unlike = _latest(runs, places)
    found, notes = _balanced(dict(zip(dict.fromkeys(places), kept, strict=True)), arm_keys, averaged)
    settings = [{k: v for k, v in zip(arm_keys, cells, strict=True) if v is not None} for cells in found]
    arms = [Arm(*facts) for facts in zip(_names(settings, short=short), settings, found.values(), strict=True)]
    notes = [*_of_equal([*repeated, *unlike]), *notes]
    notes += [_along(key, arms) for key in hidden if _is_own(key, arm_keys, kept)]
    if not by and "dataset" in arm_keys and len(arm_keys) > 1:
        rest = ",".join(key for key in arm_keys if key != "dataset")
        notes.append(f"the arms are of several data sets; --by {rest} compares their means over the data sets")
    return Grouped(arms, arm_keys, averaged, notes)


def _differs(values: Sequence[Any]) -> bool:
    return values.count(values[0]) < len(values)


def _text(run: Run, key: str) -> str | None:
    return typed(run.settings[key]) if key in run.settings else None


def typed(value: Any) -> str:
    """A value as one would type it, in which equal numbers are equal."""
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


def _latest(runs: Sequence[Run], keys: Sequence[Hashable]) -> tuple[list[Run], list[tuple[Run, Run]]]:
    """Of the runs of each key the one that counts, as keys first appear, and each of the others beside that.

    It is the last one that did not fail: what diverged is a result, as is what completed.
    """
    counts: dict[Hashable, Run] = {}
    for run, key in zip(runs, keys, strict=True):
        other = counts.setdefault(key, run)
        if (run.status != "failed", run.ended) > (other.status != "failed", other.ended):
            counts[key] = run
    return list(counts.values()), [
        (run, counts[key]) for run, key in zip(runs, keys, strict=True) if run is not counts[key]
    ]


def _of_equal(passed: Sequence[tuple[Run, Run]]) -> list[str]:
    """What is to be said of runs in whose place another one counts."""
    unlike = sum(bool(run.hash and other.hash) and run.hash != other.hash for run, other in passed)
    hidden = sum((run.status, other.status) == ("diverged", "completed") for run, other in passed)
    last = "the last that did not fail counts"
    said = (
        (len(passed) - unlike, f"with the settings and the seed of another: of equal ones {last}"),
        (unlike, f"with the same words as another, but other values of interpolations: {last}"),
        (hidden, "that diverged, where an equal one that completed later counts"),
    )
    return [f"{plural(count, 'run')} {what}" for count, what in said if count]


def _balanced(
    runs: Mapping[Place, Run], arm_keys: Sequence[str], averaged: Sequence[str]
) -> tuple[dict[Cells, Seeds], list[str]]:
    """Each arm's runs by seed, under the conditions that all arms with this seed have; and what is to be said of it.

    Raises:
        ConfigError: there are no such conditions.
    """
    having = Counter((seed, condition) for _, seed, condition in runs)
    arms = Counter(seed for _, seed in dict.fromkeys((arm, seed) for arm, seed, _ in runs))
    found: dict[Cells, dict[str | None, list[Run]]] = {}
    for (arm, seed, condition), run in runs.items():
        if having[seed, condition] == arms[seed]:
            found.setdefault(arm, {}).setdefault(seed, []).append(run)
    same, notes = " and ".join([SEED, *averaged]), []
    if not found:
        more = ",".join([*arm_keys, *averaged])
        raise ConfigError(f"--by: there is no {same} that all arms have; --by {more} makes arms of these too")
    counted = [len(of_seed) for seeds in found.values() for of_seed in seeds.values()]
    if max(counted) > 1:
        size = f"{max(counted)}" if min(counted) == max(counted) else f"{min(counted)} to {max(counted)}"
        what = "values" if len(averaged) == 1 else "combinations"
        notes.append(f"each seed's value is the mean over {size} {what} of {' and '.join(averaged)}")
    if left := len(runs) - sum(counted):
        lost = len({arm for arm, _, _ in runs}) - len(found)
        whole = f", with them {plural(lost, 'arm')}" if lost else ""
        notes.append(f"left out, as not all arms have the same {same}: {plural(left, 'run')}{whole}")
    return dict(found), notes


def _names(settings: Sequence[Mapping[str, str]], *, short: bool) -> list[str]:
    """A name for each arm: what is chosen by its name alone, other settings with their keys."""

    def named(bare: Sequence[str], *, short: bool = False) -> list[str]:
        texts = ([(k, _short(v) if short else v) for k, v in cells.items()] for cells in settings)
        said = (", ".join(v if k in bare else f"{k}={v}" for k, v in cells) for cells in texts)
        return [printable(name) or "all runs" for name in said]

    bare = GROUPS if len(set(named(GROUPS))) == len(settings) else ()
    names = named(bare)
    if short:
        shorter = named(bare, short=True)
        times = Counter(shorter)
        names = [new if times[new] == 1 else name for new, name in zip(shorter, names, strict=True)]
    count: Counter[str] = Counter()
    for i, name in enumerate(names):  # they may differ in what a terminal cannot show
        count[name] += 1
        names[i] = name if count[name] == 1 else f"{name} ({count[name]})"
    return names


def _short(text: str) -> str:
    """A number with four digits; anything else as it is."""
    try:
        rounded = f"{float(text):.4g}".replace("e+", "e")
    except ValueError:
        return text
    return rounded if len(rounded) < len(text) else text


def _is_own(key: str, arm_keys: Sequence[str], runs: Sequence[Run]) -> bool:
    """Whether a setting is one of all runs, and not of what is chosen in the arms."""
    return key.partition(".")[0] not in arm_keys and all(key in run.settings for run in runs)


def _along(key: str, arms: Sequence[Arm]) -> str:
    """That a setting differs with the arms: what makes the difference cannot be told from it."""
    values = [f"{arm.name}: {_text(next(iter(arm.runs.values()))[0], key)}" for arm in arms[:_SHOWN]]
    return printable(f"{key} differs with the arms ({'; '.join(values)}{'; ...' if arms[_SHOWN:] else ''})")
