"""What the tuning of a fair sweep found, in words."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace

from lossbench.errors import ConfigError, plural
from lossbench.sweep.compose import Composer
from lossbench.sweep.fair.fair import Fair, Tuned
from lossbench.sweep.fair.tuning import Arm, as_typed, trial_job
from lossbench.sweep.search.space import Dimension


def report(found: Fair) -> list[str]:
    """What each arm's tuning found, a line each, and what there is to doubt about it."""
    tuning, fresh = found.arms[0].arm.default.settings["seed"], ", ".join(map(str, found.seeds))
    head = f"tuned by {found.objective.name} with seed {tuning}; final runs have seed {fresh}:"
    return [head, *(line for tuned in found.arms for line in _of_arm(tuned, found))]


def _of_arm(tuned: Tuned, found: Fair) -> list[str]:
    """An arm's best setting with its validation value, how many trials found it, and warnings."""
    name, used = tuned.arm.name or "the arm", _used(tuned, found.trials)
    if tuned.best is None:
        return [f"{name}: {len(tuned.rows)} of its {plural(found.trials, 'trial')} ended, and nothing was chosen"]
    best, default = (tuned.scores[job.hash] for job in (tuned.best, tuned.arm.default))
    if best is None:
        return [f"{name}: no trial gave a result ({used}); its default setting was rerun all the same"]
    sign = 1 if found.objective.direction == "max" else -1
    value = f"{found.objective.name} {sign * best:.4g}"
    if tuned.best is tuned.arm.default:
        said = f"{name}: the default was best, {_setting(tuned)}; {value} ({used})"
    else:
        than = "the default gave no result" if default is None else f"the default {sign * default:.4g}"
        said = f"{name}: {_setting(tuned)}; {value}, {than} ({used})"
    return [said, *_warnings(tuned, found.composer)]


def _used(tuned: Tuned, trials: int) -> str:
    """The budget, and what of it came to nothing."""
    statuses = [row["status"] for row in tuned.rows.values()]
    different = [f"{len(tuned.handed)} different"] if len(tuned.handed) < trials else []
    lost = [f"{statuses.count(status)} {status}" for status in ("diverged", "failed") if status in statuses]
    return ", ".join([plural(trials, "trial"), *different, *lost])


def _warnings(tuned: Tuned, composer: Composer) -> list[str]:
    """A line for each best value that lies at the edge of its range, or as the default outside of it."""
    assert tuned.best is not None
    found = []
    for dimension in tuned.arm.dimensions:
        value = tuned.best.settings.get(dimension.key.lstrip("+"))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            advice = _advice(dimension, value, tuned.arm, composer)
            name = f"{tuned.arm.name}: " if tuned.arm.name else ""
            found += [f"warning: {name}{dimension.word(value)} {advice}"] if advice else []
    return found


def _advice(dimension: Dimension, value: float, arm: Arm, composer: Composer) -> str | None:
    """What is wrong with where the value lies, and what to type instead.

    Nothing where the range ends because the option takes no more.
    """
    if dimension.kind == "choice":
        return "is the outermost of those on offer: offer more" if dimension.at_edge(value) else None
    if not dimension.low <= value <= dimension.high:
        return "lies outside the range that was searched: take one that goes around it"
    if not dimension.at_edge(value):
        return None
    for k in range(7):  # as far out as the option takes
        further = _further(dimension, value, 2.0**-k)
        if further is not None and _takes(arm, further, composer):
            return f"lies at the edge of its range, better may lie beyond: tune over {shlex.quote(as_typed(further))}"
    return None


def _further(dimension: Dimension, value: float, share: float) -> Dimension | None:
    """The half of the range on the value's side, and as much again beyond it, or a share of that.

    None where that is no further.
    """
    scale, back = (math.log, math.exp) if dimension.log else (float, float)
    low, high, here = scale(dimension.low), scale(dimension.high), scale(value)
    middle, half = (low + high) / 2, (high - low) / 2
    ends = (low - share * half, middle) if here < middle else (middle, high + share * half)
    first, last = map(back, ends)
    if dimension.step is not None:
        grid = [dimension.low + dimension.step * round((x - dimension.low) / dimension.step) for x in (first, last)]
        first, last = map(int, grid) if dimension.kind == "int" else grid
    beyond = first < dimension.low if here < middle else last > dimension.high
    return replace(dimension, low=first, high=last) if beyond and (first > 0 or not dimension.log) else None


def _takes(arm: Arm, dimension: Dimension, composer: Composer) -> bool:
    """Whether the arm takes the ends of a range."""
    try:
        for end in (dimension.low, dimension.high):
            trial_job(arm, [dimension.word(end)], composer)
    except ConfigError:
        return False
    return True


def _setting(tuned: Tuned) -> str:
    """The values of what was tuned."""
    assert tuned.best is not None
    keys = [dimension.key.lstrip("+") for dimension in tuned.arm.dimensions]
    values = (f"{key}={tuned.best.settings.get(key)}" for key in keys)
    return " ".join(values) or "with nothing to tune"
