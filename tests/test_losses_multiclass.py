"""Losses on class ids and soft labels against numbers derived by hand, against torch, and at their limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_checks import equal, mean, same_with_gradient, tensor

from lossbench.losses import (
    adaptive_label_smoothing,
    binary_focal,
    ce_focal,
    cross_entropy,
    focal,
    kl_div,
    label_smoothing,
    mse_onehot,
    multi_margin,
    nll,
    poly1,
    soft_cross_entropy,
    zero_one,
)

LOG2 = math.log(2)
EIGHTHS = torch.log(torch.tensor([[4.0, 2.0, 1.0, 1.0], [1.0, 4.0, 1.0, 2.0]], dtype=torch.float64))  # over 8
IDS = [0, 3]  # so that p_y is 1/2, then 1/4: -log p_y is log 2, then 2 log 2
HALVES = [[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]]
SCORES = tensor([[2.0, 1.5, 0.0, 3.0], [0.0, 0.5, -2.0, 4.0]])
CLASS_WEIGHT = [0.5, 2.0, 1.0, 3.0, 0.0]
ON_IDS = [adaptive_label_smoothing, ce_focal, focal, label_smoothing, mse_onehot, multi_margin, nll, zero_one]


@pytest.fixture
def soft(g):  # (40, 5), with classes that have nothing
    rows = torch.rand(40, 5, generator=g, dtype=torch.float64)
    rows = rows.where(rows > 0.3, 0) + F.one_hot(torch.arange(40) % 5)
    return rows / rows.sum(1, keepdim=True)


# Numbers by hand


@pytest.mark.parametrize(
    ("loss", "values", "weights"),
    [
        (lambda x, y: nll(x.log_softmax(1), y), [LOG2, 2 * LOG2], [1, 1]),
        (lambda x, y: nll(x.log_softmax(1), y, weight=[2.0, 9.0, 9.0, 0.5]), [2 * LOG2, LOG2], [2, 0.5]),
        # (1 - p_y)^2 is 1/4, then 9/16; half of it and half of 1 is 5/8, then 25/32
        (ce_focal, [5 / 8 * LOG2, 25 / 16 * LOG2], [1, 1]),
        (lambda x, y: ce_focal(x, y, alpha=0.2, gamma=1.0), [0.6 * LOG2, 1.6 * LOG2], [1, 1]),
        # eps = 0.1 x (1/2, 3/4); -log2 p of the others is (2, 3, 3), then (3, 1, 3)
        # 0.95 x 1 + 0.05 x 8/3, then 0.925 x 2 + 0.075 x 7/3
        (adaptive_label_smoothing, [(0.95 + 0.4 / 3) * LOG2, 2.025 * LOG2], [1, 1]),
        # the least eps is above 0.1 x 1/2: 0.94 x 1 + 0.06 x 8/3
        (lambda x, y: adaptive_label_smoothing(x, y, min_smoothing=0.06), [1.1 * LOG2, 2.025 * LOG2], [1, 1]),
        # (1/2, 1/4, 1/8, 1/8) against class 0, (1/8, 1/2, 1/8, 1/4) against class 3, in 64ths
        (mse_onehot, [(16 + 4 + 1 + 1) / 64, (1 + 16 + 1 + 36) / 64], [1, 1]),
        (zero_one, [0, 1], [1, 1]),
        (lambda x, y: zero_one(x, y, ignore_index=3), [0, 0], [1, 0]),
    ],
)
def test_by_hand(loss, values, weights):
    found = loss(EIGHTHS, torch.tensor(IDS))
    equal(found[0], values)
    equal(found[1], weights)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        # margin - x_y + x_c: (0.5, -1, 2), then (1.5, -1, 5); over 4 classes
        ({}, [2.5 / 4, 6.5 / 4]),
        ({"p": 2}, [4.25 / 4, 27.25 / 4]),
        ({"margin": 2.0}, [4.5 / 4, 8.5 / 4]),  # (1.5, 0, 3), then (2.5, 0, 6)
        ({"weight": [2.0, 9.0, 9.0, 9.0]}, [5 / 4, 13 / 4]),
    ],
)
def test_multi_margin_by_hand(options, values):
    found = multi_margin(SCORES, torch.tensor([0, 0]), **options)
    equal(found[0], values)
    equal(found[1], [1, 1])  # class weights scale the values only


def test_soft_labels_by_hand():
    """Half on a class with p = 1/2, half on one with p = 1/8: (1 + 3) / 2 x log 2; their own entropy is log 2."""
    soft = tensor(HALVES)
    equal(soft_cross_entropy(EIGHTHS, soft), [2 * LOG2, 2 * LOG2])
    equal(soft_cross_entropy(EIGHTHS, soft, weight=[2.0, 0.0, 1.0, 0.0]), [LOG2, 1.5 * LOG2])
    # 0.6 x 2 + 0.4 x (1 + 2 + 3 + 3) / 4
    equal(soft_cross_entropy(EIGHTHS, soft, label_smoothing=0.4), [2.1 * LOG2, 2.1 * LOG2])
    equal(kl_div(EIGHTHS, soft), [LOG2, LOG2])
    equal(kl_div(EIGHTHS, EIGHTHS.softmax(1)), [0, 0])


# torch


@pytest.mark.parametrize("ignored", [-100, 2])
@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
def test_nll_is_torchs_with_its_mean(logits, labels, weight, ignored):
    labels[::7] = ignored
    options = {"ignore_index": ignored}
    same_with_gradient(
        lambda x: mean(nll(x, labels, weight=weight, **options)),
        lambda x: F.nll_loss(x, labels, weight=tensor(weight), **options),
        logits.log_softmax(1),
    )


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
@pytest.mark.parametrize("margin", [1.0, 0.3])
@pytest.mark.parametrize("p", [1, 2])
def test_multi_margin_is_torchs_with_its_mean(logits, labels, p, margin, weight):
    """torch divides by the number of examples, also where the classes have weights."""
    same_with_gradient(
        lambda x: mean(multi_margin(x, labels, p=p, margin=margin, weight=weight)),
        lambda x: F.multi_margin_loss(x, labels, p=p, margin=margin, weight=tensor(weight)),
        logits,
    )


def test_kl_div_is_torchs_batchmean(logits, soft):
    same_with_gradient(
        lambda x: mean(kl_div(x, soft)),
        lambda x: F.kl_div(x.log_softmax(1), soft, reduction="batchmean"),
        logits,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
def test_soft_cross_entropy_is_torchs_with_its_mean(logits, soft, weight, smoothing):
    same_with_gradient(
        lambda x: mean(soft_cross_entropy(x, soft, weight=weight, label_smoothing=smoothing)),
        lambda x: F.cross_entropy(x, soft, weight=tensor(weight), label_smoothing=smoothing),
        logits,
    )


def test_mse_onehot_is_torchs_squared_error_summed_over_classes(logits, labels):
    one_hot = F.one_hot(labels, 5).double()
    same_with_gradient(
        lambda x: mean(mse_onehot(x, labels)),
        lambda x: F.mse_loss(x.softmax(1), one_hot, reduction="sum") / len(labels),
        logits,
    )


def test_what_sees_p_y_alone_has_cross_entropys_values_and_derivatives(logits, labels):
    """poly1 at epsilon 0 is nothing but the shared -log p_y, here against torch's, to the second derivative."""
    labels[::7] = -100
    same_with_gradient(lambda x: mean(poly1(x, labels, epsilon=0.0)), lambda x: F.cross_entropy(x, labels), logits)
    second = [
        torch.autograd.functional.hessian(loss, logits[:3])
        for loss in (
            lambda x: poly1(x, labels[:3], epsilon=0.0)[0].square().sum(),
            lambda x: F.cross_entropy(x, labels[:3], reduction="none").square().sum(),
        )
    ]
    equal(*second)


def test_what_sees_p_y_alone_can_be_stacked_and_differentiated_twice(logits, labels):
    x, y = logits.view(2, 20, 5), labels.view(2, 20)

    def curvature(function):
        def one(x, y):
            return function(x[None], y[None]).sum()

        return torch.func.vmap(torch.func.vmap(torch.func.jacrev(torch.func.jacrev(one))))(x, y)

    equal(
        curvature(lambda x, y: poly1(x, y, epsilon=0.0)[0]),
        curvature(lambda x, y: F.cross_entropy(x, y, reduction="none")),
    )


# Limits and relations


def test_ce_focal_is_the_sum_of_the_two(logits, labels):
    for alpha in (0.0, 0.3, 1.0):
        same_with_gradient(
            lambda x, a=alpha: mean(ce_focal(x, labels, alpha=a, gamma=1.5)),
            lambda x, a=alpha: a * mean(cross_entropy(x, labels)) + (1 - a) * mean(focal(x, labels, gamma=1.5)),
            logits,
        )


def test_adaptive_smoothing_is_smoothing_of_the_others_with_eps_held_fixed(logits, labels):
    """With base 0 it is one eps for all; else each example has its own, and no gradient flows through it."""
    same_with_gradient(
        lambda x: mean(adaptive_label_smoothing(x, labels, base=0.0, min_smoothing=0.2)),
        lambda x: mean(label_smoothing(x, labels, smoothing=0.2, others_only=True)),
        logits,
    )
    p_y = logits.softmax(1).gather(1, labels[:, None])
    eps = (0.4 * (1 - p_y)).clamp_min(0.05)
    assert 0 < (eps == 0.05).sum() < 40
    target = (eps / 4).expand(40, 5).scatter(1, labels[:, None], 1 - eps)
    same_with_gradient(
        lambda x: mean(adaptive_label_smoothing(x, labels, base=0.4, min_smoothing=0.05)),
        lambda x: F.cross_entropy(x, target),
        logits,
    )


def test_one_hot_rows_are_class_ids(logits, labels):
    one_hot = F.one_hot(labels, 5).double()
    for loss in (soft_cross_entropy, kl_div, cross_entropy):
        same_with_gradient(lambda x, loss=loss: mean(loss(x, one_hot)), lambda x: F.cross_entropy(x, labels), logits)


def test_nll_on_log_softmax_is_cross_entropy(logits, labels):
    same_with_gradient(lambda x: mean(nll(x.log_softmax(1), labels)), lambda x: F.cross_entropy(x, labels), logits)


def test_the_gradient_of_mse_fades_where_the_softmax_is_sure_of_the_wrong_class_and_cross_entropys_does_not():
    logits, label = tensor([[20.0, 0.0]]), torch.tensor([1])
    size = {}
    for loss in (mse_onehot, cross_entropy):
        x = logits.clone().requires_grad_()
        size[loss] = torch.autograd.grad(mean(loss(x, label)), x)[0].abs().max().item()
    assert size[cross_entropy] == pytest.approx(1, rel=1e-6)
    assert size[mse_onehot] < 1e-7


def test_zero_one_says_why_it_cannot_train():
    assert "gradient is 0" in zero_one.not_differentiable
    assert not zero_one(EIGHTHS.clone().requires_grad_(), torch.tensor(IDS))[0].requires_grad


@pytest.mark.parametrize("ignored", [-100, 1])
@pytest.mark.parametrize("loss", ON_IDS)
def test_ignored_is_the_subset(logits, labels, loss, ignored):
    kept = labels != 1
    found = loss(logits, labels.where(kept, ignored), ignore_index=ignored)
    assert (found[0][~kept] == 0).all()
    equal(found[1], kept.double())
    equal(mean(found), mean(loss(logits[kept], labels[kept])))


@pytest.mark.parametrize("loss", ON_IDS)
def test_a_batch_that_is_all_ignored_is_nan_as_in_torch(logits, loss):
    assert mean(loss(logits, torch.full((40,), -100))).isnan()


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda x, y: ce_focal(x, y)[0], [2e4]),
        (lambda x, y: adaptive_label_smoothing(x, y)[0], [0.9 * 2e4]),
        (lambda x, y: multi_margin(x, y)[0], [(2e4 + 1) / 2]),
        (lambda x, y: multi_margin(x, y, p=2)[0], [(2e4 + 1) ** 2 / 2]),
        (lambda x, y: mse_onehot(x, y)[0], [2]),
        (lambda x, y: kl_div(x, F.one_hot(y, 2).to(x.dtype)), [2e4]),
        (lambda x, y: soft_cross_entropy(x, F.one_hot(y, 2).to(x.dtype)), [2e4]),
    ],
)
def test_far_out_by_hand(found, expected):
    equal(found(tensor([[1e4, -1e4]]), torch.tensor([1])), expected)


def test_half_precision_is_computed_in_float32():
    logits, labels = EIGHTHS.bfloat16(), torch.tensor(IDS)
    assert focal(logits, labels)[0].dtype == torch.float32
    equal(focal(logits, labels)[0], focal(logits.float(), labels)[0])


@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.5])
def test_the_second_derivative_of_focal_is_finite_where_the_model_is_sure(gamma):
    x = torch.tensor([[20.0, -20.0], [200.0, -200.0]], requires_grad=True)
    (first,) = torch.autograd.grad(focal(x, torch.tensor([0, 0]), gamma=gamma)[0].sum(), x, create_graph=True)
    assert torch.autograd.grad(first[:, 0].sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("weight", [None, [0.3, 0.7]])
@pytest.mark.parametrize("loss", [cross_entropy, nll, label_smoothing])
def test_the_weights_of_the_mean_add_up_in_half_precision(loss, weight):
    """70000 is above the largest half."""
    values, weights = loss(torch.full((70000, 2), -LOG2).half(), torch.arange(70000) % 2, weight=weight)
    assert weights.dtype == torch.float32
    assert (values.sum() / weights.sum()).item() == pytest.approx(LOG2, rel=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        scores = torch.zeros(2, 2) @ torch.zeros(2, 2)
        found = loss(scores, torch.tensor([0, 1]), weight=[0.3, 0.7])[1]
    assert found.tolist() == pytest.approx([0.3, 0.7])


def test_the_weights_of_what_is_counted_add_up_in_half_precision():
    assert mean(zero_one(torch.zeros(70000, 2).half(), torch.zeros(70000).long())) == 0
    values, weights = zero_one(torch.zeros(70000, 2).half(), torch.ones(70000).long())
    assert values.sum() / weights.sum() == 1


def test_a_number_for_alpha_makes_no_tensor(monkeypatch):
    """On another device that would be a copy for which the host waits, in every step."""
    calls = []
    monkeypatch.setattr(torch, "as_tensor", lambda *args, **kwargs: calls.append(args))
    focal(torch.zeros(2, 3), torch.tensor([0, 1]), alpha=0.25)
    binary_focal(torch.zeros(2), torch.ones(2))
    assert not calls
