"""Problems with a known optimum, on which optimizers can be told apart: a quadratic bowl and Rosenbrock's valley."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lossbench.data.source import Source
from lossbench.errors import ConfigError

Floats = NDArray[np.float64]


def quadratic(
    *,
    n: Annotated[int, "[10, 1e7]"] = 10000,
    dimensions: Annotated[int, "[1, 1000]"] = 10,
    condition: Annotated[float, "[1, 1e8]"] = 100.0,
    eigenvalues: Sequence[Annotated[float, "(0, 1e8]"]] | None = None,
    rotate: bool = True,
    noise: Annotated[float, "[0, 1e6]"] = 0.1,
    data_seed: Annotated[int, "[0, inf)"] = 0,
) -> Source:
    """Linear regression whose mean squared error, as a function of the weights, is a bowl with known eigenvalues.

    Over all n rows, and as they are (not standardised), the Hessian 2 X'X / n has exactly the eigenvalues asked for;
    inputs have mean 0, and the noise has mean 0 and is orthogonal to them, so that the optimum is the weights that the
    targets are made with, and its root mean square error is `noise`. Each eigenvector has the same share of the
    targets' variance, which is 1 without the noise: a model of zeros has an rmse of sqrt(1 + noise^2), and each
    direction that is left unlearned adds 1 / dimensions to its square.

    Args:
        n: examples.
        dimensions: inputs.
        condition: the largest eigenvalue, which is 1, over the smallest; the others lie between, evenly in logarithms.
        eigenvalues: all of them, in place of `dimensions` and `condition`.
        rotate: the eigenvectors are random directions; without it the axes, where a rate per weight fits each.
        noise: the standard deviation of the targets' noise.
        data_seed: decides the data; the run's `seed` decides the split, the weights and the order.

    Raises:
        ConfigError: no eigenvalues, or too few examples for them.
    """
    curvatures = np.geomspace(1, 1 / condition, dimensions) if eigenvalues is None else np.array(eigenvalues)
    size = len(curvatures)
    if size == 0:
        raise ConfigError("dataset.eigenvalues is empty; null takes dataset.dimensions and dataset.condition")
    if n < size + 2:
        raise ConfigError(f"dataset.n must be at least {size + 2} for {size} eigenvalues, got {n}")
    generator = np.random.default_rng(data_seed)
    white = _white(n, size + 1, generator)
    along = white[:, :size] * np.sqrt(curvatures / 2)  # inputs along the eigenvectors
    target = white[:, :size] @ (generator.choice([-1.0, 1.0], size) / np.sqrt(size)) + noise * white[:, size]
    axes = np.linalg.qr(generator.normal(size=(size, size)))[0] if rotate else np.eye(size)
    note = (
        f"the mean squared error's Hessian has eigenvalues from {curvatures.max():.4g} to {curvatures.min():.4g}, so "
        f"that gradient descent takes rates below {2 / curvatures.max():.4g}; the best rmse is {noise:.4g}"
    )
    return Source(along @ axes.T, target, "regression", notes=(note,))


def _white(n: int, columns: int, generator: Generator) -> Floats:
    """Random numbers (n, columns) of mean 0 and unit variance, no column correlated with another."""
    drawn = generator.normal(size=(n, columns))
    white: Floats = np.linalg.qr(drawn - drawn.mean(0))[0] * np.sqrt(n)
    return white


def rosenbrock(
    *,
    dimensions: Annotated[int, "[2, 100]"] = 2,
    copies: Annotated[int, "[10, 10000]"] = 20,
    noise: Annotated[float, "[0, 1e6]"] = 0.0,
    data_seed: Annotated[int, "[0, inf)"] = 0,
) -> Source:
    """Rosenbrock's function as nonlinear least squares, for `models.rosenbrock`: an example is one of its residuals.

    f(x) = sum over i of (1 - x_i)^2 + (10 (x_{i+1} - x_i^2))^2 has 2 (dimensions - 1) residuals. The input names one
    with a single 1 in (2, dimensions - 1): in the first row of x_i, whose target is 1, in the second of
    10 (x_{i+1} - x_i^2), whose target is 0. Each split has each residual equally often, so that its mean squared error
    is f(x) / (2 (dimensions - 1)), of least value 0 at (1, ..., 1).

    Args:
        dimensions: of x.
        copies: examples of each residual.
        noise: the standard deviation of the targets' noise: the rmse that is left at the optimum.
        data_seed: decides the noise; the run's `seed` decides the split and the order.

    Source: Rosenbrock 1960; the chain of more than two dimensions De Jong 1975.
    """
    size = 2 * (dimensions - 1)
    residual = np.tile(np.arange(size), copies)
    inputs = np.eye(size)[residual].reshape(-1, 2, dimensions - 1)
    target = (residual < dimensions - 1) + noise * np.random.default_rng(data_seed).normal(size=len(residual))
    note = (
        f"the mean squared error is Rosenbrock's function over {size}; its optimum is (1, ..., 1), with an rmse of "
        f"{noise:.4g}"
    )
    return Source(inputs, target, "regression", notes=(note,), strata=residual)
