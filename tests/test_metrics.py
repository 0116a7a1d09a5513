"""The metrics against scikit-learn, torchmetrics and plain loops."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_pinball_loss,
    mean_poisson_deviance,
    mean_squared_error,
    r2_score,
    recall_score,
    roc_auc_score,
)

from lossbench.tasks import Binary, Multiclass, Multilabel, Regression, SoftLabels, metrics

NAN = math.nan


def approx(value):
    return pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def ids(*values):
    return torch.tensor(values)


def yes(*values):
    return torch.tensor(values, dtype=torch.bool)


def softmax(logits):
    return logits.softmax(1).numpy()


def binned_gap(confidence, correct, bins=15):
    """Sum over bins (b / B, (b + 1) / B] of share x |accuracy - mean confidence|."""
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins or (c == 0 and b == 0)]
        if inside:
            right = sum(correct[i] for i in inside) / len(inside)
            sure = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(right - sure)
    return total


def examples(task, n=200, seed=0):
    """What a model gives (N, outputs) and the target, as a batch has them: in float32."""
    g = torch.Generator().manual_seed(seed)
    out = 2 * torch.randn(n, task.outputs, generator=g)
    hidden = out + 2 * torch.randn(n, task.outputs, generator=g)  # right more often than not
    target = {
        "regression": hidden[:, 0],
        "binary": (hidden[:, 0] > 0).float(),
        "multilabel": (hidden > 0).float(),
        "multiclass": hidden.argmax(1),
        "soft_labels": hidden.softmax(1),
    }
    return out, target[task.name]


def measured(task, out, target):
    fields = task.forward(lambda x: x, {"input": out, "target": target}, task.measured)
    return {name: value.item() for name, value in task.metrics(fields).items()}


# Functions


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 5])
def test_class_metrics_are_scikit_learns(classes, seed):
    g = torch.Generator().manual_seed(seed)
    labels, predicted = torch.randint(classes, (2, 100), generator=g)
    labels[labels == 1] = 0  # so that a class is predicted and never there
    assert metrics.accuracy(predicted, labels).item() == approx(accuracy_score(labels, predicted))
    expected = f1_score(labels, predicted, average="macro")
    assert metrics.macro_f1(predicted, labels, classes).item() == approx(expected)


@pytest.mark.parametrize(
    ("predicted", "labels", "expected"),
    [
        (ids(0, 1, 2), ids(0, 1, 2), 1),
        (ids(1, 2, 0), ids(0, 1, 2), 0),
        # F1 of class 0: 2 x 2 / (2 x 2 + 2 + 0) = 2/3; classes 1 and 2: 0; class 3 is nowhere and left out
        (ids(0, 0, 0, 0), ids(0, 0, 1, 2), 2 / 9),
        # 0: 2 / (2 + 0 + 1) = 2/3; 3: predicted once, never there: 0
        (ids(0, 3), ids(0, 0), 1 / 3),
        (ids(2, 2), ids(2, 2), 1),
    ],
)
def test_macro_f1_by_hand(predicted, labels, expected):
    assert metrics.macro_f1(predicted, labels, 4).item() == approx(expected)
    assert f1_score(labels, predicted, average="macro") == approx(expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [None, 1, 0])  # rounded scores have ties
def test_binary_metrics_are_scikit_learns(seed, decimals):
    rng = np.random.default_rng(seed)
    targets = rng.random(150) < 0.3
    scores = rng.normal(size=150) + targets
    scores = scores if decimals is None else scores.round(decimals)
    ours, there = torch.from_numpy(scores), torch.from_numpy(targets)
    auroc, average_precision = metrics.ranking(ours, there)
    assert auroc.item() == approx(roc_auc_score(targets, scores))
    assert average_precision.item() == approx(average_precision_score(targets, scores))
    assert metrics.f1(ours > 0, there).item() == approx(f1_score(targets, scores > 0))


@pytest.mark.parametrize(
    ("scores", "targets", "auroc", "precision"),
    [
        (tensor(1, 2, 3, 4), yes(0, 0, 1, 1), 1, 1),
        (tensor(1, 2, 3, 4), yes(1, 1, 0, 0), 0, 5 / 12),  # the positives are third and last: (1/3 + 2/4) / 2
        (tensor(3, 1, 2), yes(0, 0, 1), 0.5, 0.5),  # of the two pairs, one is in order
        (tensor(1, 1, 2), yes(0, 1, 1), 0.75, 5 / 6),  # a tie is half a pair; both of it come in at 2/3
        (tensor(7, 7, 7, 7), yes(0, 1, 0, 0), 0.5, 0.25),
        (tensor(-math.inf, 0, math.inf), yes(0, 1, 1), 1, 1),
        (tensor(1, 2, 3), yes(1, 1, 1), NAN, 1),
        (tensor(1, 2, 3), yes(0, 0, 0), NAN, NAN),
    ],
)
def test_ranking_by_hand(scores, targets, auroc, precision):
    found = metrics.ranking(scores, targets)
    assert [value.item() for value in found] == [approx(auroc), approx(precision)]


@pytest.mark.parametrize("decimals", [None, 1])
def test_ranking_of_columns_is_their_mean_without_those_that_have_one_class(decimals):
    rng = np.random.default_rng(0)
    targets = rng.random((80, 5)) < 0.3
    targets[:, 1], targets[:, 3] = True, False
    scores = (rng.normal(size=(80, 5)) + targets).round(16 if decimals is None else decimals)
    auroc, precision = metrics.ranking(torch.from_numpy(scores), torch.from_numpy(targets))
    both = [0, 2, 4]
    assert auroc.item() == approx(roc_auc_score(targets[:, both], scores[:, both], average="macro"))
    there = [0, 1, 2, 4]
    assert precision.item() == approx(average_precision_score(targets[:, there], scores[:, there], average="macro"))


@pytest.mark.parametrize(
    ("predicted", "targets", "expected"),
    [
        (yes(1, 1, 0, 0), yes(1, 0, 1, 0), 0.5),  # 2 / (2 + 1 + 1)
        (yes(1, 1, 1), yes(0, 0, 1), 0.5),  # 2 / (2 + 2)
        (yes(0, 0), yes(1, 0), 0),
        (yes(1, 0), yes(0, 0), 0),
        (yes(0, 0), yes(0, 0), 0),
    ],
)
def test_f1_by_hand(predicted, targets, expected):
    assert metrics.f1(predicted, targets).item() == approx(expected)
    assert f1_score(targets, predicted, zero_division=0) == approx(expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_the_loop(seed, bins):
    rng = np.random.default_rng(seed)
    confidence = np.concatenate([rng.random(200), [0.0, 1.0], 1 - rng.random(50) * 1e-3])
    correct = rng.random(len(confidence)) < confidence**2
    found = metrics.calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct), bins)
    assert found.item() == approx(binned_gap(confidence.tolist(), correct.tolist(), bins))


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        (tensor(1, 1), yes(1, 1), 0),
        (tensor(1, 1), yes(0, 0), 1),
        (tensor(0, 0), yes(0, 0), 0),
        # one bin: accuracy 1/2, confidence 0.81
        (tensor(0.805, 0.815), yes(1, 0), 0.31),
        # two bins of half the examples each: |1 - 0.9| / 2 + |0 - 0.6| / 2
        (tensor(0.9, 0.6), yes(1, 0), 0.35),
        # an edge belongs to the bin below it: 0.2 is the upper end of (2/15, 3/15], with 0.19
        (tensor(0.2, 0.19), yes(1, 0), 0.305),
        # 0.21 is above it: |1 - 0.2| / 2 + |0 - 0.21| / 2
        (tensor(0.2, 0.21), yes(1, 0), 0.505),
    ],
)
def test_calibration_error_by_hand(confidence, correct, expected):
    assert metrics.calibration_error(confidence, correct).item() == approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_torchmetrics(seed):
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    task = Multiclass(4)
    out, target = examples(task, 500, seed)
    expected = theirs.multiclass_calibration_error(out.double().softmax(1), target, 4, n_bins=15)
    assert measured(task, out, target)["ece"] == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("decimals", [16, 1])
def test_ranking_is_torchmetrics(decimals):
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    task = Multilabel(6)
    out, target = examples(task, 500)
    scores = out.double().round(decimals=decimals)
    auroc, precision = metrics.ranking(scores, target > 0)
    probs, there = scores.sigmoid(), target.long()
    assert auroc.item() == pytest.approx(theirs.multilabel_auroc(probs, there, 6).item(), rel=1e-6)
    expected = theirs.multilabel_average_precision(probs, there, 6)
    assert precision.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(60,), (60, 3)])
def test_r2_is_scikit_learns(shape):
    rng = np.random.default_rng(0)
    target = rng.normal(size=shape)
    pred = target + rng.normal(size=shape)
    found = metrics.r2(torch.from_numpy(pred), torch.from_numpy(target)).item()
    assert found == approx(r2_score(target, pred))


@pytest.mark.parametrize(
    ("pred", "target", "expected"),
    [
        (tensor(1, 2, 3), tensor(1, 2, 3), 1),
        (tensor(2, 2, 2), tensor(1, 2, 3), 0),
        (tensor(3, 2, 1), tensor(1, 2, 3), -3),  # 1 - 8 / 2
        # a target that does not vary: 1 where it is met, else 0
        (tensor(4, 4), tensor(4, 4), 1),
        (tensor(4, 5), tensor(4, 4), 0),
    ],
)
def test_r2_by_hand(pred, target, expected):
    assert metrics.r2(pred, target).item() == approx(expected)
    assert r2_score(target, pred) == approx(expected)


@pytest.mark.parametrize("target", [tensor(1, 2), tensor(4, 4)])
def test_r2_of_a_nan_is_nan(target):
    assert metrics.r2(tensor(NAN, 1), target).isnan()


# Tasks


@pytest.mark.parametrize("seed", range(3))
def test_multiclass_metrics(seed):
    task = Multiclass(6)
    out, target = examples(task, seed=seed)
    target[target == 4] = 1  # a class that the labels miss
    found, probs, predicted = measured(task, out, target), softmax(out.double()), out.argmax(1)
    there, seen = np.eye(6)[target], [0, 1, 2, 3, 5]
    assert found["accuracy"] == approx(accuracy_score(target, predicted))
    assert found["error_rate"] == approx(1 - found["accuracy"])
    assert found["macro_f1"] == approx(f1_score(target, predicted, average="macro"))
    recalls = recall_score(target, predicted, labels=seen, average=None)
    assert found["balanced_accuracy"] == approx(recalls.mean())
    assert found["worst_recall"] == approx(recalls.min())
    assert [found[f"recall/{k}"] for k in range(6)] == [approx(r) for r in [*recalls[:4], NAN, recalls[4]]]
    assert found["auroc"] == approx(roc_auc_score(there[:, seen], probs[:, seen], average="macro"))
    assert found["average_precision"] == approx(average_precision_score(there[:, seen], probs[:, seen]))
    assert found["nll"] == approx(log_loss(target, probs, labels=range(6)))
    assert found["brier"] == approx(((probs - there) ** 2).sum(1).mean())
    assert found["ece"] == approx(binned_gap(probs.max(1).tolist(), (predicted == target).tolist()))


def test_many_classes_have_no_recall_each():
    few, many = Multiclass(20), Multiclass(21)
    assert [name for name in few.directions if "/" in name] == [f"recall/{k}" for k in range(20)]
    assert not any("/" in name for name in (*many.directions, *measured(many, *examples(many))))


@pytest.mark.parametrize("seed", range(3))
def test_hard_soft_labels_are_measured_as_class_ids(seed):
    hard, soft = Multiclass(5), SoftLabels(5)
    out, target = examples(hard, seed=seed)
    assert measured(soft, out, torch.eye(5)[target]) == {k: approx(v) for k, v in measured(hard, out, target).items()}


def test_soft_label_metrics():
    """p = (3/4, 1/4) for targets of (3/4, 1/4), (1/4, 3/4): the first is right, the second is not."""
    out = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log().expand(2, 2)
    target = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    found = {
        name: value.item() for name, value in SoftLabels(2).metrics({"logits": out, "soft_labels": target}).items()
    }
    assert found["accuracy"] == found["error_rate"] == approx(0.5)
    assert found["nll"] == approx(math.log(4) - math.log(3) / 2)
    assert found["brier"] == approx(0.25)  # (0 + 2 x 1/4) / 2
    assert found["ece"] == approx(0.25)


@pytest.mark.parametrize("seed", range(3))
def test_multilabel_metrics(seed):
    task = Multilabel(4)
    out, target = examples(task, seed=seed)
    target[:, 2] = 0  # a label that is never there, and sometimes predicted
    found, scores, predicted = measured(task, out, target), out.double(), out > 0
    seen, p = [0, 1, 3], out.double().sigmoid()
    assert found["accuracy"] == approx((predicted == target.bool()).double().mean().item())
    assert found["exact_match"] == approx(accuracy_score(target, predicted))
    assert found["macro_f1"] == approx(f1_score(target, predicted, average="macro"))
    assert found["micro_f1"] == approx(f1_score(target, predicted, average="micro"))
    assert found["auroc"] == approx(roc_auc_score(target[:, seen], scores[:, seen]))
    assert found["average_precision"] == approx(average_precision_score(target[:, seen], scores[:, seen]))
    assert found["nll"] == approx(np.mean([log_loss(target[:, k], p[:, k], labels=[0, 1]) for k in range(4)]))
    assert found["brier"] == approx(((p - target) ** 2).mean().item())
    right = (predicted == target.bool()).flatten().tolist()
    assert found["ece"] == approx(binned_gap(torch.maximum(p, 1 - p).flatten().tolist(), right))


def test_multiclass_metrics_where_all_are_predicted_the_same():
    """Three classes, p = (1/2, 1/4, 1/4) for each of four examples, two of which are of class 0."""
    out = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().expand(4, 3)
    found = Multiclass(3).metrics({"logits": out, "labels": ids(0, 0, 1, 2)})
    assert found["accuracy"].item() == approx(0.5)
    assert found["macro_f1"].item() == approx(2 / 9)
    assert found["nll"].item() == approx(1.5 * math.log(2))
    assert found["ece"].item() == approx(0)


@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics(seed):
    task = Binary()
    out, target = examples(task, seed=seed)
    score = out[:, 0].double()
    p, predicted = score.sigmoid(), (score > 0).double()
    found = measured(task, out, target)
    assert found["accuracy"] == approx(accuracy_score(target, predicted))
    assert found["error_rate"] == approx(1 - found["accuracy"])
    assert found["f1"] == approx(f1_score(target, predicted))
    assert found["macro_f1"] == approx(f1_score(target, predicted, average="macro"))
    assert found["balanced_accuracy"] == approx(balanced_accuracy_score(target, predicted))
    recalls = recall_score(target, predicted, average=None)
    assert [found["recall/0"], found["recall/1"]] == [approx(recall) for recall in recalls]
    assert found["worst_recall"] == approx(min(recalls))
    assert found["auroc"] == approx(roc_auc_score(target, score))
    assert found["average_precision"] == approx(average_precision_score(target, score))
    assert found["brier"] == approx(brier_score_loss(target, p))
    assert found["nll"] == approx(log_loss(target, p))
    # of the class that is predicted, as for many classes
    assert found["ece"] == approx(binned_gap(torch.maximum(p, 1 - p).tolist(), (predicted == target).tolist()))


@pytest.mark.parametrize(("target", "accuracy", "f1"), [(1.0, 2 / 3, 0.8), (0.0, 1 / 3, 0)])
def test_binary_metrics_with_one_class_only(target, accuracy, f1):
    """Logits log 3, log 3, -log 3; F1 with all positive is 2 x 2 / (2 + 3)."""
    out = math.log(3) * torch.tensor([[1.0], [1.0], [-1.0]])
    found = measured(Binary(), out, torch.full((3,), target))
    assert found["accuracy"] == approx(accuracy)
    assert found["f1"] == approx(f1)
    assert math.isnan(found["auroc"])
    assert found["balanced_accuracy"] == found["worst_recall"] == approx(accuracy)
    assert found["nll"] == pytest.approx(accuracy * math.log(4 / 3) + (1 - accuracy) * math.log(4), rel=1e-6)


def test_binary_ece_is_of_the_predicted_class():
    """p = 1/4 for a target of 0 is right with confidence 3/4."""
    fields = {"logits": tensor(-math.log(3)), "targets": tensor(0)}
    assert Binary().metrics(fields)["ece"].item() == approx(0.25)


def test_confident_mistakes_have_a_finite_nll():
    out = torch.tensor([[1e4], [-1e4]])
    assert measured(Binary(), out, torch.tensor([0.0, 1.0]))["nll"] == approx(1e4)
    assert measured(Multiclass(2), torch.cat([out, -out], 1), ids(1, 0))["nll"] == approx(2e4)


@pytest.mark.parametrize("seed", range(3))
def test_regression_metrics_are_in_the_targets_own_units(seed):
    task = Regression(mean=150.0, std=75.0)
    out, target = examples(task, seed=seed)
    pred, true = (75 * x.double() + 150 for x in (out[:, 0], target))
    found = measured(task, out, target)
    assert found["rmse"] == approx(math.sqrt(mean_squared_error(true, pred)))
    assert found["mae"] == approx(mean_absolute_error(true, pred))
    assert found["r2"] == approx(r2_score(true, pred))


def test_regression_units_by_hand():
    """Errors of 1 and -2 deviations of 10: sqrt((100 + 400) / 2), 15, and 1 - 500 / (5^2 + 5^2)."""
    fields = {"pred": tensor(1.5, -2.5), "target": tensor(0.5, -0.5)}
    found = Regression(mean=1e3, std=10.0).metrics(fields)
    assert found["rmse"].item() == approx(math.sqrt(250))
    assert found["mae"].item() == approx(15)
    assert found["r2"].item() == approx(-9)


QUANTILES = Regression(mean=150.0, std=75.0).suited(["pred_quantiles", "target"], levels=(0.1, 0.5, 0.8, 0.9))
VARIANCE = Regression(mean=150.0, std=75.0).suited(["pred", "target", "variance"])


@pytest.mark.parametrize("seed", range(3))
def test_quantile_metrics(seed):
    out, target = examples(QUANTILES, seed=seed)
    true, quantiles = (75 * x.double().numpy() + 150 for x in (target, out))
    found = measured(QUANTILES, out, target)
    each = [mean_pinball_loss(true, quantiles[:, k], alpha=q) for k, q in enumerate(QUANTILES.levels)]
    assert found["pinball"] == approx(np.mean(each))
    inside = [a <= t <= b for t, a, b in zip(true, quantiles[:, 0], quantiles[:, 3], strict=True)]
    assert found["coverage"] == approx(np.mean(inside))
    assert found["interval_width"] == approx((quantiles[:, 3] - quantiles[:, 0]).mean())
    assert found["crossing_rate"] == approx(np.mean([list(row) != sorted(row) for row in quantiles]))
    assert found["mae"] == approx(mean_absolute_error(true, quantiles[:, 1]))
    assert next(iter(QUANTILES.directions)) == "pinball"


@pytest.mark.parametrize("level", [0.2, 0.5])
def test_a_value_that_is_a_quantile(level):
    task = Regression(mean=150.0, std=75.0).suited(["pred", "target"], levels=[level])
    out, target = examples(task)
    true, pred = (75 * x.double().numpy() + 150 for x in (target, out[:, 0]))
    found = measured(task, out, target)
    assert list(found) == ["pinball", "coverage", "rmse", "mae", "r2"]
    assert found["pinball"] == approx(mean_pinball_loss(true, pred, alpha=level))
    assert found["coverage"] == approx(np.mean(true <= pred))


def test_intervals_by_hand():
    """Targets 1, 2, 3 in [1, 2], [1, 2] crossed in the middle, [4, 3]: two are inside."""
    quantiles = torch.tensor([[1, 1.5, 2], [1, 0.5, 2], [4, 3.5, 3]], dtype=torch.float64)
    found = {**metrics.interval(quantiles, tensor(1, 2, 3)), "crossing_rate": metrics.crossing_rate(quantiles)}
    assert {name: value.item() for name, value in found.items()} == {
        "coverage": approx(2 / 3),
        "interval_width": approx(1 / 3),
        "crossing_rate": approx(2 / 3),
    }


@pytest.mark.parametrize("seed", range(3))
def test_variance_metrics_are_those_of_a_gaussian(seed):
    out, target = examples(VARIANCE, seed=seed)
    true, pred = (75 * x.double().numpy() + 150 for x in (target, out[:, 0]))
    variance = VARIANCE.forward(lambda x: x, {"input": out}, ["variance"])["variance"]
    gaussian = norm(pred, 75 * variance.double().sqrt().numpy())
    low, middle, high = (gaussian.ppf(q) for q in (0.1, 0.5, 0.9))
    found = measured(VARIANCE, out, target)
    assert found["nll"] == approx(-gaussian.logpdf(true).mean())
    pairs = ((low, 0.1), (middle, 0.5), (high, 0.9))
    assert found["pinball"] == approx(np.mean([mean_pinball_loss(true, x, alpha=q) for x, q in pairs]))
    assert found["coverage"] == approx(np.mean((low <= true) & (true <= high)))
    assert found["interval_width"] == approx((high - low).mean())
    assert found["rmse"] == approx(math.sqrt(mean_squared_error(true, pred)))
    assert next(iter(VARIANCE.directions)) == "nll"


@pytest.mark.parametrize("seed", range(3))
def test_rate_metrics(seed):
    task = Regression(mean=2.5, std=1.5).suited(["log_rate", "counts"])
    g = torch.Generator().manual_seed(seed)
    out = torch.randn(200, 1, generator=g)
    counts = torch.poisson(2.5 * out[:, 0].exp(), generator=g)
    found = measured(task, out, (counts - 2.5) / 1.5)
    rate = 2.5 * out[:, 0].double().exp()
    assert found["deviance"] == pytest.approx(mean_poisson_deviance(counts, rate), rel=1e-6)  # counts are in float32
    assert found["rmse"] == pytest.approx(math.sqrt(mean_squared_error(counts, rate)), rel=1e-6)
    assert found["r2"] == pytest.approx(r2_score(counts, rate), rel=1e-6)
    assert next(iter(task.directions)) == "deviance"


def test_rates_far_out_have_finite_errors():
    task = Regression(mean=2.5, std=1.5).suited(["log_rate", "counts"])
    found = measured(task, torch.tensor([[100.0], [-100.0]]), torch.tensor([0.0, -1.0]))
    assert all(map(math.isfinite, found.values()))
