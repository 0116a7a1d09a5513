"""What a schedule's options are where they say nothing: the run's own length, and the groups' own rates."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lossbench.errors import ConfigError

BY_GROUP = ("max_lr", "base_lr", "min_lr", "max_momentum", "base_momentum")  # options that may be a list


def fill_lengths(
    values: Mapping[str, Any], required: Collection[str], moves: int, rates: Sequence[float], warmup: float = 0
) -> dict[str, Any]:
    """A schedule's arguments, with null (or a required one's absence) standing for what the run has.

    Args:
        moves: of the schedule, after the warm-up.
        rates: of the parameter groups.
        warmup: the warm-up's length, in moves.

    Raises:
        ConfigError: lengths or rates that do not go together.
    """
    for key in BY_GROUP:
        _refuse_other_groups(key, values.get(key), len(rates))
    peaks = _by_group(rates if values.get("max_lr") is None else values["max_lr"], len(rates))
    ratio = values.get("T_mult") or 1
    defaults = {
        "moves": moves,
        "T_max": moves,
        "total_steps": moves,
        "total_iters": moves,
        "milestones": sorted({max(1, moves // 2), max(1, 3 * moves // 4)}),
        "T_0": -(-moves // (1 + ratio + ratio**2)),
        "step_size_up": -(-moves // 8),
        "timescale": warmup or max(1.0, moves / 10),
        "max_lr": _one_or_all(rates),
        "base_lr": _one_or_all([peak / 10 for peak in peaks]),
    }
    filled = {k: defaults[k] if v is None and k in defaults else v for k, v in values.items()}
    filled |= {k: v for k, v in defaults.items() if k in required and k not in filled}
    _refuse_short(filled, moves)
    _refuse_crossed(filled, len(rates))
    _refuse_phases(filled)
    return filled


def never_reached(values: Mapping[str, Any], moves: int, unit: str) -> str | None:
    """A note on what a schedule would do only after the end of the run, if there is such a thing.

    Args:
        values: the schedule's own options.
        unit: what a move is: step, epoch or evaluation.
    """
    run = f"in the run's {moves:,} {unit}s"
    late = [milestone for milestone in values.get("milestones") or () if milestone >= moves]
    if late:
        return f"scheduler.milestones: {late[0]} is not reached {run}"
    if values.get("step_size", 0) >= moves:
        return f"scheduler.step_size={values['step_size']} is not reached {run}: the rate stays as it is"
    return None


def _by_group(given: Any, groups: int) -> Sequence[float]:
    return given if isinstance(given, Sequence) else [given] * groups


def _one_or_all(rates: Sequence[float]) -> float | list[float]:
    return list(rates) if len(rates) > 1 else rates[0]


def _refuse_other_groups(key: str, given: Any, groups: int) -> None:
    if isinstance(given, list) and len(given) != groups:
        raise ConfigError(f"scheduler.{key} must have one number per parameter group ({groups}), got {len(given)}")


def _refuse_short(filled: Mapping[str, Any], moves: int) -> None:
    """Torch's one-cycle cannot go on after its end."""
    total = filled.get("total_steps")
    if total is not None and total < moves:
        raise ConfigError(f"scheduler.total_steps={total} is shorter than the run ({moves}); null takes its length")


def _refuse_crossed(filled: Mapping[str, Any], groups: int) -> None:
    if "base_lr" not in filled or "max_lr" not in filled:
        return
    for base, peak in zip(*(_by_group(filled[key], groups) for key in ("base_lr", "max_lr")), strict=True):
        if base > peak:
            raise ConfigError(
                f"scheduler.base_lr={base:g} is above max_lr={peak:g}; the rate goes from base_lr up to max_lr and back"
            )


def _refuse_phases(filled: Mapping[str, Any]) -> None:
    """Torch's one-cycle divides by the length of each of its phases, in the very last move too."""
    if "pct_start" not in filled or "total_steps" not in filled:
        return
    share, total = filled["pct_start"], filled["total_steps"]
    up, down = share * total - 1, 2 * share * total - 2
    ends = [0.0, up, *([down] if filled.get("three_phase") else []), total - 1]
    if any(a == b for a, b in pairwise(ends)):
        raise ConfigError(
            f"scheduler.pct_start={share:g} of {total} moves leaves a phase of the cycle without any; change it"
        )
