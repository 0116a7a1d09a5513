"""Learning-rate schedules: torch's own, with a warm-up in front of any of them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

from lossbench.errors import ConfigError


@dataclass(frozen=True)
class SchedulerOptions:
    """What every schedule takes, beside its own options.

    Attributes:
        interval: what one move of the schedule is: an optimizer step, an epoch, or (plateau) an evaluation.
        warmup: optimizer steps of warm-up; below 1, a share of the run.
        warmup_from: the share of the rate that the warm-up starts from.
        warmup_shape: it rises by the same amount at each step, or by the same ratio.
        metric: the validation metric that `plateau` follows; null is the monitored one.
    """

    interval: Literal["step", "epoch", "evaluation"] = "step"
    warmup: Annotated[float, "[0, inf)"] = 0
    warmup_from: Annotated[float, "(0, 1]"] = 0.1
    warmup_shape: Literal["linear", "exponential"] = "linear"
    metric: str | None = None


class Schedule:
    """Moves an optimizer's rates, and only together with it.

    For the first `warmup` optimizer steps the rate rises from `warmup_from` of the rate that torch's schedule starts
    with; then that schedule runs as it would have from its first step. Every parameter group has its own rate.

    Args:
        main: builds torch's schedule, given the number of its moves left for it and the optimizer.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
        eval_every: optimizer steps between evaluations.
        metric: the validation metric that a plateau schedule follows.

    Attributes:
        rates: of each parameter group, at the first step after the warm-up.
        moves: of torch's schedule in the whole run.
        follows: whether it looks at a metric, so that the moves made do not say where it stands.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        main: Callable[[Optimizer, int], LRScheduler],
        options: SchedulerOptions,
        *,
        total_steps: int,
        steps_per_epoch: int,
        eval_every: int = 1,
        metric: str = "loss",
    ) -> None:
        self.optimizer, self.interval, self.metric = optimizer, options.interval, metric
        self.every = {"step": 1, "epoch": steps_per_epoch, "evaluation": eval_every}[options.interval]
        self.warmup = warmup_steps(options.warmup, total_steps)
        self.warmup_from, self.warmup_shape = options.warmup_from, options.warmup_shape
        self.moves = -(-(total_steps - self.warmup) // self.every)
        if options.interval == "evaluation":  # these do not wait for the end of the warm-up to be counted
            self.moves = -(-total_steps // self.every) - self.warmup // self.every
        self.main = main(optimizer, self.moves)
        self.rates = self._rates()
        self.taken = 0
        self.factor = 1.0
        self.own: list[float] | None = None  # its own rates, while the optimizer's are `factor` times these
        # A schedule that never moves costs nothing in the step.
        self.still = isinstance(self.main, ConstantLR) and self.main.factor == 1
        self.follows = follows_a_metric(type(self.main))
        self._warm()

    def step(self) -> None:
        """After an optimizer step that was taken."""
        self.taken += 1
        if self.taken <= self.warmup:
            self._move(self._warm)
        elif self.interval != "evaluation" and not self.still and (self.taken - self.warmup) % self.every == 0:
            self._move(self.main.step)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """After an evaluation: a plateau schedule looks at the metric it follows, from the end of the warm-up on.

        Any other moves, once a step was made at the rate that it stands at.
        """
        if self.interval != "evaluation":
            return
        if self.follows and self.taken >= self.warmup:
            step: Callable[..., None] = self.main.step
            self._move(partial(step, metrics[self.metric]))
        elif not self.follows and self.taken > self.warmup:
            self._move(self.main.step)

    def slow_down(self, factor: float) -> None:
        """Multiply the schedule's own rates by `factor` from now on; a second call replaces the first."""
        self.own = self.own or self._rates()
        self.factor = factor
        self._set([rate * factor for rate in self.own])

    def fast_forward(self, taken: int, step: int) -> None:
        """From the start to where a run stands at `step`, with so many of its steps taken; a metric is not followed.

        When the others were skipped is not known, and they count as the last. By evaluations, which come at skipped
        steps too, that is exact but for steps skipped before the end of the warm-up: the schedule is then ahead by the
        evaluations that these would have put into the warm-up, at most one for each `every` of them, and one more.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants an optimizer step before each
            for now in range(1, step + 1):
                if now <= taken:
                    self.step()
                if not self.follows and now % self.every == 0:
                    self.evaluated({})

    def state_dict(self) -> dict[str, Any]:
        """Where it stands; the rates themselves are in the optimizer's state."""
        own = {"taken": self.taken, "rates": self.rates, "factor": self.factor, "own": self.own}
        return {**own, "main": self.main.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where another stood."""
        self.taken, self.rates = state["taken"], state["rates"]
        self.factor, self.own = state["factor"], state["own"]
        self.main.load_state_dict(dict(state["main"]))  # which takes some of it out

    def _move(self, move: Callable[[], None]) -> None:
        """Move torch's schedule, which goes on from the rates that it finds: they must be its own."""
        if self.own is None:
            move()
            return
        self._set(self.own)
        move()
        self.own = self._rates()
        self._set([rate * self.factor for rate in self.own])

    def _rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set(self, rates: Sequence[float]) -> None:
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def _warm(self) -> None:
        if self.taken > self.warmup or not self.warmup:
            return
        share = self.warmup_from + (1 - self.warmup_from) * self.taken / self.warmup
        if self.warmup_shape == "exponential":
            share = self.warmup_from ** (1 - self.taken / self.warmup)
        self._set([rate * share if self.taken < self.warmup else rate for rate in self.rates])


def follows_a_metric(target: Callable[..., Any]) -> bool:
    """Whether it is a class of schedules that are given a metric to look at."""
    return isinstance(target, type) and "metrics" in inspect.signature(getattr(target, "step", target)).parameters


def warmup_steps(warmup: float, total_steps: int) -> int:
    """Warm-up in optimizer steps; a number below 1 is a share of the run.

    Raises:
        ConfigError: a warm-up as long as the run, or part of a step.
    """
    steps = round(warmup * total_steps) if warmup < 1 else int(warmup)
    if warmup >= 1 and steps != warmup:
        raise ConfigError(f"scheduler.warmup must be a whole number of steps or a share below 1, got {warmup}")
    if steps and steps >= total_steps:
        raise ConfigError(
            f"scheduler.warmup={steps} is as long as the run ({total_steps} steps); shorten it or train longer"
        )
    return steps
