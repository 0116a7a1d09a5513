"""Our losses against the best public implementations, in float64: kornia, timm, pytorch-optimizer, torchvision.

Where the definitions differ, the test pins both and our docstring says how.
"""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from loss_checks import equal, mean, same_with_gradient

from lossbench import losses

pytestmark = pytest.mark.slow

CLASSES = 5
GAMMAS = [0.0, 0.5, 1.0, 2.0, 5.0]


def public(name):
    """A module of the extra `reference`; what it warns of when it is imported is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


@pytest.fixture(params=[0, 1])
def seed(request):
    torch.manual_seed(request.param)


@pytest.fixture
def logits(seed):
    return 3 * torch.randn(40, CLASSES, dtype=torch.float64)


@pytest.fixture
def labels(seed):
    return torch.randint(CLASSES, (40,))


@pytest.fixture
def counts():
    return torch.tensor([500.0, 200.0, 80.0, 20.0, 5.0], dtype=torch.float64)


@pytest.fixture
def yes(seed):
    return (torch.rand(40, CLASSES) < 0.3).double()


@pytest.fixture
def shares(seed):
    return torch.rand(40, CLASSES, dtype=torch.float64)


def says(loss, *words):
    text = " ".join(loss.__doc__.split())
    for word in words:
        assert word in text, word


# Class ids


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_is_kornias_without_alpha(logits, labels, gamma):
    """Whose mean is also over the classes."""
    theirs = public("kornia.losses").focal_loss
    same_with_gradient(
        lambda x: mean(losses.focal(x, labels, gamma=gamma)),
        lambda x: CLASSES * theirs(x, labels, None, gamma, "mean"),
        logits,
    )


def test_focal_alpha_is_per_class_and_kornias_sets_class_0_apart(logits, labels):
    theirs = public("kornia.losses").focal_loss
    same_with_gradient(
        lambda x: mean(losses.focal(x, labels, alpha=[0.7, 0.3, 0.3, 0.3, 0.3])),
        lambda x: CLASSES * theirs(x, labels, 0.3, 2.0, "mean"),
        logits,
    )
    equal(mean(losses.focal(logits, labels, alpha=0.3)), 0.3 * mean(losses.focal(logits, labels)))
    says(losses.focal, "alpha scales the values")


def test_focal_leaves_out_what_is_ignored_and_kornias_counts_it(logits, labels):
    theirs = public("kornia.losses").focal_loss
    labels[::4] = -100
    equal(
        mean(losses.focal(logits, labels)) * (labels >= 0).double().mean(),
        CLASSES * theirs(logits, labels, None, 2.0, "mean"),
    )
    says(losses.focal, "0 where ignored")


@pytest.mark.parametrize("epsilon", [-1.0, 0.0, 1.0, 2.0])
def test_poly1_is_timms_in_its_float32(logits, labels, epsilon):
    theirs = public("timm.loss").PolyCrossEntropy(epsilon=epsilon)
    found = mean(losses.poly1(logits, labels, epsilon=epsilon))
    torch.testing.assert_close(found, theirs(logits, labels).double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.05, 0.1, 0.5])
def test_label_smoothing_is_timms(logits, labels, smoothing):
    theirs = public("timm.loss").LabelSmoothingCrossEntropy(smoothing)
    same_with_gradient(
        lambda x: mean(losses.label_smoothing(x, labels, smoothing=smoothing)), lambda x: theirs(x, labels), logits
    )


def test_soft_cross_entropy_is_timms(logits):
    theirs = public("timm.loss").SoftTargetCrossEntropy()
    soft = logits.flip(0).softmax(1)
    same_with_gradient(lambda x: mean(losses.soft_cross_entropy(x, soft)), lambda x: theirs(x, soft), logits)


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 30.0), (0.2, 1.0)])
def test_ldam_is_pytorch_optimizers_in_its_float32_margins(logits, labels, counts, margin, scale):
    theirs = public("pytorch_optimizer.loss").LDAMLoss(counts.tolist(), max_m=margin, s=scale).double()
    found = mean(losses.ldam(logits, labels, counts, max_margin=margin, scale=scale))
    torch.testing.assert_close(found, theirs(logits, labels), rtol=1e-5, atol=1e-6)
    theirs.m_list = margin * (counts / counts.min()) ** -0.25
    theirs.m_list = theirs.m_list[None]
    same_with_gradient(
        lambda x: mean(losses.ldam(x, labels, counts, max_margin=margin, scale=scale)),
        lambda x: theirs(x, labels),
        logits,
    )


@pytest.mark.parametrize(("t1", "t2"), [(0.8, 1.2), (0.5, 2.0), (0.8, 1.0), (0.7, 0.6)])
def test_bi_tempered_is_pytorch_optimizers_at_its_limit(logits, labels, t1, t2):
    """Theirs stops after 5 steps of an iteration that ours has run to its end, and adds 1e-10 to the label."""
    theirs = public("pytorch_optimizer.loss.bi_tempered").bi_tempered_logistic_loss
    found = losses.bi_tempered(logits, labels, t1=t1, t2=t2)[0]
    wanted = theirs(logits, labels, t1, t2, num_iters=300, reduction="none")
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_bi_tempered_smooths_over_all_classes_and_pytorch_optimizers_over_the_others(logits, labels):
    theirs = public("pytorch_optimizer.loss.bi_tempered").bi_tempered_logistic_loss
    found = mean(losses.bi_tempered(logits, labels, label_smoothing=0.1))
    wanted = theirs(logits, labels, 0.8, 1.2, label_smooth=0.1 * (CLASSES - 1) / CLASSES, num_iters=300)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-8)
    says(losses.bi_tempered, "the authors' code: eps / (C - 1) over the others")


# 0/1 targets


@pytest.mark.parametrize("gamma", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.7])
def test_binary_focal_is_torchvisions(logits, yes, gamma, alpha):
    theirs = public("torchvision.ops").sigmoid_focal_loss
    same_with_gradient(
        lambda x: mean(losses.binary_focal(x, yes, gamma=gamma, alpha=alpha)),
        lambda x: theirs(x, yes, alpha=alpha, gamma=gamma, reduction="mean"),
        logits,
    )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_binary_focal_is_kornias_on_hard_targets(logits, yes, gamma, alpha):
    theirs = public("kornia.losses").binary_focal_loss_with_logits
    same_with_gradient(
        lambda x: mean(losses.binary_focal(x, yes, gamma=gamma, alpha=alpha)),
        lambda x: theirs(x, yes, alpha=alpha, gamma=gamma, reduction="mean"),
        logits,
    )


def test_binary_focal_weighs_a_soft_target_as_torchvision_does_and_not_as_kornia(logits, shares):
    """p_t is taken of the share; kornia takes the shares of the two labels' focal losses."""
    vision, kornia = public("torchvision.ops").sigmoid_focal_loss, public("kornia.losses")
    equal(mean(losses.binary_focal(logits, shares)), vision(logits, shares, reduction="mean"))
    ones, zeros = torch.ones_like(shares), torch.zeros_like(shares)
    of_yes, of_no = (vision(logits, target, reduction="none") for target in (ones, zeros))
    equal(
        (shares * of_yes + (1 - shares) * of_no).mean(),
        kornia.binary_focal_loss_with_logits(logits, shares, reduction="mean"),
    )


@pytest.mark.parametrize(("gamma_neg", "gamma_pos", "clip"), [(4.0, 1.0, 0.05), (2.0, 2.0, 0.0), (4.0, 0.0, 0.2)])
def test_asymmetric_is_timms_in_its_float32(logits, yes, gamma_neg, gamma_pos, clip):
    """On hard targets; timm sums over the labels, and bounds the logarithms at log(1e-8)."""
    theirs = public("timm.loss").AsymmetricLossMultiLabel(gamma_neg, gamma_pos, clip)
    found = losses.asymmetric(logits, yes, gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip)
    torch.testing.assert_close(CLASSES * mean(found), theirs(logits, yes).double(), rtol=1e-5, atol=1e-6)
    says(losses.asymmetric, "the paper has the sum")


# Numbers


@pytest.mark.parametrize(
    ("shape", "name"),
    [(1.0, "charbonnier_loss"), (0.0, "cauchy_loss"), (-2.0, "geman_mcclure_loss"), (-math.inf, "welsch_loss")],
)
def test_adaptive_robust_at_its_special_shapes_is_kornias(logits, shape, name):
    theirs = getattr(public("kornia.losses"), name)
    target = logits.flip(0)
    same_with_gradient(
        lambda x: mean(losses.AdaptiveRobust(shape=shape, learn=False)(x, target)),
        lambda x: theirs(x, target, reduction="mean"),
        logits,
    )


def test_log_cosh_is_torchmetrics(logits):
    theirs = public("torchmetrics.functional.regression").log_cosh_error
    pred, target = logits[:, 0].contiguous(), logits[:, 1].contiguous()
    equal(mean(losses.log_cosh(pred, target)), theirs(pred, target))


# What torch has under another form


def test_multilabel_margin_is_torchs_on_its_padded_form(logits, yes):
    padded = torch.full((40, CLASSES), -1)
    for row, target in zip(padded, yes, strict=True):
        ids = target.nonzero().flatten()
        row[: len(ids)] = ids
    same_with_gradient(
        lambda x: mean(losses.multilabel_margin(x, yes)), lambda x: F.multilabel_margin_loss(x, padded), logits
    )
