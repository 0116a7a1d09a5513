"""Optimizers that evaluate the loss again within a step, such as L-BFGS in its line search."""

from __future__ import annotations

import inspect

from torch.optim import Optimizer

from lossbench.errors import ConfigError


def searches(optimizer: Optimizer | type[Optimizer]) -> bool:
    """Whether an optimizer, or a class of them, makes no step without a closure that evaluates the loss again."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def check_search(name: str, *, accumulate: int, precision: str, clips: str | None) -> None:
    """Refuse what an optimizer that evaluates the loss again cannot have.

    Args:
        clips: the setting by which gradients are clipped, if they are.

    Raises:
        ConfigError: the first such setting.
    """
    if accumulate > 1:
        raise ConfigError(
            f"optim '{name}' evaluates the loss several times in a step, and trainer.accumulate={accumulate} would go "
            "over all its batches each time: set trainer.accumulate=1, and a larger trainer.batch_size"
        )
    if precision == "fp16":
        raise ConfigError(
            f"optim '{name}' evaluates the loss several times in a step, and the loss scale of fp16 is for one: "
            "set trainer.precision=fp32 or bf16"
        )
    if clips is not None:
        raise ConfigError(
            f"optim '{name}' follows the gradient that it measures, and {clips} would give it another: set {clips}=null"
        )
