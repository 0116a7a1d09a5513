"""Pieces that the models share."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["relu", "gelu", "silu", "tanh", "leaky_relu", "elu"]
Norm = Literal["none", "batch", "layer"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
}


def activation_layer(name: Activation) -> nn.Module:
    """A fresh activation module."""
    return _ACTIVATIONS[name]()


def norm_layers(name: Norm, size: int) -> list[nn.Module]:
    """The norm of a layer of `size` features, or nothing."""
    if name == "none":
        return []
    return [nn.BatchNorm1d(size) if name == "batch" else nn.LayerNorm(size)]
