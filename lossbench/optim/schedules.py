"""Schedules that torch has not by name: factors of the rate, which torch's LambdaLR applies.

The first three are pure: from the number of moves made to a factor. The others make the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lossbench.errors import ConfigError, first_line
from lossbench.optim.expression import parse, shown

Shape = Literal["1-sqrt", "linear", "cosine"]
Factor = Callable[[int], float]

VARIABLES = ("t", "step", "steps")  # of an expression
HALF_COSINE = "0.5 * (1 + cos(pi * t))"
TRIED = 10_000  # moves of a schedule whose factor is computed before the first step
EXPRESSION = "scheduler.expression"


def wsd_factor(move: int, moves: int, *, decay: float, shape: Shape, min_factor: float) -> float:
    """1 until the last `decay` share of the moves, then down to `min_factor` after the last one."""
    falling = max(1, round(decay * moves))
    share = min(1.0, max(0.0, (move - (moves - falling)) / falling))
    way = {"1-sqrt": math.sqrt(share), "linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2}[shape]
    return 1 - (1 - min_factor) * way


def inverse_sqrt_factor(move: int, timescale: float) -> float:
    """1 at first, 1 / sqrt(2) after `timescale` moves, and on as 1 over the root of the moves."""
    return math.sqrt(timescale / (timescale + move))


def expression_factor(expression: str, moves: int) -> Factor:
    """An expression as a function of the moves made: `step`; `steps` are all of them, `t` is the share that is made.

    Raises:
        ConfigError: it is no expression.
    """
    run = parse(EXPRESSION, expression, VARIABLES)
    steps = float(moves)
    return lambda move: run({"t": move / steps, "step": float(move), "steps": steps})


def wsd(
    optimizer: Optimizer,
    total_iters: Annotated[int, "[1, inf)"],
    decay: Annotated[float, "(0, 1]"] = 0.2,
    shape: Shape = "1-sqrt",
    min_factor: Annotated[float, "[0, 1]"] = 0.0,
) -> LambdaLR:
    """Warm-up, stable, decay: at the full rate until the decay at the end.

    Source: Hu et al. 2024, "MiniCPM"; Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations" (`1-sqrt`); torch.optim.lr_scheduler.LambdaLR.
    """

    def factor(move: int) -> float:
        return wsd_factor(move, total_iters, decay=decay, shape=shape, min_factor=min_factor)

    return LambdaLR(optimizer, factor)


def inverse_sqrt(optimizer: Optimizer, timescale: Annotated[float, "(0, inf)"]) -> LambdaLR:
    """The rate over the root of the time.

    Source: Vaswani et al. 2017, "Attention Is All You Need"; torch.optim.lr_scheduler.LambdaLR.
    """

    def factor(move: int) -> float:
        return inverse_sqrt_factor(move, timescale)

    return LambdaLR(optimizer, factor)


def by_factor(
    optimizer: Optimizer,
    moves: Annotated[int, "[1, inf)"],
    expression: str | None = None,
    function: Callable[[int], float] | None = None,
) -> LambdaLR:
    """The rate times a factor of one's own: an expression, or a function of the moves made.

    Args:
        moves: of the whole run.

    Source: torch.optim.lr_scheduler.LambdaLR.

    Raises:
        ConfigError: it is no expression, or the factor is not a finite number of at least 0 at some move.
    """
    if function is None:
        expression = expression or HALF_COSINE
        name, found = f"{EXPRESSION}={shown(expression)}", expression_factor(expression, moves)
    else:
        name, found = f"scheduler.function={getattr(function, '__name__', function)}", function

    def factor(move: int) -> float:
        return checked(name, found, move)

    refuse_bad_factors(name, factor, moves)
    return LambdaLR(optimizer, factor)


def checked(name: str, factor: Callable[[int], Any], move: int) -> float:
    """The factor at a move.

    Args:
        name: what gives it, for the message.

    Raises:
        ConfigError: it cannot be computed, or is not a finite number of at least 0.
    """
    try:
        found = factor(move)
        number = float(found)
    except Exception as error:  # a user's own function: anything can come out of it
        raise ConfigError(f"{name} has no value at move {move} ({first_line(error)})") from error
    if not 0 <= number < math.inf:
        raise ConfigError(f"{name} must be a finite number of at least 0, and is {number:g} at move {move}")
    return number


def refuse_bad_factors(name: str, factor: Factor, moves: int) -> None:
    """Try a factor at every move of the run, or, of a long one, at many of them.

    Raises:
        ConfigError: a bad value, or 0 at all of them.
    """
    last = moves - 1
    tried = range(moves) if moves <= TRIED else sorted({round(i * last / (TRIED - 1)) for i in range(TRIED)})
    if max(map(factor, tried)) == 0:
        raise ConfigError(f"{name} is 0 at every move: nothing would be learned")
    factor(moves)  # the schedule's last move follows the last step
