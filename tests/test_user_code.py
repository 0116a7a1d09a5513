"""A user's own losses, data sets, models, optimizers and schedules, and what happens when their code breaks."""

import csv
import json
import math
from pathlib import Path

import pytest

from lossbench.engine.record import FIELDS
from lossbench.tasks import Binary, Multiclass, Regression

CODE = """
import numpy as np
import torch
from torch import nn
from lossbench.data import Source, Table

def pinball(pred, target, *, q: float = 0.5):
    return torch.maximum(q * (target - pred), (q - 1) * (target - pred))

def scores(input, target):
    if target.is_floating_point():
        return (input - target).square()
    return -input.log_softmax(1).gather(1, target[:, None])[:, 0]

class Biased(nn.Module):
    def __init__(self, num_classes, scale: float = 1.0):
        super().__init__()
        self.bias, self.scale = nn.Parameter(torch.zeros(num_classes)), scale

    def forward(self, logits, labels):
        return nn.functional.cross_entropy((logits + self.bias) * self.scale, labels, reduction="none")

def rings(rows: int = 120, *, noise: float = 0.1):
    random = np.random.default_rng(0)
    label = np.arange(rows) % 3
    angle, radius = random.uniform(0, 6.28, rows), label + random.normal(0, noise, rows)
    table = Table({"x": radius * np.cos(angle), "y": radius * np.sin(angle), "sure": random.uniform(0.5, 1, rows)})
    return Source(table, label, "multiclass", ("inner", "middle", "outer"), ("three rings",))

class Net(nn.Module):
    def __init__(self, input_shape, outputs, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.Linear(width, outputs))
        self.layers(torch.zeros(1, *input_shape))

    def forward(self, x):
        return self.layers(x)

def fixed(*, input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

class Bias(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return self.bias.expand(len(x), -1)

class Slow(torch.optim.SGD):
    def __init__(self, params, lr: float = 0.1, slower: float = 10.0):
        super().__init__(params, lr=lr / slower)

class Fails(torch.optim.SGD):
    made = 0

    def step(self, closure=None):
        self.made += 1
        if self.made == 3:
            raise ValueError("as asked\\nfor")
        super().step(closure)

steps = 0

def breaks(pred, target, *, how: str = "no", at: int = 3):
    global steps
    if torch.is_grad_enabled() and len(target) > 4:  # a step, and not the trial on a few examples
        steps += 1
        if steps == at:
            raise {"interrupt": KeyboardInterrupt, "exit": SystemExit, "error": ValueError}[how]("as asked\\nfor")
    return (pred - target).square()
"""

FILES = {
    "loss/pinball": "_target_: mine.pinball\nq: 0.9",
    "loss/scores": "_target_: mine.scores",
    "loss/biased": "_target_: mine.Biased\nscale: 2",
    "loss/either": "_target_: [mine.Biased, mine.pinball]",
    "loss/breaks": "_target_: mine.breaks\nhow: error\nat: 3",
    "loss/torch_huber": "_target_: torch.nn.HuberLoss\ndelta: 0.5",
    "loss/torch_mse": "_target_: torch.nn.functional.mse_loss",
    "loss/torch_ce": "_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: 0.2",
    "loss/torch_ce_rows": "_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: 0.2\nreduction: none",
    "loss/torch_bce": "_target_: torch.nn.BCEWithLogitsLoss",
    "dataset/rings": "_target_: mine.rings\nnoise: 0.1",
    "model/net": "_target_: mine.Net\nwidth: 8",
    "model/fixed": "_target_: mine.fixed",
    "model/bias": "_target_: mine.Bias",
    "optim/slow": "_target_: mine.Slow\nlr: 0.1",
    "optim/fails": "_target_: mine.Fails\nlr: 0.1",
    "scheduler/quadratic": "_target_: torch.optim.lr_scheduler.PolynomialLR\ntotal_iters: null\npower: 2.0",
}


@pytest.fixture
def train(cli, tmp_path):
    """Trains three steps with the user's files; returns the exit code, stdout, stderr and the run directories."""
    (tmp_path / "mine.py").write_text(CODE)
    for name, text in FILES.items():
        path = tmp_path / "mine" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(*words):
        before = set(Path("outputs").rglob("status.json"))
        result = cli("train", "--config-dir", "mine", "trainer.steps=3", "trainer.device=cpu", *words)
        return *result, sorted(path.parent for path in {*Path("outputs").rglob("status.json")} - before)

    return run


def completed(train, *words):
    code, _, err, (directory,) = train(*words)
    assert (code, err) == (0, "")
    return directory


def read(directory, name):
    path = directory / name
    text = path.read_text()
    return json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))


def losses(directory):
    return [float(row["loss"]) for row in read(directory, "steps.csv")]


# The records


@pytest.mark.parametrize(
    ("dataset", "task"), [("digits", Multiclass(10)), ("breast_cancer", Binary()), ("diabetes", Regression())]
)
def test_records_have_their_columns_and_finite_numbers(train, dataset, task):
    run = completed(train, f"dataset={dataset}", "trainer.eval_every=2")
    steps, evals, summary = (read(run, name) for name in ("steps.csv", "evals.csv", "summary.json"))
    assert list(steps[0]) == list(FIELDS)
    assert [row["step"] for row in steps] == ["1", "2", "3"]
    assert {row["skipped"] for row in steps} == {""}
    numbers = [float(value) for row in steps for key, value in row.items() if key != "skipped"]
    assert list(evals[0]) == ["step", "epoch", "split", "loss", *task.directions]
    assert [row["step"] + row["split"] for row in evals] == ["2train", "2val", "3train", "3val"]
    numbers += [float(value) for row in evals for key, value in row.items() if key != "split"]
    assert all(list(metrics) == ["loss", *task.directions] for metrics in summary["metrics"].values())
    numbers += [value for metrics in summary["metrics"].values() for value in metrics.values()]
    assert all(map(math.isfinite, numbers))


def test_two_runs_of_one_second_have_a_directory_each(train):
    assert completed(train) != completed(train)


# Losses


def test_a_function_with_a_hyperparameter(train):
    high = completed(train, "dataset=diabetes", "loss=pinball")
    low = completed(train, "dataset=diabetes", "loss=pinball", "loss.q=0.1")
    assert read(high, "summary.json")["choices"]["loss"] == "pinball"
    assert "q: 0.1" in (low / "config.yaml").read_text()
    # at the start, under- and overestimates weigh 9 to 1 and 1 to 9: together, they weigh as much as an absolute error
    absolute = losses(completed(train, "dataset=diabetes", "loss=mae"))
    assert losses(high)[0] + losses(low)[0] == pytest.approx(absolute[0])


@pytest.mark.parametrize(
    ("theirs", "ours", "dataset"),
    [
        ("torch_huber", "huber loss.delta=0.5", "diabetes"),
        ("torch_mse", "mse", "diabetes"),
        ("scores", "mse", "diabetes"),
        ("scores", "cross_entropy", "digits"),
        ("torch_ce", "label_smoothing loss.smoothing=0.2", "digits"),
        ("torch_ce_rows", "label_smoothing loss.smoothing=0.2", "digits"),
        ("torch_bce", "bce", "breast_cancer"),
    ],
)
def test_torchs_own_losses_and_those_on_input_and_target_train_as_ours(train, theirs, ours, dataset):
    one, other = (completed(train, f"dataset={dataset}", *f"loss={loss}".split()) for loss in (theirs, ours))
    assert losses(one) == pytest.approx(losses(other))
    for split, metrics in read(one, "summary.json")["metrics"].items():
        assert metrics == pytest.approx(read(other, "summary.json")["metrics"][split])


def test_a_module_with_parameters_of_its_own(train):
    plain, own = completed(train), completed(train, "loss=biased", "loss.scale=1")
    counts = [read(run, "summary.json")["parameters"] for run in (plain, own)]
    assert counts[1] == counts[0] + 10  # one bias per class: the number of classes was filled in
    # it starts at 0, where both losses are equal, and moves, where they are not
    assert losses(own)[0] == losses(plain)[0]
    assert losses(own)[1:] != losses(plain)[1:]


def test_the_first_of_several_that_fits_is_taken(train):
    assert losses(completed(train, "loss=either")) == losses(completed(train, "loss=biased", "loss.scale=1"))
    words = (["loss=either"], ["loss=pinball", "loss.q=0.5"])
    either, pinball = (losses(completed(train, "dataset=diabetes", *chosen)) for chosen in words)
    assert either == pinball


# Data sets, models, optimizers, schedules


def test_a_data_set(train):
    code, out, _, (run,) = train("dataset=rings", "dataset.noise=0.01", "+dataset.rows=90", "dataset.weight=sure")
    assert code == 0
    assert "three rings" in out
    assert read(run, "summary.json")["choices"]["dataset"] == "rings"
    assert set(read(run, "summary.json")["metrics"]["test"]) == {"loss", *Multiclass(3).directions}


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ("model=net", 65 * 8 + 9 * 10),
        ("model=net model.width=4", 65 * 4 + 5 * 10),
        ("model=fixed", 65 * 10),
        ("model=net dataset=diabetes", 11 * 8 + 9),
    ],
)
def test_a_model(train, words, parameters):
    run = completed(train, *words.split())
    assert read(run, "summary.json")["parameters"] == parameters


def test_a_model_without_weights_has_none_to_penalise(train):
    completed(train, "model=bias")
    code, _, err, directories = train("model=bias", "loss=regularized")
    assert (code, directories) == (2, [])
    assert err == (
        "lossbench: error: loss 'regularized': no weights to penalise: the model has no parameters of two or more "
        "dimensions\n"
    )


def test_an_optimizer_and_a_schedule(train):
    rates = [float(row["lr"]) for row in read(completed(train, "optim=slow", "scheduler=quadratic"), "steps.csv")]
    assert rates == pytest.approx([0.01, 0.01 * (2 / 3) ** 2, 0.01 * (1 / 3) ** 2])


# Code that breaks


def test_an_interrupt_leaves_what_was_recorded(train):
    code, out, err, (run,) = train("dataset=diabetes", "loss=breaks", "loss.how=interrupt")
    assert (code, err) == (130, "")
    assert f"left at once; what was recorded is in {run}" in out
    assert read(run, "status.json")["status"] == "interrupted"
    assert len(read(run, "steps.csv")) == 2


def test_an_interrupt_ends_a_sweep(train):
    code, _, err, directories = train("-m", "dataset=diabetes", "loss=breaks", "loss.how=interrupt", "seed=0,1")
    assert (code, err) == (130, "")
    assert [read(run, "status.json")["status"] for run in directories] == ["interrupted"]


def test_an_optimizer_that_fails_in_a_later_step(train):
    code, _, err, (run,) = train("dataset=diabetes", "optim=fails")
    assert (code, err) == (2, "lossbench: error: optim 'Fails' failed in a step: as asked\n")
    assert read(run, "status.json")["error"] == "optim 'Fails' failed in a step: as asked"


@pytest.mark.parametrize(("how", "cause"), [("error", "ValueError"), ("exit", "SystemExit")])
def test_a_job_whose_code_breaks_does_not_stop_the_others(train, how, cause):
    code, out, err, directories = train("-m", "dataset=diabetes", f"loss.how={how}", "loss=breaks", "seed=0,1")
    assert code == 10
    assert err == f"lossbench: error: 1 of 2 jobs failed; the first: {cause}: as asked for\n"
    assert [read(run, "status.json")["status"] for run in directories] == ["failed", "completed"]
    assert f"│ 0-seed=0 │ {cause}: as asked for │" in out
    assert "Traceback" in (directories[0] / "run.log").read_text()
