"""Distributionally robust means: of the values that any loss gives per example, the mean under the worst of many
distributions near the batch's own, in place of the plain mean.

Each takes the examples' own losses as `values`, and as `weights` how much each of them counts (1 by default): the
plain mean is sum(weights x values) / sum(weights). Of a loss that returns (values, weights), pass values / weights.
An example of weight 0 is left out. The result is a scalar.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cvar(values: Tensor, *, weights: Tensor | None = None, level: Annotated[float, "(0, 1]"] = 0.1) -> Tensor:
    """Conditional value at risk: the mean over the worst `level` share of the batch, a part of an example included.

    It is the largest mean under any distribution that gives no example more than 1 / level times its share.

    Shapes: values and weights (N,); returns ().
    Hyperparameters: `level`, the share of the batch that counts; 1 is the plain mean.
    Source: Rockafellar and Uryasev 2000, "Optimization of Conditional Value-at-Risk"; on batches, Levy et al. 2020.
    """
    losses, shares = _distribution(values, weights)
    if weights is None:
        counted = level * len(losses)
        worst = losses.topk(min(len(losses), math.ceil(counted)), sorted=False).values
        # Of the least of them only a part may count.
        return (worst.sum() - (len(worst) - counted) * worst.min()) / counted
    losses, order = losses.sort(descending=True)
    shares = shares.gather(0, order)
    before = shares.cumsum(0) - shares
    taken = torch.minimum((level - before).clamp_min(0), shares)
    return (taken * losses).sum() / level


def chi2_dro(values: Tensor, *, weights: Tensor | None = None, radius: Annotated[float, "[0, inf)"] = 1.0) -> Tensor:
    """The largest mean under any distribution q within chi-square distance rho of the batch's own, p.

    The distance is sum p (q / p - 1)^2 / 2. The best q is in proportion to p max(0, loss - eta), for the eta at which
    it is at the distance rho. In the gradient q is detached, which is exact for the first derivative (by the envelope
    theorem); second derivatives leave out how q moves.

    Shapes: values and weights (N,); returns ().
    Hyperparameters: `radius` rho, 0 is the plain mean; from (1 / share - 1) / 2 the worst example alone counts.
    Source: Duchi and Namkoong 2019, "Variance-based Regularization with Convex Objectives"; Levy et al. 2020,
    "Large-Scale Methods for Distributionally Robust Optimization".
    """
    losses, shares = _distribution(values, weights)
    return (_chi2_worst(losses.detach(), shares, radius) * losses).sum()


class GroupDRO(nn.Module):
    """The mean over groups of each group's mean loss, with weights q that grow where the loss is large.

    In training each batch first moves them, q_g <- q_g exp(eta L_g), scaled to a sum of 1, with the group's mean loss
    L_g detached; in evaluation they rest. A group that is not in the batch counts as a loss of 0.

    Shapes: values and weights (N,); groups (N,) ids 0..G-1; returns ().
    Hyperparameters: `step_size` eta, how fast the weights move; `num_groups` G, in a run that of the data.
    State: `log_weights` (G,), the logarithms of q: a group whose weight has fallen to 0 can come back.
    Source: Sagawa et al. 2020, "Distributionally Robust Neural Networks for Group Shifts", its online algorithm.
    """

    log_weights: Tensor

    def __init__(self, *, step_size: Annotated[float, "[0, inf)"] = 0.01, num_groups: int) -> None:
        super().__init__()
        self.step_size = step_size
        self.register_buffer("log_weights", torch.full((num_groups,), -math.log(num_groups)))

    @property
    def group_weights(self) -> Tensor:  # (G,)
        return self.log_weights.softmax(0)

    def forward(self, values: Tensor, groups: Tensor, *, weights: Tensor | None = None) -> Tensor:
        losses, shares = _distribution(values, weights)
        members = groups[:, None] == torch.arange(len(self.log_weights), device=groups.device)  # (N, G)
        sums, sizes = (torch.where(members, x[:, None], 0).sum(0) for x in (shares * losses, shares))
        means = sums / torch.where(sizes > 0, sizes, 1)
        log_weights = self.log_weights
        if self.training:
            log_weights = (log_weights + self.step_size * means.detach()).log_softmax(0)
            self.log_weights.copy_(log_weights)
        return (log_weights.softmax(0) * means).sum()


def _distribution(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The losses, and the share of each example in the whole, in a type that can add up shares."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if weights is None:
        return values, torch.full_like(values, 1 / len(values))
    shares = (weights / weights.sum()).to(values.dtype)
    values = torch.where(shares > 0, values, 0)
    # One that is left out stands at the mean, so that it cannot be the largest.
    return torch.where(shares > 0, values, (shares * values.detach()).sum()), shares


def _chi2_worst(losses: Tensor, shares: Tensor, radius: float) -> Tensor:
    """The distribution q of `chi2_dro`: p max(0, loss - eta), scaled to a sum of 1.

    Where q is positive on the k largest losses, of share P, mean m and variance s^2, it is at the distance rho for
    eta = m - s / sqrt((1 + 2 rho) P - 1). The k is the first at which q, with eta at the next loss, is within rho.
    """
    tiny, eps = torch.finfo(losses.dtype).tiny, torch.finfo(losses.dtype).eps
    top = losses.max()
    scaled = (losses - top) / (top - losses.min()).clamp_min(tiny)  # in [-1, 0]
    x, order = scaled.sort(descending=True)
    p = shares.gather(0, order)
    share, first, second = p.cumsum(0), (p * x).cumsum(0), (p * x.square()).cumsum(0)
    # E (x - eta)_+ and E (x - eta)_+^2 with eta at each x but the largest; 1 + 2 distance is second / first^2.
    share, first, second, eta = share[:-1], first[:-1], second[:-1], x[1:]
    second, first = second - 2 * eta * first + eta.square() * share, first - eta * share
    beyond = (1 + 2 * radius) * first.square() <= second
    # Again from the chosen ones alone: the running sums have lost digits, and may be wrong about the first few.
    rows = torch.arange(len(p), device=p.device)
    taken = rows <= F.pad(beyond * rows[1:], (1, 0)).max()
    # The rest adds up to 0 where all are taken, while 1 - share would be what rounding has left.
    p, rest = torch.where(taken, p, 0), torch.where(taken, 0, p).sum()
    share = p.sum()
    mean = (p * x).sum() / share
    variance = (p * (x - mean).square()).sum() / share
    eta = mean - (variance / (2 * radius * share - rest).clamp_min(tiny)).sqrt()
    # Below the largest loss, for where q stands on it alone.
    q = shares * (scaled - eta.clamp_max(-eps)).clamp_min(0)
    return q / q.sum()
