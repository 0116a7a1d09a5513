"""Another's optimizer is tried on copies of the parameters, before anything is written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.engine.checkpoint import packed_state
from lossbench.errors import ConfigError, first_line, refuse_memory
from lossbench.optim.closure import searches

STEPS = 2  # the first one makes the state, the second one uses it


def try_out(
    name: str, groups: Sequence[Mapping[str, Any]], construct: Callable[[list[dict[str, Any]]], Sequence[Optimizer]]
) -> None:
    """Make two steps with gradients drawn at random, and read the state back as a checkpoint would.

    Args:
        name: of the config's choice.
        groups: the parameter groups; copies of their parameters are moved.
        construct: gives the optimizers of parameter groups.

    Raises:
        ConfigError: a step fails, or the state holds what no checkpoint could bring back.
        ResourceError: the memory does not suffice.
    """
    copies = [{**group, "params": [_copy(parameter) for parameter in group["params"]]} for group in groups]
    parameters = [parameter for group in copies for parameter in group["params"]]
    with torch.random.fork_rng({p.device for p in parameters if p.is_cuda}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for optimizer in construct(copies):
            try:
                for _ in range(STEPS):
                    _step(optimizer, parameters)
            except Exception as error:
                refuse_memory(error)
                raise ConfigError(f"optim '{name}' cannot make a step: {first_line(error)}") from error
            _check_state(name, optimizer)


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone())


def _step(optimizer: Any, parameters: Sequence[nn.Parameter]) -> None:
    if hasattr(optimizer, "train"):  # schedule-free
        optimizer.train()

    def closure() -> Tensor:
        for parameter in parameters:
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        return torch.ones(())

    closure()
    optimizer.step(closure) if searches(optimizer) else optimizer.step()


def _check_state(name: str, optimizer: Optimizer) -> None:
    try:
        data = io.BytesIO(packed_state(optimizer.state_dict()))
        torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"optim '{name}' keeps more than tensors and numbers in its state, and no checkpoint could bring it back"
        ) from error
