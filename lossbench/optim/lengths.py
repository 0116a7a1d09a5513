"""What a schedule's options are where they say nothing: the run's own length, and the groups' own rates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from lossbench.errors import ConfigError

BY_GROUP = ("max_lr", "base_lr", "min_lr", "max_momentum", "base_momentum")  # torch's options that may be a list
STATED = ("max_lr", "base_lr")  # rates in the place of `optim.lr`


def is_torchs(target: Callable[..., Any]) -> bool:
    """Whether it is one of torch's own classes, whose options are known; a user's may mean others by their names."""
    return getattr(target, "__module__", None) == "torch.optim.lr_scheduler"


def by_optimizer(
    target: Callable[..., Any], values: Mapping[str, Any], rates: Sequence[Sequence[float]], lr: float | None = None
) -> list[dict[str, Any]]:
    """A schedule's options as each optimizer is given them.

    Of a list, which has one number for each parameter group of all optimizers, these are the numbers of its own groups.
    A single rate is that of the groups which train at `lr`; the others have it in proportion to their own.

    Args:
        rates: of the parameter groups of each optimizer.
        lr: `optim.lr`; where no group trains at it, the first group's rate stands for it.

    Raises:
        ConfigError: a list that is longer or shorter.
    """
    if not is_torchs(target):
        return [dict(values) for _ in rates]
    ends = list(accumulate(map(len, rates)))
    for key in BY_GROUP:
        _refuse_other_groups(key, values.get(key), ends[-1])
    common = rates[0][0] if all(rate != lr for own in rates for rate in own) else lr
    return [
        {key: _of_groups(key, value, slice(end - len(own), end), own, common) for key, value in values.items()}
        for own, end in zip(rates, ends, strict=True)
    ]


def fill_lengths(
    target: Callable[..., Any],
    values: Mapping[str, Any],
    required: Collection[str],
    moves: int,
    rates: Sequence[float],
    warmup: float = 0,
) -> dict[str, Any]:
    """A schedule's arguments, with null (or a required one's absence) standing for what the run has.

    Args:
        values: one optimizer's, as `by_optimizer` gives them.
        moves: of the schedule, after the warm-up.
        rates: of the parameter groups.
        warmup: the warm-up's length, in moves.

    Raises:
        ConfigError: lengths or rates that do not go together.
    """
    known = values if is_torchs(target) else {}
    peaks = _by_group(rates if known.get("max_lr") is None else known["max_lr"], len(rates))
    ratio = known.get("T_mult", 1)
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
    if is_torchs(target):
        _refuse_short(filled, moves)
        _refuse_crossed(filled, len(rates))
        _refuse_phases(filled)
    return filled


def never_reached(target: Callable[..., Any], values: Mapping[str, Any], moves: int, unit: str) -> str | None:
    """A note on what a schedule would do only after the end of the run, if there is such a thing.

    Args:
        values: the schedule's own options.
        unit: what a move is: step, epoch or evaluation.
    """
    if not is_torchs(target):
        return None
    run = f"in the run's {moves:,} {unit}s"
    late = [milestone for milestone in values.get("milestones") or () if milestone >= moves]
    if late:
        return f"scheduler.milestones: {late[0]} is not reached {run}"
    if values.get("step_size", 0) >= moves:
        return f"scheduler.step_size={values['step_size']} is not reached {run}: the rate stays as it is"
    return None


def _of_groups(key: str, value: Any, own: slice, rates: Sequence[float], lr: Any) -> Any:
    """What one optimizer's groups have of an option."""
    if value is None or key not in BY_GROUP:
        return value
    if isinstance(value, list):
        return value[own]
    if key in STATED and any(rate != lr for rate in rates):
        return [value * (rate / lr) for rate in rates]
    return value


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
