"""Learning-rate schedules: torch's own, with a warm-up in front of any of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, ReduceLROnPlateau

from lossbench.errors import ConfigError


@dataclass(frozen=True)
class SchedulerOptions:
    """What every schedule takes, beside its own options.

    Attributes:
        interval: what one move of the schedule is: an optimizer step, an epoch, or (plateau) an evaluation.
        warmup: optimizer steps of linear warm-up; below 1, a share of the run.
        warmup_from: the share of the rate that the warm-up starts from.
        metric: the validation metric that `plateau` follows; null is the monitored one.
    """

    interval: Literal["step", "epoch", "evaluation"] = "step"
    warmup: Annotated[float, "[0, inf)"] = 0
    warmup_from: Annotated[float, "(0, 1]"] = 0.1
    metric: str | None = None


class Schedule:
    """Moves an optimizer's rates, and only together with it.

    For the first `warmup` optimizer steps the rate rises linearly from `warmup_from` of the rate that torch's
    schedule starts with; then that schedule runs as it would have from its first step.

    Args:
        main: builds torch's schedule, given the number of its moves left for it and the optimizer.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
        eval_every: optimizer steps between evaluations.
        metric: the validation metric that a plateau schedule follows.
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
        self.optimizer, self.interval, self.steps_per_epoch = optimizer, options.interval, steps_per_epoch
        self.metric = metric
        self.warmup = warmup_steps(options.warmup, total_steps)
        self.warmup_from = options.warmup_from
        left = total_steps - self.warmup
        by_interval = {"step": left, "epoch": -(-left // steps_per_epoch), "evaluation": -(-left // eval_every)}
        self.main = main(optimizer, by_interval[options.interval])
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.taken = 0
        # A schedule that never moves costs nothing in the step.
        self.moves_by_step = options.interval == "step" and not isinstance(self.main, ConstantLR)
        self._warm()

    def step(self) -> None:
        """After an optimizer step that was taken."""
        self.taken += 1
        if self.taken <= self.warmup:
            self._warm()
        elif self.moves_by_step or self._ends_an_epoch():
            self.main.step()

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """After an evaluation: a plateau schedule looks at the metric it follows."""
        if self.interval != "evaluation" or self.taken < self.warmup:
            return
        if isinstance(self.main, ReduceLROnPlateau):
            self.main.step(metrics[self.metric])
        else:
            self.main.step()

    def _ends_an_epoch(self) -> bool:
        return self.interval == "epoch" and (self.taken - self.warmup) % self.steps_per_epoch == 0

    def _warm(self) -> None:
        if self.taken > self.warmup or not self.warmup:
            return
        share = self.warmup_from + (1 - self.warmup_from) * self.taken / self.warmup
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share if self.taken < self.warmup else rate


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


def fill_lengths(values: Mapping[str, Any], required: Collection[str], length: int, rate: float) -> dict[str, Any]:
    """A torch schedule's arguments, with null (or a required one's absence) standing for the run's length and rate.

    Raises:
        ConfigError: a one-cycle that ends before the run does.
    """
    defaults = {"T_max": length, "total_steps": length, "total_iters": length, "max_lr": rate}
    filled = {k: defaults[k] if v is None and k in defaults else v for k, v in values.items()}
    filled |= {k: v for k, v in defaults.items() if k in required and k not in filled}
    if filled.get("total_steps") is not None and filled["total_steps"] < length:
        raise ConfigError(
            f"scheduler.total_steps={filled['total_steps']} is shorter than the run ({length}); null takes its length"
        )
    return filled
