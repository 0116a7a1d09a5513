"""What of a schedule can be known from the config alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lossbench.errors import ConfigError
from lossbench.optim import SchedulerOptions
from lossbench.optim.expression import parse
from lossbench.optim.lengths import is_torchs
from lossbench.optim.schedule import follows_a_metric
from lossbench.optim.schedules import EXPRESSION, VARIABLES, by_factor
from lossbench.signatures import hints, takes_function
from lossbench.targets import FILLED, Call, locate


def read_schedule(call: Call, options: SchedulerOptions) -> Call:
    """The schedule with the functions that its options name, checked.

    Raises:
        ConfigError: options that do not go together, no expression, or a function that is not there.
    """
    if isinstance(call.target, type):
        check_metric(call.name, call.target, options)
    values = dict(call.values)
    milestones = values.get("milestones")
    if is_torchs(call.target) and isinstance(milestones, list) and milestones != sorted(set(milestones)):
        raise ConfigError(f"scheduler.milestones must increase, got {milestones}")
    for key, hint in hints(call.target).items():
        if takes_function(hint) and isinstance(values.get(key), str):
            values[key] = locate("scheduler", values[key], key)
    if call.target is by_factor:
        _check_expression(values.get("expression"), values.get("function"))
    return Call(call.name, call.target, values)


def schedule_filled(target: Callable[..., Any]) -> tuple[str, ...]:
    """What is supplied where it is null: a direction (`mode`) only to what follows a metric."""
    return tuple(key for key in FILLED["scheduler"] if key != "mode" or follows_a_metric(target))


def refuse_stated_peak(call: Call) -> None:
    """Refuse a peak beside `optim.lr=auto`: the run would not use the rate that is found.

    Raises:
        ConfigError: there is one.
    """
    if is_torchs(call.target) and call.values.get("max_lr") is not None:
        raise ConfigError(
            "optim.lr=auto: scheduler.max_lr states the peak; leave it at null, or give optim.lr a number"
        )


def check_metric(name: str, target: type, options: SchedulerOptions) -> None:
    """Refuse a metric that nobody looks at, and moves at which there is none to look at.

    Raises:
        ConfigError: says which option to change.
    """
    follows = follows_a_metric(target)
    if follows and options.interval != "evaluation":
        raise ConfigError(f"scheduler '{name}' follows a metric: set scheduler.interval=evaluation")
    if options.metric is not None and not follows:
        raise ConfigError(
            f"scheduler.metric={options.metric}: scheduler '{name}' follows no metric; leave it at null, or take "
            "scheduler=plateau"
        )


def _check_expression(expression: str | None, function: object) -> None:
    if expression is not None and function is not None:
        raise ConfigError("scheduler.expression and scheduler.function are two ways to say it; leave one at null")
    if expression is not None:
        parse(EXPRESSION, expression, VARIABLES)
