"""Losses for wrong labels against numbers by hand, root-finding, and the losses that they turn into at their limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_checks import equal, mean, same_with_gradient, tensor
from scipy.optimize import brentq

from lossbench.losses import (
    bi_tempered,
    cross_entropy,
    generalized_ce,
    label_smoothing,
    mse_onehot,
    poly1,
    symmetric_ce,
    taylor,
)
from lossbench.losses.tempered import tempered_log_softmax

LOG2 = math.log(2)
P = [[4 / 8, 2 / 8, 1 / 8, 1 / 8], [1 / 8, 4 / 8, 1 / 8, 2 / 8]]
EIGHTHS = tensor(P).log()
IDS = [0, 3]  # so that p_y is 1/2, then 1/4
LOSSES = [poly1, generalized_ce, symmetric_ce, bi_tempered, taylor]
TEMPERATURES = [0.2, 0.5, 0.9, 1.0, 1.05, 1.2, 2.0, 5.0]


# Numbers by hand


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        (poly1, [LOG2 + 1 / 2, 2 * LOG2 + 3 / 4]),
        (lambda x, y: poly1(x, y, epsilon=-1.0), [LOG2 - 1 / 2, 2 * LOG2 - 3 / 4]),
        (generalized_ce, [(1 - 0.5**0.7) / 0.7, (1 - 0.25**0.7) / 0.7]),
        (lambda x, y: generalized_ce(x, y, q=0.5), [2 - math.sqrt(2), 1]),
        (symmetric_ce, [0.1 * LOG2 + 2, 0.2 * LOG2 + 3]),  # 0.1 CE + 4 (1 - p_y)
        (lambda x, y: symmetric_ce(x, y, alpha=6.0, beta=0.1, log_zero=-2.0), [6 * LOG2 + 0.1, 12 * LOG2 + 0.15]),
        # w is 1/2, then 3/4
        (taylor, [1 / 2 + 1 / 8 + 1 / 24 + 1 / 64, 3 / 4 + 9 / 32 + 9 / 64 + 81 / 1024]),
        (lambda x, y: taylor(x, y, c1=0.0, c2=-1.0, c3=4.0, c4=2.0), [0.375, -9 / 16 + 27 / 16 + 81 / 128]),
    ],
)
def test_by_hand(loss, values):
    found = loss(EIGHTHS, torch.tensor(IDS))
    equal(found[0], values)
    equal(found[1], [1, 1])


@pytest.mark.parametrize(
    ("t2", "logits"),
    [
        # exp_t2 of these is P already, so that lambda is 0; a constant more moves lambda alone
        (2.0, lambda p: 1 - 1 / p),
        (0.5, lambda p: 2 * (p.sqrt() - 1)),
        (1.0, lambda p: p.log()),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_bi_tempered_by_hand(t2, logits, shift):
    """t1 = 1 is -log p_y; t1 = 0, where log_t u is u - 1, is half the squared error of p."""
    x, labels = logits(tensor(P)) + shift, torch.tensor(IDS)
    equal(tempered_log_softmax(x, t2), EIGHTHS)
    equal(bi_tempered(x, labels, t1=1.0, t2=t2)[0], [LOG2, 2 * LOG2])
    equal(bi_tempered(x, labels, t1=0.0, t2=t2)[0], [22 / 128, 54 / 128])
    # t1 = 1/2: 2 (1 - sqrt p_y) - 2/3 + 2/3 sum p^1.5
    threes = [sum(q**1.5 for q in row) for row in P]
    expected = [2 * (1 - math.sqrt(p)) - 2 / 3 + 2 / 3 * s for p, s in zip((1 / 2, 1 / 4), threes, strict=True)]
    equal(bi_tempered(x, labels, t1=0.5, t2=t2)[0], expected)


# Loops


def log_t(u, t):
    return math.log(u) if t == 1 else (u ** (1 - t) - 1) / (1 - t)


def exp_t(x, t):
    return math.exp(x) if t == 1 else max(0.0, 1 + (1 - t) * x) ** (1 / (1 - t))


def tempered_softmax(row, t):
    """lambda by bracketing: at the largest logit the sum is at least 1, and far above it less."""
    top = max(row)
    rise = brentq(lambda r: sum(exp_t(v - top - r, t) for v in row) - 1, 0, 1e4, xtol=1e-15, rtol=1e-14)
    return [exp_t(v - top - rise, t) for v in row]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("t1", "t2"), [(0.8, 1.2), (0.0, 2.0), (0.5, 1.0), (1.0, 1.5), (0.8, 4.0), (0.3, 0.7)])
def test_bi_tempered_is_the_loop(logits, labels, t1, t2, smoothing):
    expected = []
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        p = tempered_softmax(row, t2)
        q = [(1 - smoothing) * (c == y) + smoothing / 5 for c in range(5)]
        value = 0.0
        for a, b in zip(q, p, strict=True):
            value -= (a ** (2 - t1) - b ** (2 - t1)) / (2 - t1)
            value += a * (log_t(a, t1) - log_t(b, t1)) if a > 0 else 0.0
        expected.append(value)
    torch.testing.assert_close(
        bi_tempered(logits, labels, t1=t1, t2=t2, label_smoothing=smoothing)[0], tensor(expected), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("classes", [2, 5, 1000])
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0, 1e4])
def test_tempered_probabilities_sum_to_1(g, t, classes, size):
    """Whatever the logits: spread, one far ahead, all equal, or on two levels; in half the digits of the type."""
    noise = torch.randn(30, classes, generator=g, dtype=torch.float64)
    ahead = noise + 5 * F.one_hot(torch.zeros(30, dtype=torch.long), classes)
    for x in (noise, ahead, torch.ones_like(noise), noise.sign()):
        for dtype, tolerance in [(torch.float64, 1e-9), (torch.float32, 1e-4)]:
            total = tempered_log_softmax((size * x).to(dtype), t).exp().sum(1)
            torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=tolerance)


@pytest.mark.parametrize("t1", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("t2", [t for t in TEMPERATURES if t >= 1])
def test_bi_tempered_derivatives_agree_with_differences(logits, labels, t1, t2):
    x = logits[:3].clone().requires_grad_()

    def values(x):
        return bi_tempered(x, labels[:3], t1=t1, t2=t2, label_smoothing=0.1)[0]

    assert torch.autograd.gradcheck(values, x)
    assert torch.autograd.gradgradcheck(values, x, fast_mode=True)


@pytest.mark.parametrize("t2", [t for t in TEMPERATURES if t < 1])
def test_bi_tempered_derivatives_agree_with_differences_where_far_classes_have_nothing(t2):
    x = tensor([[0.0, 0.4, 0.9, -30.0], [0.3, -0.2, 25.0, 0.1]]).requires_grad_()
    assert (tempered_log_softmax(x, t2) == -torch.inf).sum() == 4

    def values(x):
        return bi_tempered(x, torch.tensor([1, 2]), t2=t2)[0]

    assert torch.autograd.gradcheck(values, x)
    assert torch.autograd.gradgradcheck(values, x, fast_mode=True)


# Limits and relations


@pytest.mark.parametrize(
    ("loss", "factor"),
    [
        (lambda x, y: poly1(x, y, epsilon=0.0), 1),
        (lambda x, y: generalized_ce(x, y, q=0.0), 1),
        (lambda x, y: symmetric_ce(x, y, alpha=1.0, beta=0.0), 1),
        (lambda x, y: symmetric_ce(x, y, alpha=3.0, beta=0.0), 3),
        (lambda x, y: bi_tempered(x, y, t1=1.0, t2=1.0), 1),
    ],
)
def test_what_is_cross_entropy(logits, labels, loss, factor):
    labels[::7] = -100
    same_with_gradient(lambda x: mean(loss(x, labels)), lambda x: factor * F.cross_entropy(x, labels), logits)


def test_bi_tempered_at_1_smoothed_is_cross_entropy_less_the_labels_entropy(logits, labels):
    entropy = -0.92 * math.log(0.92) - 4 * 0.02 * math.log(0.02)
    same_with_gradient(
        lambda x: mean(bi_tempered(x, labels, t1=1.0, t2=1.0, label_smoothing=0.1)),
        lambda x: mean(label_smoothing(x, labels, smoothing=0.1)) - entropy,
        logits,
    )


@pytest.mark.parametrize("side", [-1e-6, 1e-6])
def test_cross_entropy_is_also_the_limit(logits, labels, side):
    expected = cross_entropy(logits, labels)[0]
    for found in (generalized_ce(logits, labels, q=abs(side)), bi_tempered(logits, labels, t1=1 - 1e-6, t2=1 + side)):
        torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-4)


def test_what_is_the_absolute_error(logits, labels):
    """sum_c |p_c - [c = y]| = 2 (1 - p_y)."""
    one_hot = F.one_hot(labels, 5).double()
    for loss, factor in [
        (lambda x: generalized_ce(x, labels, q=1.0), 2),
        (lambda x: taylor(x, labels, c2=0.0, c3=0.0, c4=0.0), 2),
        (lambda x: symmetric_ce(x, labels, alpha=0.0, beta=0.5), 1),
    ]:
        same_with_gradient(
            lambda x, loss=loss, k=factor: k * mean(loss(x)),
            lambda x: (x.softmax(1) - one_hot).abs().sum(1).mean(),
            logits,
        )


def test_symmetric_ce_is_both_cross_entropies_with_the_label_clipped(logits, labels):
    clipped = F.one_hot(labels, 5).double().clamp_min(1e-4)
    same_with_gradient(
        lambda x: mean(symmetric_ce(x, labels, alpha=0.3, beta=0.7, log_zero=math.log(1e-4))),
        lambda x: 0.3 * F.cross_entropy(x, labels) - 0.7 * (x.softmax(1) * clipped.log()).sum(1).mean(),
        logits,
    )


def test_taylor_is_the_series_of_cross_entropy_cut_short(logits, labels):
    """What is missing is sum_{k > 4} w^k / k, at most w^5 / (5 (1 - w)); each term more comes nearer."""
    full = cross_entropy(logits, labels)[0]
    w = 1 - logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    short = [taylor(logits, labels, **{f"c{k}": 0.0 for k in range(n + 1, 5)})[0] for n in range(1, 5)]
    for before, after in zip(short, [*short[1:], full], strict=True):
        assert (before < after).all()
    assert (full - short[-1] <= w**5 / (5 * (1 - w)) + 1e-12).all()
    sure = torch.where(F.one_hot(labels, 5) > 0, 12.0, logits.clamp(-3, 3))
    torch.testing.assert_close(taylor(sure, labels)[0], cross_entropy(sure, labels)[0], rtol=1e-9, atol=1e-15)


def test_bi_tempered_at_t1_0_is_half_the_squared_error(logits, labels):
    same_with_gradient(
        lambda x: 2 * mean(bi_tempered(x, labels, t1=0.0, t2=1.0)), lambda x: mean(mse_onehot(x, labels)), logits
    )


# A wrong label costs at most so much, and pulls less the less it is believed


@pytest.mark.parametrize(
    ("loss", "bound"),
    [
        (generalized_ce, 1 / 0.7),
        (lambda x, y: symmetric_ce(x, y, alpha=0.0), 4),
        (bi_tempered, 5),
        (lambda x, y: bi_tempered(x, y, t1=0.5, t2=0.5), 2),
        (taylor, 1 + 1 / 2 + 1 / 3 + 1 / 4),
    ],
)
def test_bounded(loss, bound):
    x = torch.linspace(0, 1e4, 30)[:, None] * torch.tensor([[1.0, -1.0, 0.0]])
    values, _ = loss(x, torch.ones(30, dtype=torch.long))
    assert (values <= bound + 1e-5).all()
    assert values[-1] > 0.6 * bound


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
@pytest.mark.parametrize("right", [True, False])
def test_finite_far_out_in_float32(loss, size, right):
    x = (size * torch.tensor([[1.0, -1.0, 1.0, 0.5]])).requires_grad_()
    values, _ = loss(x, torch.tensor([0 if right else 1]))
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert values.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("t2", TEMPERATURES)
@pytest.mark.parametrize("t1", [0.0, 0.8, 0.99])
def test_bi_tempered_is_finite_far_out_at_every_temperature(t1, t2):
    x = (torch.tensor([1.0, 100.0, 1e4])[:, None] * torch.tensor([[1.0, -1.0, 1.0, 0.5]])).requires_grad_()
    for label in (0, 1):
        values, _ = bi_tempered(x, torch.full((3,), label), t1=t1, t2=t2)
        assert values.isfinite().all()
        assert torch.autograd.grad(values.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("ignored", [-100, 1])
def test_ignored_is_the_subset(logits, labels, loss, ignored):
    kept = labels != 1
    found = loss(logits, labels.where(kept, ignored), ignore_index=ignored)
    assert (found[0][~kept] == 0).all()
    equal(found[1], kept.double())
    equal(mean(found), mean(loss(logits[kept], labels[kept])))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_and_its_gradient_vanish_at_a_perfect_answer(loss):
    x = tensor([[0.0, 300.0, 0.0]]).requires_grad_()
    values, _ = loss(x, torch.tensor([1]), **({"t1": 0.8, "t2": 0.5} if loss is bi_tempered else {}))
    equal(values, [0.0])
    equal(torch.autograd.grad(values.sum(), x)[0], [[0.0, 0.0, 0.0]])
