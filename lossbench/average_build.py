"""From the config's average of the weights to one over a run's parameters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from lossbench.config import Config
from lossbench.data import Batches
from lossbench.engine import Average, Length
from lossbench.errors import ConfigError

START = {"ema": 0.0, "swa": 0.75}  # where none is named
EVERY = {"ema": "step", "swa": "epoch"}


def build_average(
    config: Config,
    parameters: Sequence[nn.Parameter],
    optimizers: Sequence[Optimizer],
    length: Length,
    batches: Batches,
) -> Average | None:
    """The average that the config asks for, if any.

    Raises:
        ConfigError: the optimizer averages by itself, or the run has no step to average at.
    """
    options = config.average
    if options.kind is None:
        return None
    if any(hasattr(optimizer, "train") and hasattr(optimizer, "eval") for optimizer in optimizers):
        raise ConfigError(
            f"trainer.average.kind={options.kind}: optim '{config.optim.name}' averages the weights by itself; "
            "leave one of them out"
        )
    asked = START[options.kind] if options.start is None else options.start
    start = round(asked * length.steps) if asked < 1 else int(asked)
    named = EVERY[options.kind] if options.every is None else options.every
    every = {"step": 1, "epoch": batches.steps_per_epoch}[named] if isinstance(named, str) else named
    if start >= length.steps:
        raise ConfigError(
            f"trainer.average.start={asked:g} leaves none of the {length.steps:,} steps to average; lower it"
        )
    if length.steps // every <= start // every:
        raise ConfigError(
            f"trainer.average.every={named}: none of the steps {start + 1:,} to {length.steps:,} is a multiple of "
            f"{every:,}; lower it, or trainer.average.start"
        )
    return Average(options.kind, parameters, start=start, every=every, decay=options.decay, warmup=options.warmup)
