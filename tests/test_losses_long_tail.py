"""Long-tail losses against numbers by hand, a plain loop, and the losses that they turn into at their limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from loss_checks import equal, mean, same_with_gradient, tensor

from lossbench.losses import balanced_softmax, cross_entropy, ldam, logit_adjusted

LOSSES = [logit_adjusted, balanced_softmax, ldam]
COUNTS = [256.0, 16.0, 1.0, 81.0, 16.0]
CLASS_WEIGHT = [0.5, 2.0, 1.0, 3.0, 0.0]


@pytest.fixture
def logits(g):  # (40, 5)
    return torch.randn(40, 5, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        # without logits, p is the share itself: 4/8, then 1/8
        (logit_adjusted, [math.log(2), math.log(8)]),
        (balanced_softmax, [math.log(2), math.log(8)]),
        # tau 2 squares the shares: 16, 4, 1, 1 of 22
        (lambda *fields: logit_adjusted(*fields, tau=2.0), [math.log(22 / 16), math.log(22)]),
        # a margin of 0.5 for the rarest, 0.5 / 4^(1/4) = 0.5 / sqrt 2 for four times as many: the true logit falls
        # to -s m, so the loss is log(1 + 3 e^(s m))
        (lambda *fields: ldam(*fields, scale=1.0), [math.log1p(3 * math.exp(m)) for m in (0.5 / math.sqrt(2), 0.5)]),
        (lambda *fields: ldam(*fields, scale=4.0), [math.log1p(3 * math.exp(m)) for m in (2 / math.sqrt(2), 2)]),
        (
            lambda *fields: ldam(*fields, scale=10.0, max_margin=0.1),
            [math.log1p(3 * math.exp(m)) for m in (0.5**0.5, 1)],
        ),
    ],
)
def test_by_hand(loss, values):
    found = loss(torch.zeros(2, 4, dtype=torch.float64), torch.tensor([0, 3]), tensor([4.0, 2.0, 1.0, 1.0]))
    equal(found[0], values)
    equal(found[1], [1, 1])


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
@pytest.mark.parametrize(("scale", "max_margin"), [(30.0, 0.5), (2.0, 1.5)])
def test_ldam_is_the_loop(logits, labels, scale, max_margin, weight):
    labels[::6] = 2
    w = weight or [1.0] * 5
    margins = [max_margin * m for m in (1 / 4, 1 / 2, 1, 1 / 3, 1 / 2)]  # n^(-1/4)
    total, seen = 0.0, 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        if y == 2:
            continue
        row = [scale * (v - margins[y] * (c == y)) for c, v in enumerate(row)]
        top = max(row)
        total += w[y] * (top + math.log(sum(math.exp(v - top) for v in row)) - row[y])
        seen += w[y]
    options = {"scale": scale, "max_margin": max_margin, "weight": weight}
    found = mean(ldam(logits, labels, tensor(COUNTS), ignore_index=2, **options))
    assert found.item() == pytest.approx(total / seen, rel=1e-9)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0])
def test_logit_adjusted_is_cross_entropy_on_logits_plus_tau_log_prior(logits, labels, tau):
    prior = tensor(COUNTS) / sum(COUNTS)
    same_with_gradient(
        lambda x: mean(logit_adjusted(x, labels, tensor(COUNTS), tau=tau)),
        lambda x: F.cross_entropy(x + tau * prior.log(), labels),
        logits,
    )


def test_balanced_softmax_is_logit_adjustment_at_tau_1_and_weighs_the_exponentials(logits, labels):
    counts = tensor(COUNTS)
    weighed = counts * logits.exp()
    by_definition = -(weighed / weighed.sum(1, keepdim=True)).log().gather(1, labels[:, None]).squeeze(1)
    equal(balanced_softmax(logits, labels, counts)[0], by_definition)
    equal(balanced_softmax(logits, labels, counts)[0], logit_adjusted(logits, labels, counts, tau=1.0)[0])


@pytest.mark.parametrize(
    "loss",
    [
        lambda *fields: logit_adjusted(*fields, tau=0.0),
        lambda *fields: ldam(*fields, max_margin=0.0, scale=1.0),
        lambda x, y, n: balanced_softmax(x, y, torch.full_like(n, 7.0)),
    ],
)
def test_what_is_cross_entropy(logits, labels, loss):
    labels[::7] = -100
    same_with_gradient(lambda x: mean(loss(x, labels, tensor(COUNTS))), lambda x: F.cross_entropy(x, labels), logits)


def test_the_prior_is_what_equal_logits_already_fit():
    """With as many labels as counted, a model without inputs is best at equal logits: no gradient there."""
    counts = torch.tensor([5.0, 3.0, 1.0], dtype=torch.float64)
    labels = torch.repeat_interleave(torch.arange(3), counts.long())
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    value = mean(logit_adjusted(bias.expand(9, 3), labels, counts))
    equal(torch.autograd.grad(value, bias)[0], [0, 0, 0])


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_ratios_of_the_counts_matter(logits, labels, loss):
    equal(loss(logits, labels, tensor(COUNTS))[0], loss(logits, labels, 3 * tensor(COUNTS))[0])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_class_without_examples_counts_as_one_with_1(logits, labels, loss):
    some, none = tensor([50.0, 3.0, 1.0, 9.0, 1.0]), tensor([50.0, 3.0, 0.0, 9.0, 0.0])
    equal(loss(logits, labels, none)[0], loss(logits, labels, some)[0])
    x = logits.clone().requires_grad_()
    assert torch.autograd.grad(loss(x, labels, none)[0].sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("label", [0, 1])
def test_finite_far_out_in_float32(loss, label):
    x = torch.tensor([[1e4, -1e4, 1e4]], requires_grad=True)
    values, _ = loss(x, torch.tensor([label]), torch.tensor([1e6, 0.0, 10.0]))
    assert values.isfinite().all()
    assert torch.autograd.grad(values.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(logits, labels, loss, kind):
    """Counts that it cannot hold, and logits that it cannot multiply by 30, included."""
    half, counts = (3000 * logits).to(kind), torch.tensor([70000.0, 5.0, 1.0, 300.0, 9.0])
    found, _ = loss(half, labels, counts)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found, loss(half.float(), labels, counts)[0], rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("ignored", [-100, 1])
def test_ignored_is_the_subset(logits, labels, loss, ignored):
    kept, counts = labels != 1, tensor(COUNTS)
    found = loss(logits, labels.where(kept, ignored), counts, ignore_index=ignored)
    assert (found[0][~kept] == 0).all()
    equal(found[1], kept.double())
    equal(mean(found), mean(loss(logits[kept], labels[kept], counts)))


def test_ldam_changes_neither_the_logits_nor_the_counts(logits, labels):
    """It works in place, on a tensor of its own."""
    counts = tensor(COUNTS)
    before = logits.clone(), counts.clone()
    for scale in (1.0, 30.0):
        ldam(logits, labels, counts, scale=scale)
    assert logits.equal(before[0])
    assert counts.equal(before[1])


def test_counts_need_not_match_the_logits_in_type(logits, labels):
    counts = torch.tensor(COUNTS)  # float32
    for loss in LOSSES:
        found, _ = loss(logits, labels, counts)
        assert found.dtype == torch.float64
        equal(found, loss(logits, labels, counts.double())[0])
    weighted = ldam(logits, labels, counts, weight=CLASS_WEIGHT, max_margin=0.0, scale=1.0)
    for a, b in zip(weighted, cross_entropy(logits, labels, weight=CLASS_WEIGHT), strict=True):
        equal(a, b)
