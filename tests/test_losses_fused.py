"""Losses that are computed piece by piece are what they are computed at once, by value and gradient."""

import math

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


def test_small_tensors_take_the_plain_form_and_large_ones_the_kernels():
    def kernel(x, columns=0):
        return fused.Kernel(torch.clone, torch.neg, lambda g, x: g, columns)(x)

    assert kernel(torch.ones(2**16)).sum() > 0
    assert kernel(torch.ones(2**16 + 1)).sum() < 0
    assert kernel(torch.ones(2**16, 4), 4).sum() > 0
    assert kernel(torch.ones(2**16, 5), 4).sum() < 0


def test_a_gradient_by_what_is_not_the_scores_takes_the_plain_form():
    other = torch.ones(2**17, requires_grad=True)
    found = fused.Kernel(torch.mul, torch.div, lambda g, x, y: g)(torch.full((2**17,), 3.0), other)
    assert torch.autograd.grad(found.sum(), other)[0].unique().item() == 3


@pytest.mark.parametrize(
    ("loss", "slope"),
    [  # at 2, by the target at 1/2: f(2) - f(-2), with f of the margin
        (losses.hinge, 0 - 3),
        (losses.squared_hinge, 0 - 9),
        (losses.modified_huber, 0 - 8),
        (losses.exponential, math.exp(-2) - math.exp(2)),
        (losses.poisson_nll, -2),
        (losses.log_cosh, -math.tanh(1.5)),
    ],
)
@pytest.mark.usefixtures("piece")
def test_targets_get_their_gradient(loss, slope):
    target = torch.full((9,), 0.5, dtype=torch.float64, requires_grad=True)
    x = torch.full((9,), 2.0, dtype=torch.float64)
    for scores in (x, x.clone().requires_grad_()):
        (found,) = torch.autograd.grad(loss(scores, target).sum(), target)
        torch.testing.assert_close(found, torch.full_like(x, slope))


@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's own, at its first use of forward mode
@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize("loss", [losses.hinge, losses.exponential, losses.log_cosh, losses.focal, losses.bi_tempered])
def test_forward_mode_agrees_with_reverse_mode(loss):
    x, truth = torch.randn(9, 3, dtype=torch.float64), torch.rand(9, 3, dtype=torch.float64).round()

    def total(x):
        found = loss(x, truth[:, 0].long())[0] if loss in (losses.focal, losses.bi_tempered) else loss(x, truth)
        return found.sum()

    torch.testing.assert_close(torch.func.jacfwd(total)(x), torch.func.jacrev(total)(x))
    twice = torch.func.jacrev(torch.func.jacrev(total))(x)
    torch.testing.assert_close(torch.func.hessian(total)(x), twice)
