"""Rosenbrock's function: a model whose parameters are a point in the plane, or in more dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lossbench.errors import ConfigError

START = (-1.2, 1.0)  # Rosenbrock's own


def rosenbrock(*, input_shape: Sequence[int], outputs: int) -> nn.Module:
    """The residuals of Rosenbrock's function at a point x that is trained. (N, 2, d - 1) -> (N, 1).

    The inputs choose residuals: a row is multiplied with (x_i) and (10 (x_{i+1} - x_i^2)) and summed, so that a
    single 1 picks one. x starts at (-1.2, 1, -1.2, 1, ...), whatever the seed (Rosenbrock 1960).

    Raises:
        ConfigError: other data than dataset=rosenbrock, or a loss that wants several numbers.
    """
    if len(input_shape) != 2 or input_shape[0] != 2:
        raise ConfigError(
            f"model 'rosenbrock' takes the residuals of dataset=rosenbrock, of shape (2, dimensions - 1), and the data "
            f"have shape {tuple(input_shape)}"
        )
    if outputs != 1:
        raise ConfigError(f"model 'rosenbrock' gives one number, and the loss wants {outputs}; try loss=mse")
    return Rosenbrock(input_shape[1] + 1)


class Rosenbrock(nn.Module):
    """A point x in so many dimensions, and the residuals there."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([START[i % 2] for i in range(dimensions)]))

    def forward(self, inputs: Tensor) -> Tensor:
        here, after = self.x[:-1], self.x[1:]
        residuals = torch.stack([here, 10 * (after - here.square())])
        return (inputs * residuals).sum((1, 2))[:, None]
