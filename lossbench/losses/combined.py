"""What the losses put together from others are made of: penalties on the parameters, and learned weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lossbench.losses.shape import exp_linear


def l1(parameters: Sequence[Tensor]) -> Tensor:  # -> ()
    """The sum of the absolute values of all weights, which pulls many of them to exactly 0; Tibshirani 1996."""
    return _total([p.abs().sum() for p in parameters])


def l2(parameters: Sequence[Tensor], *, squared: bool = True) -> Tensor:  # -> ()
    """The sum of the squares of all weights (Hoerl and Kennard 1970).

    Not `squared`: the sum of the tensors' 2-norms, as tutorials have it. It is another penalty: it pulls a whole tensor
    to 0 with a constant force. Its gradient at a tensor of zeros is 0.
    """
    if squared:
        return _total([p.square().sum() for p in parameters])
    return _total([torch.linalg.vector_norm(p) for p in parameters])


def _total(of_each: list[Tensor]) -> Tensor:
    if not of_each:
        raise ValueError("no weights to penalise: the model has no parameters of two or more dimensions")
    return torch.stack(of_each).sum()


class Uncertainty(nn.Module):
    """Learned weights of several losses, sum_k L_k / (2 sigma_k^2) + log sigma_k, with s_k = log sigma_k^2 learned.

    A loss that stays large is given less weight; log sigma_k keeps the weights from falling to 0. For a fixed L_k the
    best sigma_k^2 is L_k, so the losses must be positive.

    Source: Kendall, Gal and Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses". They give a
    cross-entropy the coefficient 1 / sigma^2: only the size of its sigma differs.
    """

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(terms))

    def forward(self) -> tuple[Tensor, Tensor]:  # -> (K,), ()
        """The coefficients of the losses, and the penalty to add: total = (coefficients * losses).sum() + penalty."""
        return 0.5 * exp_linear(-self.log_variances), 0.5 * self.log_variances.sum()
