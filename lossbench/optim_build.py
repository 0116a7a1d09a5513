"""From the config's optimizer and parameter groups to torch's optimizers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from lossbench.config import Config
from lossbench.errors import ConfigError
from lossbench.optim.closure import check_search, searches
from lossbench.signatures import parameters
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
    return [built]


def refuse_misfits(config: Config, optimizers: Sequence[Optimizer], precision: str) -> None:
    """Refuse trainer options that an optimizer cannot have.

    Args:
        precision: what `trainer.precision` comes to.

    Raises:
        ConfigError: the first such option.
    """
    options = config.trainer
    if any(map(searches, optimizers)):
        clips = next((f"trainer.{key}" for key in ("clip_norm", "clip_value") if getattr(options, key)), None)
        check_search(config.optim.name, accumulate=options.accumulate, precision=precision, clips=clips)
