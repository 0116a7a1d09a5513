"""Data that are made up: the truth about their noise is known."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from lossbench.data.source import Source

MEAN, STD = 14.4, 4.9  # of `friedman` over the unit cube, rounded

Floats = NDArray[np.float64]


def synthetic_regression(
    *,
    n: Annotated[int, "[10, 1e8]"] = 2000,
    features: Annotated[int, "[5, 10000]"] = 8,
    noise: Literal["normal", "heteroscedastic", "student", "counts"] = "normal",
    std: Annotated[float, "[0, 1e6]"] = 0.3,
    data_seed: Annotated[int, "[0, inf)"] = 0,
) -> Source:
    """A smooth function of five uniform inputs (Friedman 1991), scaled to mean 0 and unit variance, plus noise.

    f = 10 sin(pi x1 x2) + 20 (x3 - 1/2)^2 + 10 x4 + 5 x5; further inputs tell nothing.

    Args:
        n: examples.
        features: inputs.
        noise: `normal`; `heteroscedastic`: normal, its deviation grows with x5 from 0.1 to 1.9 of `std`; `student`:
            heavy tails (Student's t with 3 degrees of freedom); `counts`: the target is a Poisson count of rate
            exp(1 + f), whole numbers of at least 0.
        std: the noise's scale in deviations of f; counts do not use it.
        data_seed: decides the data; the run's `seed` decides the split, the weights and the order.
    """
    generator = np.random.default_rng(data_seed)
    x = generator.random((n, features))
    f = (friedman(x) - MEAN) / STD
    target = {
        "normal": lambda: f + std * generator.normal(size=n),
        "heteroscedastic": lambda: f + std * (0.1 + 1.8 * x[:, 4]) * generator.normal(size=n),
        "student": lambda: f + std * generator.standard_t(3, size=n),
        "counts": lambda: generator.poisson(np.exp(1 + f)).astype(np.float64),
    }[noise]()
    return Source(x, target, "regression")


def friedman(x: Floats) -> Floats:
    return 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
