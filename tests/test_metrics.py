"""The metrics against scikit-learn, torchmetrics and plain loops; the tasks' fields."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

from lossbench.tasks import TASKS, Binary, Multiclass, Regression, metrics

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
        "multiclass": hidden.argmax(1),
    }
    return out, target[task.name]


def measured(task, out, target):
    fields = task.forward(lambda x: x, {"input": out, "target": target}, task.pair)
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
    assert metrics.auroc(ours, there).item() == approx(roc_auc_score(targets, scores))
    assert metrics.f1(ours > 0, there).item() == approx(f1_score(targets, scores > 0))


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        (tensor(1, 2, 3, 4), yes(0, 0, 1, 1), 1),
        (tensor(1, 2, 3, 4), yes(1, 1, 0, 0), 0),
        (tensor(3, 1, 2), yes(0, 0, 1), 0.5),  # of the two pairs, one is in order
        (tensor(1, 1, 2), yes(0, 1, 1), 0.75),  # a tie is half a pair
        (tensor(7, 7, 7, 7), yes(0, 1, 0, 0), 0.5),
        (tensor(-math.inf, 0, math.inf), yes(0, 1, 1), 1),
        (tensor(1, 2, 3), yes(1, 1, 1), NAN),
        (tensor(1, 2, 3), yes(0, 0, 0), NAN),
    ],
)
def test_auroc_by_hand(scores, targets, expected):
    assert metrics.auroc(scores, targets).item() == approx(expected)


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
    assert found["accuracy"] == approx(accuracy_score(target, predicted))
    assert found["macro_f1"] == approx(f1_score(target, predicted, average="macro"))
    assert found["nll"] == approx(log_loss(target, probs, labels=range(6)))
    assert found["ece"] == approx(binned_gap(probs.max(1).tolist(), (predicted == target).tolist()))


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
    assert found["f1"] == approx(f1_score(target, predicted))
    assert found["auroc"] == approx(roc_auc_score(target, score))
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


EACH_TASK = pytest.mark.parametrize("task", [Regression(), Binary(), Multiclass(3)], ids=lambda task: task.name)


def test_each_task_is_tested():
    assert set(TASKS) == {"regression", "binary", "multiclass"}


@EACH_TASK
def test_metrics_are_float64_scalars_with_a_direction(task):
    out, target = examples(task)
    found = task.metrics(task.forward(lambda x: x, {"input": out, "target": target}, task.pair))
    assert list(found) == list(task.directions)
    assert set(task.directions.values()) <= {"max", "min"}
    assert all(value.dtype == torch.float64 and value.shape == () for value in found.values())


@EACH_TASK
def test_forward_gives_what_is_needed_and_no_more(task):
    out, target = examples(task)
    batch = {"input": out, "target": target}
    for needs in [*((name,) for name in task.fields), task.pair, task.fields, ()]:
        fields = task.forward(lambda x: x, batch, needs)
        assert set(fields) == set(needs)
        assert all(len(value) == len(out) for value in fields.values())


@EACH_TASK
def test_forward_passes_the_examples_weights_on_where_there_are_any(task):
    out, target = examples(task)
    weight = torch.rand(len(out))
    batch = {"input": out, "target": target, "weight": weight}
    fields = task.forward(lambda x: x, batch, task.pair)
    assert set(fields) == {*task.pair, "weight"}
    assert torch.equal(fields["weight"], weight)


@EACH_TASK
def test_forward_gives_float32_and_lets_the_gradient_through(task):
    out, target = examples(task)
    scale = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    batch = {"input": out.bfloat16(), "target": target}
    field = task.forward(lambda x: x * scale, batch, task.pair)[task.pair[0]]
    assert field.dtype == torch.float32
    assert torch.autograd.grad(field.square().sum(), scale)[0] > 0


def test_forward_shapes_and_probabilities():
    x = torch.tensor([[0.0], [math.log(3)]])
    fields = Binary().forward(lambda x: x, {"input": x, "target": torch.zeros(2)}, Binary.fields)
    assert fields["logits"].shape == (2,)
    assert fields["probs"].tolist() == pytest.approx([0.5, 0.75])

    x = torch.tensor([[1.0, 2.0, 5.0]]).log()
    fields = Multiclass(3).forward(lambda x: x, {"input": x, "target": ids(0)}, Multiclass.fields)
    assert fields["probs"].tolist()[0] == pytest.approx([0.125, 0.25, 0.625])
    assert fields["log_probs"].exp().tolist()[0] == pytest.approx([0.125, 0.25, 0.625])

    x = torch.ones(4, 1)
    assert Regression().forward(lambda x: x, {"input": x, "target": x[:, 0]}, ["pred"])["pred"].shape == (4,)
