"""The general robust loss: one family from squared error to losses that let outliers go, its shape given or learned."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossbench.losses.shape import at_least_float32, per_example

_SMALLEST_SCALE = 0.01  # at a perfect fit the likelihood would draw the scale to 0, and gradients grow as 1 / scale
_REACH, _STEPS = 32.0, 512  # exp(-32) of the integral is left out at either end


def adaptive_robust(
    pred: Tensor,
    target: Tensor,
    *,
    shape: Annotated[Tensor | float, "[-inf, 2]"] = 1.0,
    scale: Annotated[Tensor | float, "(0, inf)"] = 1.0,
) -> Tensor:
    """General robust loss, (b / a) ((s / b + 1)^(a / 2) - 1) with s = ((pred - target) / scale)^2 and b = |a - 2|.

    Its limits are s / 2 at a = 2 (half the squared error), log(1 + s / 2) at 0 (Cauchy) and 1 - exp(-s / 2) at -inf
    (Welsch); sqrt(1 + s) - 1 at 1 is Charbonnier, or pseudo-Huber, and 2 s / (s + 4) at -2 Geman-McClure.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `shape` a, the smaller the less outliers pull; `scale`, the error at which it leaves the
    parabola s / 2, in the target's (standardised) units. Both may be tensors that require a gradient.
    Source: Barron 2019, "A General and Adaptive Robust Loss Function".
    """
    pred = at_least_float32(pred)
    a, b = _bounded(shape, torch.promote_types(pred.dtype, target.dtype))
    return per_example(_general(_squared(pred, target, scale, b), a, b))


class AdaptiveRobust(nn.Module):
    """General robust loss whose shape and scale are learned with the model, or fixed.

    Learned, it is a negative log-likelihood, rho(e, a, c) + log c + log Z(a), with rho as in `adaptive_robust`, the
    shape a in (0, 2), the scale c above 0.01, and Z the integral of exp(-rho): that term is what keeps the shape from
    falling until no error counts. Fixed, it is rho.

    Shapes: pred and target (N, ...); returns (N,), the mean over an example's outputs.
    Hyperparameters: `shape` a, 2 squared, 1 Charbonnier, 0 Cauchy, -2 Geman-McClure, -inf Welsch; `scale` c, the
    error at which it leaves the parabola, in the target's (standardised) units; `learn`, whether they are where
    training starts (then 0 < shape < 2 and scale > 0.01) or stay as they are.
    Source: Barron 2019, "A General and Adaptive Robust Loss Function".
    """

    def __init__(
        self,
        *,
        shape: Annotated[float, "[-inf, 2]"] = 1.0,
        scale: Annotated[float, "(0, inf)"] = 1.0,
        learn: bool = True,
    ) -> None:
        super().__init__()
        if learn and not (0 < shape < 2 and scale > _SMALLEST_SCALE):
            raise ValueError(f"learn needs 0 < shape < 2 and scale > {_SMALLEST_SCALE}; set learn=false for others")
        self.start, self.learn = (shape, scale), learn
        if learn:
            above = scale - _SMALLEST_SCALE
            self.shape_logit = nn.Parameter(torch.tensor(math.log(shape / (2 - shape))))
            self.scale_softplus = nn.Parameter(torch.tensor(above + math.log(-math.expm1(-above))))

    @property
    def shape(self) -> Tensor | float:
        return 2 * self.shape_logit.sigmoid() if self.learn else self.start[0]

    @property
    def scale(self) -> Tensor | float:
        return F.softplus(self.scale_softplus) + _SMALLEST_SCALE if self.learn else self.start[1]

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        shape, scale = self.shape, self.scale
        values = adaptive_robust(pred, target, shape=shape, scale=scale)
        if not isinstance(shape, Tensor) or not isinstance(scale, Tensor):
            return values
        return values + (scale.log() + log_partition(shape.to(values.dtype)))


def log_partition(shape: Tensor) -> Tensor:  # () -> ()
    """log Z(a) = log of the integral of exp(-rho(x, a, 1)) over all real x, for a in [0, 2].

    With x = exp(u) the integrand is analytic in a strip around the real axis that does not narrow with a. So the plain
    sum over equal steps is exact to about 1e-13.
    """
    a, b = _bounded(shape, shape.dtype)
    u = torch.linspace(-_REACH, _REACH, _STEPS + 1, dtype=a.dtype, device=a.device)
    both_sides = 2 * (2 * _REACH / _STEPS)
    return torch.logsumexp(u - _general((2 * u).exp() / b, a, b), 0) + math.log(both_sides)


def _squared(pred: Tensor, target: Tensor, scale: Tensor | float, b: Tensor) -> Tensor:
    """s / b, with one pass over the errors for both divisions."""
    return (pred - target).square() * (1 / (b * scale**2))


def _general(s: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """rho by its definition, (b / a) ((s / b + 1)^(a / 2) - 1), from s / b."""
    return b / a * torch.expm1(a / 2 * torch.log1p(s))


def _bounded(shape: Tensor | float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """a and b = |a - 2|, as near to the singular shapes 2, 0 and -inf as the type can tell."""
    eps = torch.finfo(dtype).eps
    a = torch.as_tensor(shape, dtype=dtype).clamp_min(-1 / eps)
    # Nearer to 0 the derivative by the shape would be lost in rounding; a shape at 0 still gets one, and can leave it.
    least = eps ** (7 / 8) / 2
    a = torch.where(a.abs() < least, a + 2 * least, a)
    return a, (a - 2).abs().clamp_min(eps)
