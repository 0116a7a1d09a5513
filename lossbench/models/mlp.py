"""Models on flat features: linear, and the multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from torch import nn

from lossbench.models.layers import Activation, Norm, activation_layer, norm_layers


def linear(*, input_shape: Sequence[int], outputs: int, bias: bool = True) -> nn.Module:
    """One linear layer on the flattened input. (N, *input_shape) -> (N, outputs)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), outputs, bias=bias))


def mlp(
    *,
    input_shape: Sequence[int],
    outputs: int,
    hidden: Sequence[Annotated[int, "[1, inf)"]] = (256, 128),
    activation: Activation = "relu",
    norm: Norm = "none",
    dropout: Annotated[float, "[0, 1)"] = 0.0,
) -> nn.Module:
    """A multilayer perceptron on the flattened input. (N, *input_shape) -> (N, outputs).

    Each hidden layer is Linear, norm, activation, dropout (Rumelhart, Hinton and Williams 1986).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for size in hidden:
        layers += [nn.Linear(width, size), *norm_layers(norm, size), activation_layer(activation)]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = size
    return nn.Sequential(*layers, nn.Linear(width, outputs))
