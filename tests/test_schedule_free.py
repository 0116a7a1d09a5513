"""Optimizers of other packages: those that measure other weights than they train, their state, and what they refuse."""

from __future__ import annotations

import csv
import io
import json
import warnings
from pathlib import Path

import pytest
import torch
from recorded import stop_after
from test_guard import batch, poison
from test_lbfgs import make, same, state, steps
from test_resume import assert_equal_runs
from torch import nn
from torch.optim.swa_utils import update_bn

from lossbench.data import Batches, Split
from lossbench.engine import Best, Length, Part, train
from lossbench.engine.checkpoint import packed_state, read
from lossbench.engine.restore import _set_anew
from lossbench.losses import mse
from lossbench.observe.recorder import DeviceRecorder
from lossbench.optim.foreign import settings_of
from lossbench.tasks import Regression

CPU = torch.device("cpu")
SWITCHING = {
    "schedulefree.AdamWScheduleFree": {"lr": 0.02, "warmup_steps": 3},
    "schedulefree.SGDScheduleFree": {"lr": 0.05},
    "schedulefree.RAdamScheduleFree": {"lr": 0.02},
    "pytorch_optimizer.ScheduleFreeAdamW": {"lr": 0.02},
    "pytorch_optimizer.SPlus": {"lr": 0.01},
}
OTHERS = {f"pytorch_optimizer.{name}": {} for name in ("Lion", "Adan", "SOAP", "Shampoo", "Prodigy")}


def kind(path):
    """A class of another package; what its module warns of when it is imported is not ours to mend."""
    module, name = path.rsplit(".", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(pytest.importorskip(module), name)


def player(path, **options):
    chosen = kind(path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 1))

    def optimizer(parameters):
        return chosen([{"params": parameters, "name": "mine"}], **{**SWITCHING, **OTHERS}[path], **options)

    return make(model, Regression(), [Part("mse", 1.0, mse, ("pred", "target"))], optimizer=optimizer)


def batches_of(n=64, size=16):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=g)
    return Batches(Split(x, x.sum(1).tanh(), None, torch.arange(n)), batch_size=size, seed=3)


def trained(made, every, length=18):
    """The player after so many steps, with an evaluation every so many; and the best weights."""
    best = Best(list(made.modules), "loss", "min")
    values = iter(range(length, 0, -1))  # every evaluation is the best so far

    def evaluate():
        return {"val": {"loss": float(next(values))}}

    train(made, batches_of(), Length(length, every), evaluate, DeviceRecorder([], device=CPU), best)
    return made, best


@pytest.mark.parametrize("path", SWITCHING)
def test_evaluations_do_not_move_the_training(path):
    seldom, often = trained(player(path), 18)[0], trained(player(path), 3)[0]
    assert same(state(seldom), state(often))
    assert not any(t.isnan().any() for t in seldom.parameters)


@pytest.mark.parametrize("path", SWITCHING)
def test_weights_are_put_back_bit_for_bit(path):
    made = player(path)
    steps(made, [batch(i) for i in range(4)])
    before = state(made)
    with made.evaluating(batches_of()):
        assert not same(before["modules"], state(made)["modules"])
    assert same(before, state(made))

    def broken():
        with made.evaluating(batches_of()):
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        broken()
    assert same(before, state(made))


def test_the_best_weights_are_the_average():
    """Schedule-free SGD (Defazio et al. 2024) by hand: loss w^2 from w = 1, rate 0.1, beta 0.9.

    z goes along the gradient at y = 0.1 z + 0.9 x, and x is the mean of all z so far.
    """
    z = x = 1.0
    for n in range(1, 6):
        z -= 0.1 * 2 * (0.1 * z + 0.9 * x)
        x += (z - x) / n
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    chosen = kind("schedulefree.SGDScheduleFree")
    made = make(model, Regression(), [Part("mse", 1.0, mse, ("pred", "target"))], optimizer=chosen, lr=0.1)
    rows = Split(torch.ones(8, 1), torch.zeros(8), None, torch.arange(8))
    best = Best([model], "loss", "min")
    recorder = DeviceRecorder([], device=CPU)
    train(made, Batches(rows, batch_size=4), Length(5, 5), lambda: {"val": {"loss": 1.0}}, recorder, best)
    assert best.weights[0]["weight"].item() == pytest.approx(x, rel=1e-5)
    assert model.weight.item() == pytest.approx(0.1 * z + 0.9 * x, rel=1e-5)


def test_statistics_of_batch_norm_are_those_of_the_measured_weights():
    made = player("schedulefree.AdamWScheduleFree")
    made, best = trained(made, 6)
    found = best.weights[0]
    model = player("schedulefree.AdamWScheduleFree").model
    model.load_state_dict(found)
    batches = batches_of()
    update_bn((micro[0]["input"] for micro in batches.epoch(0)), model)
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[name], model.state_dict()[name])
        assert not torch.allclose(found[name], made.model.state_dict()[name], rtol=1e-3)
    assert made.model.state_dict()["1.num_batches_tracked"] == 18


@pytest.mark.parametrize("path", [*SWITCHING, *OTHERS])
@pytest.mark.parametrize("bad_step", [0, 3])
def test_a_bad_step_moves_nothing(path, bad_step):
    made = player(path)
    steps(made, [batch(i) for i in range(bad_step)])
    before = state(made)
    garbage = [torch.full((6, 4), float("nan")) for _ in range(64)]
    del garbage
    assert steps(made, [poison("input", made, batch(bad_step))])[0][3] == 3.0
    assert same(before, state(made))


@pytest.mark.parametrize("path", [*SWITCHING, *OTHERS])
def test_the_state_survives_a_file_in_the_middle(path):
    whole, half, rest = player(path), player(path), player(path)
    given = [batch(i) for i in range(8)]
    steps(whole, given)
    steps(half, given[:3])
    rest.load(torch.load(io.BytesIO(packed_state(half.state())), weights_only=True))
    for step in range(4, 9):
        rest.begin(step)
        rest.step([given[step - 1]])
    assert same(state(whole), state(rest))


class Passing(torch.optim.SGD):
    """Takes its settings under no name, and counts."""

    def __init__(self, params, **settings):
        super().__init__(params, **settings)
        self.defaults["count"] = self.param_groups[0]["count"] = 0


def test_new_settings_are_told_from_what_is_counted():
    made = Passing([torch.zeros(1)], lr=0.1, momentum=0.5)
    old = [{**made.state_dict()["param_groups"][0], "lr": 0.3, "momentum": 0.9, "count": 7}]
    (found,) = _set_anew(old, made.state_dict()["param_groups"], made, ("optim.momentum",))
    assert (found["lr"], found["momentum"], found["count"]) == (0.1, 0.5, 7)
    assert {"lr", "momentum"} < settings_of(made)


# On the command line

FREE = ("--config-dir", "mine", "optim=free", "dataset=diabetes", "model.hidden=[16]", "model.norm=batch")


@pytest.fixture
def desk(cli, tmp_path):
    kind("schedulefree.AdamWScheduleFree")
    (tmp_path / "mine/optim").mkdir(parents=True)
    text = "_target_: schedulefree.AdamWScheduleFree\nlr: 0.02\nwarmup_steps: 5\n"
    (tmp_path / "mine/optim/free.yaml").write_text(text)
    return cli


def group_of(checkpoint):
    return read(Path(checkpoint)).state("state.pt")["optimizers"][0]["param_groups"][0]


def test_a_run_that_was_interrupted_is_the_same_run(desk, monkeypatch):
    words = (*FREE, "trainer.steps=30", "trainer.eval_every=4")
    assert desk("train", *words, "hydra.run.dir=whole")[0] == 0
    stop_after(monkeypatch, 18)
    assert desk("train", *words, "hydra.run.dir=parts")[0] == 143
    assert group_of("parts/checkpoints/step-00000018")["k"] == 18
    stop_after(monkeypatch, 0)
    assert desk("train", *words[:2], "resume=parts")[::2] == (0, "")
    assert_equal_runs("whole", "parts")


def test_a_new_rate_keeps_the_average(desk, monkeypatch):
    stop_after(monkeypatch, 18)
    assert desk("train", *FREE, "trainer.steps=30", "hydra.run.dir=run")[0] == 143
    stop_after(monkeypatch, 0)
    assert desk("train", *FREE[:2], "resume=run", "optim.lr=0.001")[0] == 0
    group = group_of("run/checkpoints/step-00000030")
    assert (group["k"], group["lr"], group["lr_max"], group["train_mode"]) == (30, 0.001, 0.02, True)


def test_the_best_checkpoint_has_the_metrics_of_the_summary(desk):
    assert desk("train", *FREE, "trainer.steps=30", "trainer.eval_every=5", "hydra.run.dir=run")[0] == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert desk("evaluate", "run", "--config-dir", "mine", "--json", "found.json")[0] == 0
    found = json.loads(Path("found.json").read_text())["metrics"]
    assert found == summary["metrics"]
    with Path("run/evals.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if (int(r["step"]), r["split"]) == (summary["best"]["step"], "val"))
    assert float(row["rmse"]) == found["val"]["rmse"] == summary["best"]["value"]
