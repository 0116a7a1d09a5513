"""A small convolutional network for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import nn

from lossbench.errors import ConfigError
from lossbench.models.layers import Activation, activation_layer


def cnn(
    *,
    input_shape: Sequence[int],
    outputs: int,
    channels: Sequence[Annotated[int, "[1, inf)"]] = (32, 64),
    activation: Activation = "relu",
    batch_norm: bool = True,
    dropout: Annotated[float, "[0, 1)"] = 0.0,
) -> nn.Module:
    """Blocks of 3x3 convolution, batch norm, activation and 2x2 max pooling, then global average pooling and a linear
    head. (N, C, H, W) -> (N, outputs). After LeCun et al. 1998 and Lin et al. 2014 (the pooled head).

    Raises:
        ConfigError: the data are not images, or are halved away by the blocks.
    """
    if len(input_shape) != 3:
        raise ConfigError(
            f"model 'cnn' needs images (channels, height, width), and the data have shape {tuple(input_shape)}; "
            "try model=mlp"
        )
    width, height, side = input_shape[0], min(input_shape[1:]), 2 ** len(channels)
    if height < side:
        raise ConfigError(
            f"model.channels: {len(channels)} blocks halve images of side {height} to nothing; "
            f"use at most {height.bit_length() - 1}"
        )
    layers: list[nn.Module] = []
    for size in channels:
        layers += [nn.Conv2d(width, size, 3, padding=1, bias=not batch_norm)]
        layers += [nn.BatchNorm2d(size)] if batch_norm else []
        layers += [activation_layer(activation), nn.MaxPool2d(2)]
        width = size
    head: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    head += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, *head, nn.Linear(width, outputs))
