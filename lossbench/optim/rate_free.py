"""Optimizers whose `lr` no range test can find: what they move by is not the rate."""

from __future__ import annotations

from torch.optim import Optimizer, Rprop

from lossbench.errors import ConfigError
from lossbench.optim.closure import searches


def refuse_rate_free(name: str, kind: type[Optimizer]) -> None:
    """Refuse an optimizer that finds the length of its steps by itself.

    Raises:
        ConfigError: says which rate to leave it at.
    """
    if searches(kind):
        raise ConfigError(
            f"optim '{name}' finds the length of each step by a line search, and no range test says what that starts "
            "from: leave optim.lr at 1"
        )
    if issubclass(kind, Rprop):
        raise ConfigError(
            f"optim '{name}' takes optim.lr for its first step alone and finds its step sizes by itself: leave it at "
            "0.01"
        )
