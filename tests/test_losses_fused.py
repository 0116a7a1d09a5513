"""Losses that are computed piece by piece are what they are computed at once, by value and gradient."""

import pytest
import torch
import torch.nn.functional as F
from loss_checks import mean, same_with_gradient

from lossbench import losses
from lossbench.losses import fused


@pytest.fixture(params=[1, 7, 2**16])
def piece(request, monkeypatch):
    """So many numbers at once: less than a row, a part of the rows, all."""
    monkeypatch.setattr(fused, "CACHED", request.param)
    torch.manual_seed(0)


@pytest.mark.usefixtures("piece")
def test_class_ids():
    logits, labels = 4 * torch.randn(9, 3, dtype=torch.float64), torch.tensor([0, 1, 2, -100, 2, 1, 0, 0, -100])
    same_with_gradient(lambda x: mean(losses.focal(x, labels, gamma=0.0)), lambda x: F.cross_entropy(x, labels), logits)


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("shape", [(9,), (9, 3)])
def test_elementwise(shape):
    x, targets = 2 * torch.randn(shape, dtype=torch.float64), torch.rand(shape).double()
    same_with_gradient(
        lambda x: mean(losses.exponential(x, targets)),
        lambda x: (targets * torch.exp(-x) + (1 - targets) * torch.exp(x)).mean(),
        x,
    )
    same_with_gradient(lambda x: mean(losses.log_cosh(x, targets)), lambda x: (x - targets).cosh().log().mean(), x)


@pytest.mark.usefixtures("piece")
def test_inputs_may_lie_in_memory_in_any_order():
    x, labels = torch.randn(3, 9, dtype=torch.float64), torch.arange(9) % 3
    same_with_gradient(
        lambda x: mean(losses.poly1(x.T, labels, epsilon=0.0)), lambda x: F.cross_entropy(x.T, labels), x
    )
    same_with_gradient(lambda x: mean(losses.log_cosh(x.T, 0 * x.T)), lambda x: x.cosh().log().mean(), x)


def test_a_torch_kernel_has_the_gradient_of_the_plain_form():
    torch.manual_seed(0)
    logits, labels = torch.randn(9, 4, dtype=torch.float64, requires_grad=True), torch.arange(9) % 4
    hot = (torch.rand(9, 4) < 0.5).double()
    for loss in (
        lambda x: losses.multi_margin(x, labels)[0],
        lambda x: losses.multi_margin(x, labels, p=2)[0],
        lambda x: losses.multilabel_margin(x, hot),
    ):
        (kernel,) = torch.autograd.grad(loss(logits).sum(), logits)
        (plain,) = torch.autograd.grad(loss(logits).sum(), logits, create_graph=True)
        torch.testing.assert_close(kernel, plain)
