"""Each loss against numbers derived by hand, against torch and torchvision, and against plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_checks import equal, mean, same_with_gradient, tensor
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from lossbench.losses import (
    adaptive_label_smoothing,
    bce,
    binary_focal,
    cross_entropy,
    focal,
    huber,
    label_smoothing,
    mae,
    mse,
)
from lossbench.losses.marks import class_weights, negatives_per_positive, share_of_negatives

LOG2, LOG3 = math.log(2), math.log(3)
EIGHTHS = torch.log(torch.tensor([[4.0, 2.0, 1.0, 1.0], [1.0, 4.0, 1.0, 2.0]], dtype=torch.float64))  # over 8
IDS = [0, 3]  # so that p_y is 1/2, then 1/4: -log p_y is log 2, then 2 log 2
QUARTERS = torch.tensor([LOG3, LOG3, -LOG3], dtype=torch.float64)  # sigmoid: 3/4, 3/4, 1/4
YES_NO = [1.0, 0.0, 1.0]
ERRORS = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
CLASS_WEIGHT = [0.5, 2.0, 1.0, 3.0, 0.0]

approx = pytest.approx


@pytest.fixture
def scores(g):  # (40, 3)
    return 3 * torch.randn(40, 3, generator=g, dtype=torch.float64)


@pytest.fixture
def targets(g):  # (40, 3)
    return torch.randint(2, (40, 3), generator=g).double()


# Numbers by hand


@pytest.mark.parametrize(
    ("loss", "values", "weights"),
    [
        (cross_entropy, [LOG2, 2 * LOG2], [1, 1]),
        # w_y multiplies the value and is what the mean divides by
        (lambda x, y: cross_entropy(x, y, weight=[2.0, 9.0, 9.0, 0.5]), [2 * LOG2, LOG2], [2, 0.5]),
        (lambda x, y: cross_entropy(x, y, ignore_index=3), [LOG2, 0], [1, 0]),
        # eps = 0.4: 0.7 on the true class, 0.1 on each other; -log2 p is (1, 2, 3, 3), then (3, 1, 3, 2)
        # 0.7 x 1 + 0.1 x (2 + 3 + 3) = 1.5, then 0.7 x 2 + 0.1 x (3 + 1 + 3) = 2.1
        (lambda x, y: cross_entropy(x, y, label_smoothing=0.4), [1.5 * LOG2, 2.1 * LOG2], [1, 1]),
        (lambda x, y: label_smoothing(x, y, smoothing=0.4), [1.5 * LOG2, 2.1 * LOG2], [1, 1]),
        # eps = 0.3: 0.7 on the true class, 0.1 on each other: the same numbers
        (
            lambda x, y: label_smoothing(x, y, smoothing=0.3, others_only=True),
            [1.5 * LOG2, 2.1 * LOG2],
            [1, 1],
        ),
        # (1 - p_y)^2 is 1/4, then 9/16
        (focal, [LOG2 / 4, 9 / 8 * LOG2], [1, 1]),
        (lambda x, y: focal(x, y, gamma=1.0), [LOG2 / 2, 3 / 2 * LOG2], [1, 1]),
        (lambda x, y: focal(x, y, gamma=0.5), [LOG2 / math.sqrt(2), math.sqrt(3) * LOG2], [1, 1]),
        # alpha scales the values and leaves the weights of the mean alone
        (lambda x, y: focal(x, y, alpha=0.5), [LOG2 / 8, 9 / 16 * LOG2], [1, 1]),
        (lambda x, y: focal(x, y, alpha=[4.0, 0.0, 0.0, 8.0]), [LOG2, 9 * LOG2], [1, 1]),
        (lambda x, y: focal(x, y, ignore_index=0), [0, 9 / 8 * LOG2], [0, 1]),
    ],
)
def test_multiclass_by_hand(loss, values, weights):
    found = loss(EIGHTHS, torch.tensor(IDS))
    equal(found[0], values)
    equal(found[1], weights)


def test_soft_labels_by_hand():
    """Half on a class with p = 1/2, half on one with p = 1/8: (1 + 3) / 2 x log 2, in a plain mean."""
    soft = tensor([[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]])
    equal(cross_entropy(EIGHTHS, soft), [2 * LOG2, 2 * LOG2])


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        # p = (3/4, 3/4, 1/4), targets 1, 0, 1: -log p_t is log 4/3, log 4, log 4
        (bce, [math.log(4 / 3), 2 * LOG2, 2 * LOG2]),
        (lambda x, t: bce(x, t, pos_weight=3.0), [3 * math.log(4 / 3), 2 * LOG2, 6 * LOG2]),
        # 1 - p_t is 1/4, 3/4, 3/4; alpha_t is 1/4, 3/4, 1/4
        (binary_focal, [math.log(4 / 3) / 64, 27 / 32 * LOG2, 9 / 32 * LOG2]),
        (lambda x, t: binary_focal(x, t, alpha=None), [math.log(4 / 3) / 16, 9 / 8 * LOG2, 9 / 8 * LOG2]),
        (
            lambda x, t: binary_focal(x, t, gamma=1.0, alpha=0.9),
            [0.225 * math.log(4 / 3), 0.15 * LOG2, 1.35 * LOG2],
        ),
    ],
)
def test_binary_by_hand(loss, values):
    equal(loss(QUARTERS, tensor(YES_NO)), values)


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        (mse, [0.25, 4, 0]),
        (mae, [0.5, 2, 0]),
        (huber, [0.125, 1.5, 0]),  # 0.5^2 / 2; 2 - 1/2
        (lambda p, t: huber(p, t, delta=2.0), [0.125, 2, 0]),  # where |e| = delta both forms agree
        (lambda p, t: huber(p, t, delta=0.25), [0.09375, 0.46875, 0]),  # (0.5 - 1/8) / 4; (2 - 1/8) / 4
    ],
)
def test_regression_by_hand(loss, values):
    target = tensor([1.0, -3.0, 7.0])
    equal(loss(target + ERRORS, target), values)


@pytest.mark.parametrize("loss", [mse, mae, huber, bce, binary_focal])
def test_several_outputs_give_their_mean(loss):
    """(N, K) gives (N,), each the mean over the K outputs of its example."""
    rows = torch.stack([ERRORS, 2 * ERRORS, -ERRORS, 0 * ERRORS])
    equal(loss(rows, torch.ones_like(rows)), [loss(row, torch.ones_like(row)).mean() for row in rows])


# torch and torchvision


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [-100, 2])
@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
def test_cross_entropy_is_torchs_with_its_mean(logits, labels, weight, ignored, smoothing):
    labels[::7] = ignored
    options = {"ignore_index": ignored, "label_smoothing": smoothing}
    same_with_gradient(
        lambda x: mean(cross_entropy(x, labels, weight=weight, **options)),
        lambda x: F.cross_entropy(x, labels, weight=tensor(weight), **options),
        logits,
    )
    same_with_gradient(
        lambda x: mean(label_smoothing(x, labels, smoothing=smoothing, weight=weight, ignore_index=ignored)),
        lambda x: F.cross_entropy(x, labels, weight=tensor(weight), **options),
        logits,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
def test_cross_entropy_of_soft_labels_is_torchs_with_its_mean(logits, scores, g, weight, smoothing):
    soft = torch.rand(40, 5, generator=g, dtype=torch.float64).softmax(1)
    same_with_gradient(
        lambda x: mean(cross_entropy(x, soft, weight=weight, label_smoothing=smoothing)),
        lambda x: F.cross_entropy(x, soft, weight=tensor(weight), label_smoothing=smoothing),
        logits,
    )


@pytest.mark.parametrize("loss", [cross_entropy, label_smoothing, focal])
def test_a_batch_that_is_all_ignored_is_nan_as_in_torch(logits, loss):
    nothing = torch.full((40,), -100)
    assert F.cross_entropy(logits, nothing).isnan()
    assert mean(loss(logits, nothing)).isnan()


@pytest.mark.parametrize("pos_weight", [None, 3.0, [0.5, 1.0, 4.0]])
@pytest.mark.parametrize("soft", [False, True])
def test_bce_is_torchs_with_its_mean(scores, targets, pos_weight, soft):
    targets = targets * 0.8 + 0.1 if soft else targets
    same_with_gradient(
        lambda x: mean(bce(x, targets, pos_weight=pos_weight)),
        lambda x: F.binary_cross_entropy_with_logits(x, targets, pos_weight=tensor(pos_weight)),
        scores,
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (mse, F.mse_loss),
        (mae, F.l1_loss),
        (huber, F.huber_loss),
        (lambda p, t: huber(p, t, delta=0.3), lambda p, t: F.huber_loss(p, t, delta=0.3)),
        (lambda p, t: huber(p, t, delta=0.3), lambda p, t: 0.3 * F.smooth_l1_loss(p, t, beta=0.3)),
    ],
)
def test_regression_is_torchs_with_its_mean(scores, targets, ours, theirs):
    same_with_gradient(lambda x: mean(ours(x, targets)), lambda x: theirs(x, targets), scores)
    same_with_gradient(lambda x: mean(ours(x, targets[:, 0])), lambda x: theirs(x, targets[:, 0]), scores[:, 0])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("alpha", [None, 0.25, 0.9])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_binary_focal_is_torchvisions(scores, targets, gamma, alpha, soft):
    targets = targets * 0.8 + 0.1 if soft else targets
    none = -1 if alpha is None else alpha
    same_with_gradient(
        lambda x: mean(binary_focal(x, targets, gamma=gamma, alpha=alpha)),
        lambda x: sigmoid_focal_loss(x, targets, alpha=none, gamma=gamma, reduction="mean"),
        scores,
    )


# Limits and relations


def test_focal_at_gamma_0_is_cross_entropy(logits, labels, scores, targets):
    labels[::5] = -100
    for found, expected in zip(focal(logits, labels, gamma=0.0), cross_entropy(logits, labels), strict=True):
        equal(found, expected)
    equal(binary_focal(scores, targets, gamma=0.0, alpha=None), bce(scores, targets))
    equal(binary_focal(scores, targets, gamma=0.0, alpha=0.5), bce(scores, targets) / 2)


def test_focal_on_two_classes_is_the_binary_one(scores, targets):
    """softmax(0, s) = (1 - sigmoid(s), sigmoid(s)), and alpha per class is (1 - alpha, alpha)."""
    score, target = scores[:, 0], targets[:, 0]
    two = torch.stack([torch.zeros_like(score), score], 1)
    equal(focal(two, target.long())[0], binary_focal(score, target, alpha=None))
    equal(
        focal(two, target.long(), gamma=3.0, alpha=[0.8, 0.2])[0],
        binary_focal(score, target, gamma=3.0, alpha=0.2),
    )


@pytest.mark.parametrize("score", [20.0, 30.0])
def test_binary_focal_keeps_its_digits_where_the_model_is_sure(score):
    """It is q^2 x BCE with q = 1 - p_t = 1 / (1 + e^s), which a subtraction from 1 would cancel."""
    scores, targets = tensor([score, -score]), tensor([1.0, 0.0])
    ratio = binary_focal(scores, targets, alpha=None) / bce(scores, targets)
    assert ratio.tolist() == pytest.approx(2 * [1 / (1 + math.exp(score)) ** 2], rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lambda: bce(tensor([1e4, -1e4]), tensor([0.0, 1.0])), [1e4, 1e4]),
        (lambda: binary_focal(tensor([1e4, -1e4]), tensor([0.0, 1.0])), [7.5e3, 2.5e3]),
        (lambda: cross_entropy(tensor([[1e4, -1e4]]), torch.tensor([1]))[0], [2e4]),
        (lambda: label_smoothing(tensor([[1e4, -1e4]]), torch.tensor([1]))[0], [0.95 * 2e4]),
        (lambda: focal(tensor([[1e4, -1e4]]), torch.tensor([1]))[0], [2e4]),
        (lambda: mse(tensor([1e4]), tensor([-1e4])), [4e8]),
        (lambda: mae(tensor([1e4]), tensor([-1e4])), [2e4]),
        (lambda: huber(tensor([1e4]), tensor([-1e4])), [2e4 - 0.5]),
    ],
)
def test_far_out_by_hand(found, expected):
    equal(found(), expected)


@pytest.mark.parametrize("loss", [mse, mae, huber])
def test_the_gradient_vanishes_where_the_target_is_met(loss):
    x = tensor([2.0, -1.0]).requires_grad_()
    equal(torch.autograd.grad(loss(x, x.detach()).sum(), x)[0], [0.0, 0.0])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_has_a_finite_gradient_at_a_perfect_answer(gamma):
    for score, loss in [
        (torch.tensor([[0.0, 200.0]]), lambda x: focal(x, torch.tensor([1]), gamma=gamma)[0]),
        (torch.tensor([200.0]), lambda x: binary_focal(x, torch.ones(1), gamma=gamma)),
    ]:
        x = score.requires_grad_()
        assert torch.autograd.grad(loss(x).sum(), x)[0].abs().max() < 1e-6


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.8])
def test_others_only_is_the_loop(logits, labels, smoothing, weight):
    labels[::6] = 2
    w = weight or [1.0] * 5
    total, seen = 0.0, 0.0
    for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
        if y == 2:
            continue
        top = max(row)
        norm = top + math.log(sum(math.exp(v - top) for v in row))
        share = [1 - smoothing if c == y else smoothing / 4 for c in range(5)]
        total += sum(q * k * (norm - v) for q, k, v in zip(share, w, row, strict=True))
        seen += w[y]
    found = label_smoothing(logits, labels, smoothing=smoothing, others_only=True, weight=weight, ignore_index=2)
    assert mean(found).item() == approx(total / seen, rel=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 7, 50])
def test_others_only_up_to_an_even_spread(classes):
    """At eps = (C - 1) / C every class has 1 / C: the loss is the mean of -log p_c. More is refused."""
    x = torch.arange(classes, dtype=torch.float64)[None]
    found = label_smoothing(x, torch.tensor([1]), smoothing=(classes - 1) / classes, others_only=True)
    equal(found[0], -x.log_softmax(1).mean(1))
    with pytest.raises(ValueError, match="smoothing"):
        label_smoothing(x, torch.tensor([1]), smoothing=1 - 0.5 / classes, others_only=True)


@pytest.mark.parametrize("loss", [adaptive_label_smoothing, lambda x, y: label_smoothing(x, y, others_only=True)])
def test_smoothing_over_the_other_classes_needs_some(loss):
    with pytest.raises(ValueError, match="needs at least 2 classes"):
        loss(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))


# What `balanced` stands for


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 2, 2], [1, 1, 1, 0, 2], [0, 1, 2]])
def test_class_weights_are_scikit_learns(labels):
    expected = compute_class_weight("balanced", classes=np.arange(3), y=np.array(labels))
    assert class_weights(torch.tensor(labels), 3).tolist() == approx(expected.tolist(), rel=1e-6)


def test_class_weights_give_every_class_the_same_sum():
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    assert torch.bincount(labels, weights=class_weights(labels, 3)[labels]).tolist() == approx([7 / 3] * 3)


def test_class_weights_of_a_class_without_examples_are_finite():
    assert class_weights(torch.tensor([0, 0, 2, 2]), 3).tolist() == approx([4 / 6, 4 / 3, 4 / 6])


@pytest.mark.parametrize(
    ("targets", "ratio", "share"),
    [
        ([1.0, 0.0, 0.0, 0.0], 3, 0.75),
        ([1.0, 1.0, 0.0, 1.0], 1 / 3, 0.25),
        ([0.0, 0.0], 2, 1),
        ([1.0, 1.0, 1.0], 1 / 3, 0),
    ],
)
def test_balanced_on_0_1_targets(targets, ratio, share):
    """Negatives / positives, and the share of negatives; the ratio stays finite, and above 0."""
    assert negatives_per_positive(torch.tensor(targets), 2).item() == approx(ratio)
    assert share_of_negatives(torch.tensor(targets), 2).item() == approx(share)


def test_balanced_bce_weighs_both_sides_the_same():
    """With the ratio as pos_weight a constant logit is best at p = 1/2: its gradient at 0 vanishes."""
    targets = tensor([1.0, 0, 0, 0, 0])
    x = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    loss = bce(x, targets, pos_weight=negatives_per_positive(targets, 2))
    assert torch.autograd.grad(loss.sum(), x)[0].sum().item() == approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (cross_entropy, {"weight": CLASS_WEIGHT}),
        (label_smoothing, {"weight": CLASS_WEIGHT, "others_only": True}),
        (focal, {"alpha": CLASS_WEIGHT}),
    ],
)
def test_lists_and_tensors_are_the_same_and_need_not_match_in_type(logits, labels, loss, options):
    tensors = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in options.items()}  # float32
    for found, expected in zip(loss(logits, labels, **tensors), loss(logits, labels, **options), strict=True):
        equal(found, expected)
