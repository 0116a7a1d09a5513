"""From the config's optimizer and parameter groups to torch's optimizers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from lossbench.errors import ConfigError
from lossbench.signatures import parameters, required
from lossbench.targets import Call, make


def build_optimizers(optim: Call, trained: Sequence[nn.Parameter]) -> list[Optimizer]:
    """The optimizers of a run, one as a rule, in their fused form where torch has one.

    Raises:
        ConfigError: the target is no optimizer, or cannot be called so.
    """
    chosen = {"fused", "foreach", "differentiable"} & optim.values.keys()  # torch takes one of them
    fused = {"fused": True} if "fused" in parameters(optim.target) and not chosen else {}
    built = make("optim", optim, {"params": [{"params": list(trained), "name": optim.name}], **fused})
    if not isinstance(built, Optimizer):
        raise ConfigError(f"optim '{optim.name}' must be a torch.optim.Optimizer, got {type(built).__name__}")
    if "closure" in required(built.step):
        raise ConfigError(f"optim '{optim.name}' evaluates the loss again in each step, and a step here does it once")
    return [built]
