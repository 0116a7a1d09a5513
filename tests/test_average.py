"""Averages of the weights: torch's own, moved by the steps that were taken, measured beside the raw weights."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import test_step
import torch
from devices import DEVICES
from recorded import stop_after
from test_guard import batch as regression
from test_guard import make as guarded
from test_guard import poison
from test_recovery import STEPS, clean, data, make, run, tensors_of
from test_resume import DROPOUT, assert_equal_runs, scalars_of, state_of
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn, update_bn

from lossbench.build import build
from lossbench.compose import compose
from lossbench.data import Batches, Split
from lossbench.data.rowwise import Rowwise
from lossbench.engine import Average, Best, Checkpoints, autocast, refresh_batch_norm
from lossbench.engine.checkpoint import read, write
from lossbench.engine.restore import found, number
from lossbench.losses import cross_entropy
from lossbench.tasks import Multiclass

CPU = torch.device("cpu")
EMA = ("trainer.average.kind=ema", "trainer.average.decay=0.9")
SWA = ("trainer.average.kind=swa", "trainer.average.start=0.3")


def averages(average):
    return [tensor.clone() for tensor in average.weights]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def with_average(place="none", step=None, *, kind="ema", policy="abort", **options):
    player, batches = make(place, step, policy=policy)
    player.average = Average(kind, player.parameters, **{"decay": 0.9, **options})
    return player, batches


# What it is


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("kind", "decay"), [("ema", 0.9), ("ema", 0.999), ("swa", 0.9)])
def test_equals_torchs_own_bit_for_bit(kind, decay, device):
    model = test_step.net().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    player = test_step.make(Multiclass(3), cross_entropy, model, optimizer, device=torch.device(device))
    player.average = Average(kind, player.parameters, decay=decay, warmup=False)
    move = get_ema_multi_avg_fn(decay) if kind == "ema" else get_swa_multi_avg_fn()
    wanted = AveragedModel(player.model, multi_avg_fn=move)
    for step in range(1, 21):
        player.begin(step)
        player.step([{key: value.to(device) for key, value in test_step.classes(seed=step).items()}])
        wanted.update_parameters(player.model)
    assert same(averages(player.average), list(wanted.parameters()))
    assert player.average.updates == 20


def test_ema_follows_closely_at_first():
    """By hand: the decay of update n is min(0.3, (1 + n) / (10 + n)): 2/11, 3/12, and then 0.3 below 4/13."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    average = Average("ema", [weight], decay=0.3)
    wanted = 1.0
    for step, decay in enumerate((0, 2 / 11, 3 / 12, 0.3, 0.3), 1):
        weight.data.fill_(step**2)
        average.take(step)
        wanted = decay * wanted + (1 - decay) * step**2
        assert averages(average)[0].item() == pytest.approx(wanted, rel=1e-12)


def test_swa_is_the_mean_of_the_weights_at_the_ends_of_epochs():
    """Epochs of 8 steps, averaged after step 8: at 16, 24, 32 and 40."""
    player, batches = with_average(kind="swa", start=8, every=8)
    taken = []
    for step in range(1, 44):
        player.begin(step)
        player.step(batches.at(step))
        if step in (16, 24, 32, 40):
            taken.append([p.detach().double() for p in player.parameters])
    assert player.average.updates == 4
    for mean, *weights in zip(averages(player.average), *taken, strict=True):
        torch.testing.assert_close(mean.double(), sum(weights) / 4, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("words", "start", "every"),
    [
        ((), 0, 1),
        (("kind=swa",), 30, 7),  # three quarters of 40 steps, at the ends of epochs
        (("start=0.25", "every=epoch"), 10, 7),
        (("start=12", "every=5"), 12, 5),
        (("kind=swa", "start=0", "every=step"), 0, 1),
    ],
)
def test_when_it_moves(words, start, every):
    words = [f"trainer.average.{word}" for word in ("kind=ema", *words)]
    built = build(compose("dataset=diabetes", "trainer.batch_size=45", "trainer.steps=40", *words))
    assert built.batches.steps_per_epoch == 7
    assert (built.player.average.start, built.player.average.every) == (start, every)


def test_parameters_of_a_loss_are_averaged_too():
    built = build(compose("dataset=diabetes", "loss=adaptive_robust", "trainer.steps=2", *EMA))
    assert len(list(built.player.objective.modules.parameters())) == 2
    assert len(averages(built.player.average)) == len(built.player.parameters)


def test_the_weights_are_put_back():
    player, batches = with_average()
    for step in (1, 2, 3):
        player.begin(step)
        player.step(batches.at(step))
    before = tensors_of(player)
    with player.average.in_place(player.modules):
        assert same([p.detach() for p in player.parameters], averages(player.average))
        refresh_batch_norm(player.model, batches, player.cast)
        assert not torch.equal(player.model[1].running_mean, before[2])
    assert same(before, tensors_of(player))


# Only steps that were taken


@pytest.mark.parametrize("place", ["input", "loss", "gradient", "update"])
def test_a_skipped_step_does_not_count(place):
    step = random.Random(place).randrange(2, STEPS)
    player, batches = with_average(place, step, policy="skip")
    assert run(player, batches)[0] == "length"
    sound = clean(0)
    sound.average = Average("ema", sound.parameters, decay=0.9)
    for taken in range(1, STEPS + 1):
        if taken != step:
            sound.begin(taken)
            sound.step(batches.at(taken))
    assert player.average.updates == STEPS - 1
    assert same(averages(player.average), averages(sound.average))


def test_a_step_that_the_device_refuses_does_not_count():
    """Nor do those after it, until the host looks."""
    player = guarded("fused adamw", gate="device")
    player.average = Average("ema", player.parameters)
    for step, verdict in enumerate((0.0, 0.0, 3.0, 4.0), 1):
        bad = step == 3
        player.begin(step)
        row = player.step([poison("input", player, regression(step)) if bad else regression(step)])
        assert row[3].item() == verdict
    assert player.average.updates == 2
    player.average.load_state_dict(player.average.state_dict())
    player.guard.load_state_dict(player.guard.state_dict())  # the host has looked
    player.begin(5)
    player.step([regression(5)])
    assert player.average.updates == 3


def test_a_run_that_ends_counts_the_steps_before_its_end():
    """Under the device gate, which learns of the bad step only when the host looks."""
    player, batches = with_average("loss", 8)
    player.guard.gate = "device"
    assert run(player, batches)[0].startswith("step 8")
    assert player.average.moves > 8
    assert player.average.updates == 7


def test_steps_that_are_run_again_count_once():
    """An update that overflows only the first time: the steps since the last look are made again."""
    player, batches = with_average("update", 12)
    player.optimizers[0].clock.times = 1
    assert run(player, batches)[0] == "length"
    sound, batches = with_average()
    run(sound, batches)
    assert same(averages(player.average), averages(sound.average))
    assert player.average.updates == STEPS


def test_the_way_back_to_a_checkpoint_leads_to_its_average(tmp_path):
    player, batches = with_average(kind="swa", every=2)
    best, averaged = Best(player.modules, "m", "max"), Best(player.modules, "m", "max")
    made = Checkpoints(tmp_path / "checkpoints", player, best, dict, print, averaged=averaged, keep=3)
    for step in range(1, 10):
        player.begin(step)
        player.step(batches.at(step))
        averaged.update(step, 1, {"m": step})
        if step in (5, 7):
            made.save(step, 1)
        if step == 5:
            wanted, updates = averages(player.average), player.average.updates
    assert [number(path) for path in found(made.root, "averaged")] == [5, 7]
    made.forget_after(6)
    assert made.back()[0] == 5
    assert same(averages(player.average), wanted)
    assert player.average.updates == updates == 2
    assert (averaged.step, averaged.value) == (5, 5)
    assert (made.root / "averaged").resolve().name == "averaged-00000005"
    assert not (made.root / "averaged-00000007").exists()
    made.forget_after(0)
    assert list(made.root.iterdir()) == []


# BatchNorm


def normed(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rowwise", [False, True])
def test_batch_norm_is_refreshed_as_by_torch(precision, rowwise):
    """70 rows in batches of 16: the last 6 rows would count as much as 16."""
    split, model, cast = data(70), normed(), autocast(precision, CPU)
    if rowwise:
        inputs = Rowwise(split.inputs.numpy(), np.arange(70), (4,))
        split = Split(inputs, split.target, None, split.rows)
    batches = Batches(split, batch_size=16, seed=3)
    refresh_batch_norm(model, batches, cast)
    wanted, order = normed(), batches.order(0)
    rows = data(70).inputs
    with cast():
        update_bn([rows[order[i : i + 16]] for i in (0, 16, 32, 48)], wanted)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), wanted.buffers(), strict=True))
    assert model[1].num_batches_tracked == 4
    assert model[1].momentum == 0.3


def test_at_most_so_many_rows_are_read(monkeypatch):
    monkeypatch.setattr("lossbench.engine.average.REFRESHED", 40)
    model = normed()
    refresh_batch_norm(model, Batches(data(70), batch_size=16), autocast("fp32", CPU))
    assert model[1].num_batches_tracked == 2
    refresh_batch_norm(model, Batches(data(10), batch_size=16), autocast("fp32", CPU))
    assert model[1].num_batches_tracked == 1


def test_refreshing_draws_nothing_and_leaves_frozen_layers():
    model = normed(dropout=0.5)
    model.append(nn.BatchNorm1d(1).eval())
    model[0].eval()
    model[-1].running_mean.fill_(2)
    frozen = [buffer.clone() for buffer in model[-1].buffers()]
    streams = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    seen = []
    refresh_batch_norm(model, Batches(data(), batch_size=16), autocast("fp32", CPU), lambda x: seen.append(1) or x + 1)
    assert len(seen) == 4
    assert same(frozen, list(model[-1].buffers()))
    assert [m.training for m in model] == [False, True, True, True, True, False]
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (np.random.get_state()[1] == streams[1]).all()  # noqa: NPY002
    assert random.getstate() == streams[2]


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken")


def test_an_interrupted_refresh_puts_the_momenta_back():
    model = normed().append(Broken())
    with pytest.raises(RuntimeError, match="broken"):
        refresh_batch_norm(model, Batches(data(), batch_size=16), autocast("fp32", CPU))
    assert model[1].momentum == 0.3


class Switching(torch.optim.SGD):
    def train(self):
        pass

    def eval(self):
        pass


@pytest.mark.parametrize("place", ["average", "optimizer"])
def test_statistics_are_found_from_augmented_inputs(place):
    """Of an average, and of an optimizer that measures other weights than it trains: inputs moved by 100."""
    built = build(compose("dataset=diabetes", *DROPOUT, "trainer.steps=4", *EMA))
    player, batches = built.player, built.batches
    if place == "optimizer":
        player.optimizers = [Switching(player.parameters, lr=0.1)]
    player.begin(1)
    player.step(batches.at(1))
    player.augment = lambda x: x + 100
    means = []
    norm = next(m for m in player.model.modules() if isinstance(m, nn.BatchNorm1d))
    if place == "average":
        norm.register_forward_hook(lambda *_: None if norm.training else means.append(norm.running_mean.clone()))
        built.averaged.measure(1, 1)
    else:
        with player.evaluating(batches):
            means.append(norm.running_mean.clone())
    assert means[0].abs().max() > 10
    assert norm.running_mean.abs().max() < 10


# Runs


def evals_of(path):
    with Path(path, "evals.csv").open() as file:
        return list(csv.DictReader(file))


def summary_of(path):
    return json.loads(Path(path, "summary.json").read_text())


@pytest.fixture
def desk(cli):
    return cli


WORDS = (
    "train",
    "dataset=breast_cancer",
    *DROPOUT,
    "trainer.steps=60",
    "trainer.early_stop=2",
    "trainer.eval_every=10",
)


def test_the_raw_run_is_what_it_was(desk):
    assert desk(*WORDS, "hydra.run.dir=raw")[0] == 0
    assert desk(*WORDS, *EMA, "hydra.run.dir=ema")[0] == 0
    assert Path("raw/steps.csv").read_bytes() == Path("ema/steps.csv").read_bytes()
    assert evals_of("raw") == [row for row in evals_of("ema") if row["split"] != "val_ema"]
    for name in ("best", "last"):
        weights = f"checkpoints/{name}/model.safetensors"
        assert Path("raw", weights).read_bytes() == Path("ema", weights).read_bytes()
    raw, ema = summary_of("raw"), summary_of("ema")
    assert raw["metrics"] == {split: ema["metrics"][split] for split in ("train", "val", "test")}
    assert (raw["best"], raw["reason"], raw["averaged"]) == (ema["best"], ema["reason"], None)
    assert not Path("raw/checkpoints/averaged").exists()


def test_the_averaged_weights_are_measured_and_can_be_had(desk):
    words = ("dataset=breast_cancer", *DROPOUT, "trainer.steps=60", "trainer.eval_every=10", *SWA)
    code, out, err = desk("train", *words, "hydra.run.dir=run")
    assert (code, err) == (0, "")
    assert 60 < max(len(line) for line in out.splitlines() if line.startswith("│")) <= 80
    assert [word in out for word in ("val_swa", "test_swa", "averaged     epoch")] == [True] * 3
    # Epochs of 25 steps: after step 18 the ends of epochs are 25 and 50.
    rows = [row for row in evals_of("run") if row["split"] == "val_swa"]
    assert [row["step"] for row in rows] == ["30", "40", "50", "60"]
    summary = summary_of("run")
    averaged, metrics = summary["averaged"], summary["metrics"]
    assert (averaged["kind"], averaged["updates"], averaged["metric"]) == ("swa", 2, "accuracy")
    assert list(metrics) == ["train", "val", "test", "val_swa", "test_swa"]
    values = [float(row["accuracy"]) for row in rows]
    assert averaged["value"] == metrics["val_swa"]["accuracy"] == max(values)
    assert averaged["step"] == max(int(row["step"]) for row in rows if float(row["accuracy"]) == max(values))
    manifest = json.loads(Path("run/checkpoints/averaged/manifest.json").read_text())
    assert {key: manifest[key] for key in ("step", "metric", "value")} == {
        key: averaged[key] for key in ("step", "metric", "value")
    }
    code, out, err = desk("evaluate", "run", "--checkpoint", "averaged", "--json", "-")
    assert (code, err) == (0, "")
    again = json.loads(out)["metrics"]
    assert (again["val"], again["test"]) == (metrics["val_swa"], metrics["test_swa"])
    assert again["val"] != metrics["val"]
    started = build(compose(*words, "weights=run/checkpoints/averaged"))
    saved = read(Path("run/checkpoints/averaged").resolve()).tensors("model.safetensors")
    for step in ("as they are", "statistics found again"):
        now = started.player.model.state_dict()
        assert all(torch.equal(now[key.removeprefix("model.")], value) for key, value in saved.items()), step
        refresh_batch_norm(started.player.model, started.batches, started.player.cast)
    shown = scalars_of("run")
    assert [step for step, _ in shown["val_swa/accuracy"]] == [30, 40, 50, 60]
    assert shown["test_swa/accuracy"][0][1] == pytest.approx(metrics["test_swa"]["accuracy"])
    assert shown["best_swa/loss"][0][1] == pytest.approx(metrics["val_swa"]["loss"])
    assert desk("repair", "run")[0] == 0
    assert scalars_of("run") == shown


@pytest.mark.parametrize("average", [EMA, SWA])
def test_a_resumed_run_equals_the_one_that_was_not_interrupted(desk, monkeypatch, average):
    words = ("train", "dataset=diabetes", *DROPOUT, "trainer.steps=60", "trainer.eval_every=7", *average)
    assert desk(*words, "hydra.run.dir=whole")[0] == 0
    first, second = random.Random(average[0]).randrange(1, 25), random.Random(average[0]).randrange(5, 25)
    stop_after(monkeypatch, first)
    assert desk(*words, "hydra.run.dir=parts")[0] == 143
    stop_after(monkeypatch, second)
    assert desk("train", "resume=parts")[0] == 143
    stop_after(monkeypatch, 0)
    assert desk("train", "resume=parts")[0] == 0
    assert_equal_runs("whole", "parts")
    state = state_of("parts")
    assert state["average"]["updates"] == summary_of("whole")["averaged"]["updates"] > 1
    weights = [Path(run, "checkpoints/averaged/model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]


def stopped(desk, monkeypatch, *words):
    stop_after(monkeypatch, 15)
    short = ("dataset=diabetes", "trainer.steps=30", "trainer.batch_size=32", "trainer.eval_every=5")
    assert desk("train", *short, *words, "hydra.run.dir=run")[0] == 143
    stop_after(monkeypatch, 0)


def test_averaging_may_begin_and_end_where_a_run_goes_on(desk, monkeypatch):
    stopped(desk, monkeypatch)
    stop_after(monkeypatch, 8)
    code, out, _ = desk("train", "resume=run", *EMA)
    assert code == 143
    assert "trainer.average.kind was null and is ema from here on" in out
    assert state_of("run")["average"]["updates"] == 8
    stop_after(monkeypatch, 0)
    assert desk("train", "resume=run", "trainer.average.kind=null")[0] == 0
    assert [row["step"] for row in evals_of("run") if row["split"] == "val_ema"] == ["20"]
    assert summary_of("run")["averaged"] is None


def test_another_kind_of_average_begins_anew(desk, monkeypatch):
    stopped(desk, monkeypatch, *EMA)
    assert desk("train", "resume=run", "trainer.average.kind=swa", "trainer.average.every=1")[0] == 0
    summary = summary_of("run")
    assert summary["averaged"]["updates"] == 30 - 22  # after three quarters of 30 steps
    assert summary["averaged"]["step"] in (25, 30)
    assert list(summary["metrics"]) == ["train", "val", "test", "val_swa", "test_swa"]


def test_what_goes_on():
    """An average of the same kind, of the same parameters, that moved after the start last."""
    weight, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    state = Average("ema", [weight]).state_dict()
    assert Average("ema", [weight], start=3).goes_on(state)
    moved = Average("ema", [weight])
    moved.take(3)
    state = moved.state_dict()
    assert Average("ema", [weight], start=2).goes_on(state)
    assert not Average("ema", [weight], start=3).goes_on(state)
    assert not Average("swa", [weight], start=2).goes_on(state)
    assert not Average("ema", [other]).goes_on(state)
    assert not Average("ema", [weight]).goes_on(None)


@pytest.mark.parametrize(("average", "first", "updates"), [(SWA[:1], 13, 4), (EMA, 1, 16 * 10)])
def test_a_longer_run_averages_from_its_own_start_on(desk, average, first, updates):
    """Three quarters of 16 epochs, of 10 steps, are 12: what was averaged of epochs 7 and 8 is no part of it."""
    words = ("train", "dataset=diabetes", "trainer.batch_size=32", *average, "hydra.run.dir=run")
    assert desk(*words, "trainer.epochs=8")[0] == 0
    assert summary_of("run")["averaged"]["updates"] == (2 if first == 13 else 80)
    assert desk("train", "resume=run", "trainer.epochs=16")[0] == 0
    averaged = summary_of("run")["averaged"]
    assert averaged["updates"] == updates
    assert averaged["epoch"] >= first


def test_a_checkpoint_from_before_there_were_averages(desk, monkeypatch):
    stopped(desk, monkeypatch)
    path = Path("run/checkpoints/step-00000015")
    facts = dict(read(path).facts)
    names = facts.pop("files")
    del facts["config"]["trainer"]["average"], facts["sha256"], facts["format"]
    write(path, {name: (path / name).read_bytes() for name in names}, facts)
    code, out, err = desk("train", "resume=run")
    assert (code, err) == (0, "")
    assert "trainer.average" not in out


FREE = """
import torch
class Free(torch.optim.SGD):
    def train(self): pass
    def eval(self): pass
"""


def test_an_optimizer_that_averages_by_itself(desk, tmp_path):
    tmp_path.joinpath("free.py").write_text(FREE)
    tmp_path.joinpath("mine/optim").mkdir(parents=True)
    tmp_path.joinpath("mine/optim/free.yaml").write_text("_target_: free.Free\nlr: 0.1\n")
    code, _, err = desk("train", "--config-dir", "mine", "optim=free", *EMA)
    line = "trainer.average.kind=ema: optim 'free' averages the weights by itself; leave one of them out"
    assert (code, err) == (2, f"lossbench: error: {line}\n")


def test_a_run_without_an_average_has_none_to_evaluate(desk):
    assert desk("train", "trainer.steps=60", *SWA, "trainer.max_time=1e-9", "hydra.run.dir=run")[0] == 0
    code, _, err = desk("evaluate", "run", "--checkpoint", "averaged")
    line = (
        "there is no checkpoint 'averaged' in run/checkpoints; its weights were not averaged (trainer.average.kind), "
    )
    assert (code, err) == (5, f"lossbench: error: {line}or not yet\n")
    assert summary_of("run")["averaged"]["updates"] == 0
