"""The losses on 0/1 targets and on several labels: by hand, against torch and scikit-learn, and against plain loops."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from loss_checks import equal, mean, same_with_gradient, tensor
from sklearn.metrics import hinge_loss
from torch.func import vmap
from torchvision.ops import sigmoid_focal_loss

from lossbench.losses import (
    asymmetric,
    bce,
    bce_probs,
    binary_focal,
    exponential,
    hinge,
    modified_huber,
    multilabel_margin,
    multilabel_soft_margin,
    soft_margin,
    squared_hinge,
)
from lossbench.losses.marks import negatives_per_positive, share_of_negatives

LOG2, LOG3 = math.log(2), math.log(3)
SCORES, SIDES = [0.5, -2.0, 3.0, 1.0], [1.0, 1.0, 0.0, 0.0]  # y s is 0.5, -2, -3, -1
QUARTERS = tensor([LOG3, LOG3, -LOG3])  # sigmoid: 3/4, 3/4, 1/4
YES_NO = tensor([1.0, 0.0, 1.0])

BY_MARGIN = [hinge, squared_hinge, modified_huber, exponential, soft_margin]
ON_LOGITS = [*BY_MARGIN, asymmetric, bce, binary_focal]
ON_LABELS = [multilabel_margin, multilabel_soft_margin]


def bce_of_sigmoid(logits, targets):
    return bce_probs(logits.sigmoid(), targets)


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def scores(g):  # (40, 5)
    return 3 * torch.randn(40, 5, generator=g, dtype=torch.float64)


@pytest.fixture
def targets(g):  # (40, 5)
    return torch.randint(2, (40, 5), generator=g).double()


@pytest.fixture
def soft(g):  # (40, 5)
    return torch.rand(40, 5, generator=g, dtype=torch.float64)


# Numbers by hand


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        (hinge, [0.5, 3, 4, 2]),  # 1 - y s
        (lambda x, t: hinge(x, t, margin=2.0), [1.5, 4, 5, 3]),
        (lambda x, t: hinge(x, t, margin=0.0), [0, 2, 3, 1]),
        (squared_hinge, [0.25, 9, 16, 4]),
        (lambda x, t: squared_hinge(x, t, margin=0.5), [0, 6.25, 12.25, 2.25]),
        (modified_huber, [0.25, 8, 12, 4]),  # -4 y s from y s = -1, where both forms are 4
        (exponential, [math.exp(-0.5), math.exp(2), math.exp(3), math.e]),
        (soft_margin, [math.log1p(math.exp(z)) for z in (-0.5, 2, 3, 1)]),
    ],
)
def test_by_margin_by_hand(loss, values):
    equal(loss(tensor(SCORES), tensor(SIDES)), values)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        # p is 3/4, 3/4, 1/4. Positives: (1 - p)^1 x -log p. The negative: q = 0.7, 0.7^4 x -log 0.3
        ({}, [math.log(4 / 3) / 4, -(0.7**4) * math.log(0.3), 1.5 * LOG2]),
        # The negative: q = 1/2, (1/2)^2 log 2
        ({"gamma_neg": 2.0, "clip": 0.25}, [math.log(4 / 3) / 4, LOG2 / 4, 1.5 * LOG2]),
        ({"gamma_pos": 0.0, "clip": 0.75}, [math.log(4 / 3), 0, 2 * LOG2]),  # q = 0: the negative costs nothing
        ({"gamma_pos": 0.0, "gamma_neg": 0.0, "clip": 0.8}, [math.log(4 / 3), 0, 2 * LOG2]),
        ({"gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.0}, [math.log(4 / 3), 2 * LOG2, 2 * LOG2]),  # is bce
    ],
)
def test_asymmetric_by_hand(options, values):
    equal(asymmetric(QUARTERS, YES_NO, **options), values)


def test_bce_probs_by_hand():
    equal(bce_probs(tensor([0.75, 0.75, 0.25]), YES_NO), [math.log(4 / 3), 2 * LOG2, 2 * LOG2])
    equal(bce_probs(tensor([0.0, 0.0, 1.0, 1.0]), tensor([0.0, 1.0, 0.0, 1.0])), [0, 100, 100, 0])


def test_multilabel_by_hand():
    """Labels 0 and 2 hold. Pairs with 1: 1 - (1 - 0.5) = 0.5 and 1 - (-1 - 0.5) = 2.5, in all 3, over 3 labels."""
    scores, hot = tensor([[1.0, 0.5, -1.0]]), tensor([[1.0, 0.0, 1.0]])
    equal(multilabel_margin(scores, hot), [1.0])
    equal(multilabel_margin(scores, torch.ones_like(hot)), [0.0])
    equal(multilabel_margin(scores, torch.zeros_like(hot)), [0.0])
    costs = [math.log(4 / 3), 2 * LOG2, 2 * LOG2]
    equal(multilabel_soft_margin(QUARTERS[None], YES_NO[None]), [sum(costs) / 3])
    equal(multilabel_soft_margin(QUARTERS[None], YES_NO[None], weight=[3.0, 0.0, 6.0]), [costs[0] + 2 * costs[2]])


# torch, torchvision and scikit-learn


def test_soft_margin_is_torchs_and_bce(scores, targets):
    same_with_gradient(
        lambda x: mean(soft_margin(x, targets)), lambda x: F.soft_margin_loss(x, 2 * targets - 1), scores
    )
    equal(soft_margin(scores, targets), bce(scores, targets))


@pytest.mark.parametrize("margin", [1.0, 0.5])
def test_hinge_is_scikit_learns(scores, targets, margin):
    x, y = scores[:, 0], targets[:, 0]
    equal(mean(hinge(x, y, margin=margin)), margin * hinge_loss(y.numpy(), x.numpy() / margin))


@pytest.mark.parametrize("soft_targets", [False, True])
def test_bce_probs_is_torchs(scores, targets, soft, soft_targets):
    wanted = soft if soft_targets else targets
    same_with_gradient(
        lambda p: mean(bce_probs(p, wanted)), lambda p: F.binary_cross_entropy(p, wanted), scores.sigmoid()
    )


def test_bce_probs_has_torchs_gradients_at_0_and_1():
    probs, wanted = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    same_with_gradient(
        lambda p: bce_probs(p, wanted).sum(), lambda p: F.binary_cross_entropy(p, wanted, reduction="sum"), probs
    )
    x = torch.tensor([1e4, -1e4], requires_grad=True)
    (first,) = torch.autograd.grad(bce_probs(x.sigmoid(), torch.tensor([0.0, 1.0])).sum(), x, create_graph=True)
    assert first.isfinite().all()
    assert torch.autograd.grad(first.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_bce_probs_takes_halves(dtype):
    """In their own type, 1 - p could not be told from 0; torch's kernel is refused under autocast on CUDA."""
    probs = torch.tensor([0.25, 0.5, 1.0], dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = bce_probs(probs, torch.tensor([1.0, 0.0, 1.0], dtype=dtype))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([2 * LOG2, LOG2, 0])


def padded(hot):
    """The ids of the labels that hold, then -1, as torch wants them."""
    rows = [row.nonzero()[:, 0].tolist() for row in hot]
    return torch.tensor([ids + [-1] * (hot.shape[1] - len(ids)) for ids in rows])


def test_multilabel_margin_is_torchs(scores, targets):
    same_with_gradient(
        lambda x: mean(multilabel_margin(x, targets)),
        lambda x: F.multilabel_margin_loss(x, padded(targets)),
        scores,
    )
    equal(
        multilabel_margin(scores, targets), F.multilabel_margin_loss(scores, padded(targets), reduction="none").tolist()
    )


def test_multilabel_margin_is_the_loop(scores, targets):
    expected = [
        sum(max(0, 1 - (row[j] - row[i])) for j in range(5) for i in range(5) if hot[j] == 1 and hot[i] == 0) / 5
        for row, hot in zip(scores.tolist(), targets.tolist(), strict=True)
    ]
    equal(multilabel_margin(scores, targets), expected)


@pytest.mark.parametrize("weight", [None, [0.5, 2.0, 1.0, 3.0, 0.0]])
def test_multilabel_soft_margin_is_torchs(scores, targets, weight):
    same_with_gradient(
        lambda x: mean(multilabel_soft_margin(x, targets, weight=weight)),
        lambda x: F.multilabel_soft_margin_loss(x, targets, weight=tensor(weight)),
        scores,
    )
    if weight is None:
        equal(multilabel_soft_margin(scores, targets), bce(scores, targets))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_asymmetric_that_is_even_is_the_focal_loss(scores, targets, gamma):
    same_with_gradient(
        lambda x: mean(asymmetric(x, targets, gamma_neg=gamma, gamma_pos=gamma, clip=0.0)),
        lambda x: sigmoid_focal_loss(x, targets, alpha=-1, gamma=gamma, reduction="mean"),
        scores,
    )


@pytest.mark.parametrize("clip", [0.05, 0.2])
def test_asymmetric_is_the_papers(scores, targets, clip):
    def paper(x):
        p = x.sigmoid()
        shifted = (p - clip).clamp_min(0)
        positive, negative = (1 - p) ** 1.5 * p.log(), shifted**3 * (1 - shifted).log()
        return -(targets * positive + (1 - targets) * negative).mean()

    same_with_gradient(lambda x: mean(asymmetric(x, targets, gamma_neg=3.0, gamma_pos=1.5, clip=clip)), paper, scores)


def test_detach_focus_keeps_the_value_and_takes_the_factors_as_constants(scores, targets):
    p = scores.sigmoid()
    shifted = (p - 0.05).clamp_min(0)
    factors = targets * (1 - p) + (1 - targets) * shifted**4

    def constant(x):
        kept = (1 - (x.sigmoid() - 0.05).clamp_min(0)).log()
        return -(factors * (targets * F.logsigmoid(x) + (1 - targets) * kept)).mean()

    same_with_gradient(lambda x: mean(asymmetric(x, targets, detach_focus=True)), constant, scores)
    equal(asymmetric(scores, targets, detach_focus=True), asymmetric(scores, targets))


# Targets between 0 and 1, several labels, weights per label


@pytest.mark.parametrize("loss", [*BY_MARGIN, asymmetric, bce])
def test_a_target_between_is_the_mean_over_both_labels(loss, scores, soft):
    one = scores[:, 0]
    both = soft[:, 0] * loss(one, torch.ones_like(one)) + (1 - soft[:, 0]) * loss(one, torch.zeros_like(one))
    equal(loss(one, soft[:, 0]), both)


@pytest.mark.parametrize(
    ("loss", "best"),
    [
        (bce, math.log(0.7 / 0.3)),  # the log-odds
        (soft_margin, math.log(0.7 / 0.3)),
        (exponential, math.log(0.7 / 0.3) / 2),  # half of them
        (modified_huber, 0.4),  # (s + 1) / 2 = 0.7
        (squared_hinge, 0.4),
        (hinge, 1.0),  # the side alone
    ],
)
def test_what_the_best_logit_says_of_the_probability(loss, best):
    """With the label 1 in 70 % of cases, the loss is least at the logit that the card names."""
    s = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    assert s[loss(s, torch.full_like(s, 0.7)).argmin()].item() == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("loss", [*ON_LOGITS, bce_of_sigmoid])
def test_several_labels_give_their_mean(loss, scores, targets):
    equal(loss(scores, targets), [loss(x, t).mean() for x, t in zip(scores, targets, strict=True)])


@pytest.mark.parametrize(
    ("loss", "name", "balanced"),
    [(bce, "pos_weight", negatives_per_positive), (binary_focal, "alpha", share_of_negatives)],
)
def test_one_weight_per_label(loss, name, balanced, scores, targets):
    """A list, a tensor, or what `balanced` stands for: each label by its own."""
    by_label = balanced(targets, 2)
    columns = [loss(scores[:, k], targets[:, k], **{name: w}) for k, w in enumerate(by_label.tolist())]
    expected = torch.stack(columns, 1).mean(1)
    equal(loss(scores, targets, **{name: by_label}), expected)
    equal(loss(scores, targets, **{name: by_label.tolist()}), expected)


# Far out, at corners, and in higher derivatives


@pytest.mark.parametrize(
    ("loss", "wrong", "slope"),
    [
        (hinge, 1e4 + 1, 1),
        (squared_hinge, 100020001, 20002),
        (modified_huber, 4e4, 4),
        (soft_margin, 1e4, 1),
        (exponential, math.exp(30) * 9971, math.exp(30)),
        (bce, 1e4, 1),
        (lambda x, t: asymmetric(x, t, gamma_pos=0.0, gamma_neg=0.0, clip=0.0), 1e4, 1),
    ],
)
def test_far_out_by_hand_in_float32(loss, wrong, slope):
    """Confident and wrong costs what the mathematics says, confident and right nothing."""
    x = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    values = loss(x, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert values.tolist() == pytest.approx([wrong, wrong, 0, 0], rel=1e-6)
    assert gradient.tolist() == pytest.approx([slope, -slope, 0, 0], rel=1e-6)


def test_torchs_soft_margin_is_infinite_where_ours_is_not():
    x, y = torch.tensor([-100.0]), torch.ones(1)
    assert F.soft_margin_loss(x, y).isinf()
    equal(soft_margin(x, y), [100.0])


def test_a_sure_positive_bounds_asymmetric():
    """With the shift a negative with p = 1 costs -log m: 1 - q is never below m."""
    equal(asymmetric(torch.tensor([1e4]), torch.zeros(1), clip=0.05), [-(0.95**4) * math.log(0.05)])


@pytest.mark.parametrize("below", [29.9, 30.1])
def test_exponential_goes_on_as_its_tangent(below):
    x = tensor([-30.0, -below]).requires_grad_()
    values = exponential(x, torch.ones_like(x))
    (slopes,) = torch.autograd.grad(values.sum(), x)
    top = math.exp(30)
    equal(values, [top, math.exp(below) if below < 30 else 1.1 * top])
    equal(slopes, [-top, -math.exp(below) if below < 30 else -top])


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_corner_of_the_hinge_has_a_slope(margin):
    """An example just at the margin still counts: with margin 0 a model could not leave 0 otherwise."""
    x = tensor([margin, -margin]).requires_grad_()
    equal(torch.autograd.grad(hinge(x[:1], torch.ones(1), margin=margin).sum(), x)[0], [-1, 0])
    equal(torch.autograd.grad(hinge(x[1:], torch.zeros(1), margin=margin).sum(), x)[0], [0, 1])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_asymmetric_has_a_finite_gradient_at_a_perfect_answer(gamma):
    x = torch.tensor([200.0, -200.0], requires_grad=True)
    value = asymmetric(x, torch.tensor([1.0, 0.0]), gamma_neg=gamma, gamma_pos=gamma, clip=0.0)
    assert torch.autograd.grad(value.sum(), x)[0].abs().max() < 1e-6


@pytest.mark.parametrize("loss", [*ON_LOGITS, *ON_LABELS, bce_of_sigmoid])
def test_twice_differentiable_and_stackable(loss, scores, targets, soft):
    wanted = targets if loss is multilabel_margin else soft
    x = scores[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, wanted[:4]), x)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, wanted[:4]), x)
    stacked = vmap(loss)(scores.view(4, 10, 5), wanted.view(4, 10, 5))
    equal(stacked.reshape(-1), loss(scores, wanted))


@pytest.mark.parametrize("size", [90.0, 150.0, 200.0, 1e4])
@pytest.mark.parametrize(
    "loss",
    [
        asymmetric,
        partial(asymmetric, gamma_pos=0.5, gamma_neg=1.5),
        partial(asymmetric, gamma_pos=1.5, gamma_neg=0.5, clip=0.0),
        partial(binary_focal, gamma=0.5),
        partial(binary_focal, gamma=1.5),
    ],
)
def test_second_derivatives_are_finite_far_out(loss, size):
    x = torch.tensor([size, -size, size, -size], requires_grad=True)
    (first,) = torch.autograd.grad(loss(x, torch.tensor([0.0, 1.0, 1.0, 0.0])).sum(), x, create_graph=True)
    assert first.isfinite().all()
    assert torch.autograd.grad(first.sum(), x)[0].isfinite().all()


@pytest.mark.parametrize("loss", [*BY_MARGIN[:4], asymmetric])
def test_other_shapes_are_refused(loss):
    with pytest.raises(ValueError, match=r"the shapes must be the same, got \(6, 1\) and \(6,\)$"):
        loss(torch.zeros(6, 1), torch.zeros(6))
