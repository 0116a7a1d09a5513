"""The learning-rate range test: what it reads from a curve, that it leaves no trace, and runs that begin with it."""

from __future__ import annotations

import csv
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from devices import DEVICES
from recorded import bytes_of, stop_after
from test_step import make
from torch import nn

from lossbench import rates
from lossbench.build import build
from lossbench.compose import compose
from lossbench.data import Batches, Split
from lossbench.engine.range_rule import Watch, judged
from lossbench.engine.range_test import range_test
from lossbench.engine.tree import cloned
from lossbench.errors import ConfigError, Diverged
from lossbench.losses import mse
from lossbench.rates import find_rate, recorded, settled, with_rate
from lossbench.tasks import Regression

SMALL = ("dataset=breast_cancer", "model=linear", "trainer.batch_size=64", "trainer.steps=12")

# What a curve says


def valley(falls=(1e-3, 1e-1), explodes=1.0, noise=0.0, seed=0, height=2.0, floor=0.5, rates=None):
    """A loss that is level, falls along half a cosine over the logarithm of the rate, is level, and explodes."""
    rates = np.geomspace(1e-7, 10, 100) if rates is None else rates
    share = np.clip((np.log10(rates) - np.log10(falls[0])) / np.log10(falls[1] / falls[0]), 0, 1)
    loss = floor + height * (1 + np.cos(np.pi * share)) / 2
    loss += noise * np.random.default_rng(seed).normal(size=len(rates))
    loss[rates > explodes] += (rates[rates > explodes] / explodes) ** 8
    return rates, loss


def test_the_steepest_slope_is_found_without_lag():
    """A cosine is steepest in its middle, at 1e-2, a decade and more below the explosion at 1."""
    found = judged(*valley(), stopped=True)
    assert found.steepest == pytest.approx(1e-2, rel=0.15)
    assert found.suggested == pytest.approx(found.steepest, rel=0.05)
    assert found.reason.startswith("steepest slope")


def test_divergence_is_where_the_loss_leaves_its_valley():
    assert judged(*valley(), stopped=True).diverged_at == pytest.approx(1.0, rel=0.35)


def test_a_decade_under_divergence_where_the_slope_is_nearer():
    found = judged(*valley(falls=(1e-3, 1.0), explodes=0.2), stopped=True)
    assert found.diverged_at == pytest.approx(0.3, rel=0.5)
    assert found.steepest > found.diverged_at / 10
    assert found.suggested == pytest.approx(found.diverged_at / 10, rel=0.05)
    assert found.reason.startswith("a decade under divergence")


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 235])  # of 0 to 299 the one whose first losses fall steepest
def test_noise_at_tiny_rates_is_no_slope(seed):
    found = judged(*valley(noise=0.2, seed=seed), stopped=True)
    assert 3e-3 < found.steepest < 3e-2


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_is_no_fall(seed):
    found = judged(*valley(noise=0.2, seed=seed, height=0.0, explodes=100), stopped=False)
    assert (found.suggested, found.steepest) == (None, None)
    assert found.reason.startswith("the loss does not fall up to a rate of 10")


def test_a_loss_that_only_rises():
    found = judged(*valley(height=0.0), stopped=True)
    assert found.suggested is None
    assert "does not fall at any rate before it explodes at 10" in found.reason


def test_no_divergence_in_the_range():
    found = judged(*valley(explodes=100), stopped=False)
    assert found.diverged_at is None
    assert found.suggested == pytest.approx(1e-2, rel=0.2)
    assert found.reason.endswith("no divergence in the range")


def test_what_a_bounded_loss_loses_again_is_a_divergence():
    """A loss that cannot explode comes back to where it began."""
    x, loss = valley(explodes=100)
    loss[x > 0.5] = 2.5
    assert judged(x, loss, stopped=False).diverged_at == pytest.approx(0.5, rel=0.35)


def test_a_fall_after_the_explosion_is_no_slope_to_take():
    x, loss = valley(explodes=100)
    loss[(x > 0.3) & (x < 3)] = 2.5
    found = judged(x, loss, stopped=False)
    assert found.steepest == pytest.approx(1e-2, rel=0.15)
    assert found.diverged_at == pytest.approx(0.3, rel=0.35)


@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0), (1e-6, 0), (1, -2.0)])
def test_neither_the_unit_nor_the_zero_of_the_loss_matters(scale, shift):
    x, loss = valley(noise=0.05)
    a, b = judged(x, loss, stopped=True), judged(x, scale * (loss + shift), stopped=True)
    assert (a.steepest, a.diverged_at, a.suggested) == (b.steepest, b.diverged_at, b.suggested)


@pytest.mark.parametrize("last", [math.inf, math.nan, 1e30])
def test_the_last_loss_does_not_reach_back(last):
    x, loss = valley(explodes=100)
    short = judged(x[:90], loss[:90], stopped=True)
    found = judged(x[:91], [*loss[:90], last], stopped=True)
    assert found.steepest == short.steepest
    assert np.isfinite(found.smoothed).all()
    assert found.smoothed[:75] == pytest.approx(short.smoothed[:75])


def test_the_edges_of_the_range_are_named():
    assert "starts lower" in judged(*valley(falls=(1e-8, 1e-5)), stopped=True).advice
    assert "stops higher" in judged(*valley(falls=(1e-1, 1e3), explodes=100), stopped=False).advice
    assert judged(*valley(), stopped=True).advice == ""


def test_too_few_steps_to_read():
    found = judged([1e-7, 1e-6, 1e-5], [1.0, 2.0, math.inf], stopped=True)
    assert (found.suggested, found.reason) == (
        None,
        "the loss explodes within 3 steps, at a rate of 1e-05: start lower",
    )


def test_the_sweep_ends_at_four_times_the_lowest():
    """A loss that falls from 2 to 0.5 and is then 4: its average passes 0.5 + 3 x 1.5 never, and at 6 it does."""
    falling = [2.0] * 50 + [0.5] * 50
    watch = Watch(0.08)
    assert not any(watch.exploded(loss) for loss in [*falling, *[4.0] * 50])
    assert any(watch.exploded(loss) for loss in [6.0] * 50)
    assert watch.exploded(math.nan)


def test_a_negative_loss_does_not_end_the_sweep():
    watch = Watch(0.08)
    assert not any(watch.exploded(loss) for loss in [-1.0] * 20 + [-3.0] * 50)


# The sweep


@pytest.mark.parametrize("largest", [20.0, 1.0, 0.05])
def test_divergence_on_a_bowl_is_at_twice_the_inverse_curvature(largest):
    """Gradient descent on a quadratic is stable below 2 / (largest eigenvalue), and nowhere above."""
    words = ("experiment=quadratic", "optim=sgd", f"dataset.eigenvalues=[{largest},{largest / 5}]", "dataset.n=4000")
    found = find_rate(compose(*words, "trainer.batch_size=256"), stop=1e4, steps=150)
    assert 1 < found.diverged_at / (2 / largest) < 2.5
    assert found.suggested <= found.diverged_at / 10


def linear(loss=mse, precision="fp32", weight=None):
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    task = Regression(torch.zeros(()), torch.ones(()))
    model = nn.Sequential(nn.Linear(5, 1))
    player = make(task, loss, model, torch.optim.SGD(model.parameters(), lr=3.0), precision=precision)
    return player, Batches(Split(x, x.sum(1), weight, torch.arange(64)), batch_size=8)


def test_steps_that_are_not_taken_do_not_move_the_rate():
    """Every second batch counts for nothing, and the rates of the others are those of a sweep without them."""
    order = Batches(linear()[1].split, batch_size=8).order(0)
    weight = torch.ones(64)
    weight[order.view(8, 8)[::2].flatten()] = 0
    player, batches = linear(weight=weight)
    found = range_test(player, batches, player.optimizers[0].param_groups, stop=1e-2, steps=20)
    assert len(found.rates) >= 15
    assert found.rates == pytest.approx(np.geomspace(1e-7, 1e-2, 20)[: len(found.rates)])
    assert np.isfinite(found.losses).all()


def test_overflows_of_fp16_are_no_divergence():
    player, batches = linear(lambda pred, target: 100 * mse(pred, target), "fp16")
    found = range_test(player, batches, player.optimizers[0].param_groups, stop=1e-3, steps=30)
    assert len(found.rates) == 30
    assert player.scale.scaler.get_scale() == 65536


def failing(policy, bad, max_skips=3):
    """The range test where the loss of some steps, by their number from 0, is NaN at whatever rate."""
    steps = iter(range(1000))
    player, batches = linear(lambda pred, target: mse(pred, target) * (math.nan if next(steps) in bad else 1))
    player.guard.policy, player.guard.max_skips = policy, max_skips
    return range_test(player, batches, player.optimizers[0].param_groups, stop=1e-2, steps=20)


def test_a_bad_batch_is_no_divergence_where_the_run_would_skip_it():
    """Nor are as many in a row as the run would bear; more are."""
    found = failing("skip", {0, 5, 6, 7, 12})
    assert found.rates == pytest.approx(np.geomspace(1e-7, 1e-2, 20))
    assert np.isfinite(found.losses).all()
    assert len(failing("skip", {5, 6, 7, 8}).rates) == 6
    assert len(failing("abort", {5}).rates) == 6
    assert len(failing("skip", range(5, 1000), max_skips=1000).rates) == 6


def test_a_loss_that_is_not_finite_from_the_start():
    player, batches = linear(lambda pred, target: mse(pred, target) * math.nan)
    with pytest.raises(Diverged, match="step 1: the loss is nan before any rate is tried"):
        range_test(player, batches, player.optimizers[0].param_groups)


def state_of(player):
    on_cuda = torch.cuda.get_rng_state_all()
    generators = (torch.get_rng_state(), *on_cuda, random.getstate(), np.random.get_state())  # noqa: NPY002
    trained = [p.requires_grad for p in player.model.parameters()]
    buffers = [b.clone() for b in player.model.buffers()]
    return cloned([player.state(), generators, trained, buffers, player.now, player.settings])


def equal(a, b):
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return bool((torch.as_tensor(a) == torch.as_tensor(b)).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


WORDS = {
    "adamw": ("optim=adamw", "scheduler=onecycle", "trainer.average.kind=ema"),
    "momentum": ("optim=sgd", "optim.momentum=0.9", "scheduler=cosine", "scheduler.warmup=5", "trainer.clip_norm=1"),
    "fp16": ("optim=adam", "trainer.precision=fp16", "trainer.accumulate=2"),
    "groups": ("optim.groups={late: {name: '1*', unfreeze: 2}, own: {name: '*bias', lr: 0.5}}",),
    "course": ("loss=focal", "loss.gamma={from: 0, to: 2}"),
}


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("device", DEVICES)
def test_everything_is_as_before(name, taken, device):
    model = ("model.hidden=[8]", "model.norm=batch", "model.dropout=0.2", "trainer.batch_size=128", "trainer.epochs=2")
    words = () if name == "course" else ("dataset=breast_cancer",)
    run = build(compose(*words, *model, *WORDS[name], f"trainer.device={device}"))
    player = run.player
    for step in range(1, taken + 1):
        player.begin(step)
        player.step(run.batches.at(step))
    before = state_of(player)
    gradients = [p.grad for p in player.parameters]
    groups = [group for optimizer in player.optimizers for group in optimizer.param_groups]
    player.model.register_forward_pre_hook(lambda *_: random.shuffle([1, 2]) or np.random.shuffle([1, 2]))  # noqa: NPY002
    found = range_test(player, run.batches, groups, steps=40)
    assert len(found.losses) > 20
    assert equal(state_of(player), before)
    assert all(a is p.grad for a, p in zip(gradients, player.parameters, strict=True))


def test_the_test_of_equality_can_fail():
    player, batches = linear()
    before = state_of(player)
    player.step(batches.at(1))
    assert not equal(state_of(player), before)


def test_it_is_deterministic_and_no_schedule_matters():
    words = (*SMALL, "optim=sgd")
    first = find_rate(compose(*words))
    assert first == find_rate(compose(*words, "optim.lr=5", "scheduler=cosine", "scheduler.warmup=0.3"))
    assert first != find_rate(compose(*words, "seed=1"))


def test_rates_of_their_own_stay(monkeypatch):
    swept = []
    monkeypatch.setattr(rates, "range_test", lambda player, batches, groups, **_: swept.extend(groups))
    find_rate(compose(*SMALL, "optim.groups={own: {name: '*bias', lr: 0.5}, decayed: {name: '*', weight_decay: 0.1}}"))
    assert [group["name"] for group in swept] == ["decayed"]
    with pytest.raises(ConfigError, match="every parameter group has a rate of its own"):
        find_rate(compose(*SMALL, "optim.groups={own: {name: '*', lr: 0.5}}"))


@pytest.mark.parametrize("name", ["adagrad", "adafactor", "asgd", "nadam", "rmsprop"])
def test_other_optimizers(name):
    found = find_rate(compose(*SMALL, f"optim={name}"))
    assert 1e-4 < found.suggested < 1


def test_a_schedule_free_optimizer(tmp_path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim/free.yaml").write_text("_target_: schedulefree.AdamWScheduleFree\nlr: 0.0025\n")
    found = find_rate(compose(*SMALL, "optim=free", config_dirs=[tmp_path]))
    assert 1e-4 < found.suggested < 1


# optim.lr=auto


def summary_of(run):
    return json.loads(Path(run, "summary.json").read_text())


def refuse_to_search(*_, **__):
    raise AssertionError("it was found already")


AUTO = (*SMALL, "optim=sgd", "optim.lr=auto", "scheduler=onecycle")


def test_auto_equals_the_rate_typed(cli):
    code, out, err = cli("train", *AUTO, "hydra.run.dir=auto")
    assert (code, err) == (0, "")
    found = summary_of("auto")["found_lr"]
    assert f"optim.lr=auto: {found['suggested']:g} ({found['reason']})" in " ".join(out.split())
    typed = [*AUTO[:-2], f"optim.lr={found['suggested']}", AUTO[-1]]
    assert cli("train", *typed, "hydra.run.dir=typed")[0] == 0
    assert bytes_of("auto") == bytes_of("typed")
    assert json.loads(Path("auto/hparams.json").read_text())["hparams"]["optim.lr"] == found["suggested"]
    assert summary_of("auto")["config_hash"] == compose(*AUTO).hash != summary_of("typed")["config_hash"]
    assert "found_lr" not in summary_of("typed")
    with Path("auto/lr_finder.csv").open() as file:
        rows = list(csv.DictReader(file))
    test = find_rate(compose(*AUTO))
    assert [float(row["rate"]) for row in rows] == list(test.rates)
    assert [float(row["smoothed"]) for row in rows] == list(test.smoothed)
    assert f"optim.lr=auto: {found['suggested']} (" in Path("auto/run.log").read_text()


@pytest.mark.parametrize("words", [("resume=parts",), (*AUTO, "resume=auto", "output_root=.")])
def test_a_run_that_goes_on_does_not_search_again(cli, monkeypatch, words):
    assert cli("train", *AUTO, "hydra.run.dir=whole", "output_root=elsewhere")[0] == 0
    stop_after(monkeypatch, 7)
    assert cli("train", *AUTO, "hydra.run.dir=parts")[0] == 143
    before = Path("parts/lr_finder.csv").read_bytes()
    stop_after(monkeypatch, 0)
    monkeypatch.setattr(rates, "find_rate", refuse_to_search)
    code, _, err = cli("train", *words)
    assert (code, err) == (0, "")
    assert bytes_of("whole") == bytes_of("parts")
    assert summary_of("whole")["found_lr"] == summary_of("parts")["found_lr"]
    assert Path("parts/lr_finder.csv").read_bytes() == before


def test_a_typed_rate_may_become_auto_on_the_way(cli, monkeypatch):
    stop_after(monkeypatch, 7)
    assert cli("train", *AUTO, "optim.lr=0.5", "hydra.run.dir=parts")[0] == 143
    stop_after(monkeypatch, 0)
    code, out, _ = cli("train", "resume=parts", "optim.lr=auto")
    assert code == 0
    assert "optim.lr was 0.5 and is auto from here on" in out
    assert summary_of("parts")["found_lr"]["suggested"] == find_rate(compose(*AUTO)).suggested
    assert Path("parts/lr_finder.csv").exists()


def test_a_number_typed_on_the_way_does_not_undo_what_was_found(cli, monkeypatch):
    stop_after(monkeypatch, 5)
    assert cli("train", *AUTO, "hydra.run.dir=parts")[0] == 143
    monkeypatch.setattr(rates, "find_rate", refuse_to_search)
    stop_after(monkeypatch, 2)
    assert cli("train", "resume=parts", "optim.lr=0.5")[0] == 143
    stop_after(monkeypatch, 0)
    code, out, _ = cli("train", "resume=parts", "optim.lr=auto")
    assert (code, "optim.lr was 0.5 and is auto from here on" in out) == (0, True)
    found = summary_of("parts")["found_lr"]
    assert f"optim.lr=auto: {found['suggested']:g} ({found['reason']})" in " ".join(out.split())
    assert f"optim.lr=auto: {found['suggested']} (" in Path("parts/run.log").read_text()  # of the first part


@pytest.mark.parametrize(
    "facts", [{}, {"found_lr": 3}, *({"found_lr": {"suggested": v}} for v in (None, True, "0.1", -1.0, 0, math.inf))]
)
def test_a_record_that_says_nothing(facts):
    assert recorded(facts) is None


def test_what_is_recorded_is_taken(capsys):
    config = compose(*AUTO)
    found = settled(config, {"found_lr": {"suggested": 0.25, "reason": "so", "steepest": None, "diverged_at": 2}})
    assert (found.optim.values["lr"], found.lr_auto, found.hash) == (0.25, False, config.hash)
    assert found.found_lr.diverged_at == 2
    assert "optim.lr=auto: 0.25 (so)" in capsys.readouterr().out


def test_a_number_stays():
    config = compose("optim.lr=0.5")
    assert settled(config) is config
    assert with_rate(config, 2.0).optim.values["lr"] == 2.0


def test_each_job_of_a_sweep_finds_its_own(cli):
    assert cli("train", "-m", *SMALL, "optim=sgd,adam", "optim.lr=auto", "hydra.sweep.dir=jobs")[0] == 0
    found = [summary_of(path.parent)["found_lr"]["suggested"] for path in sorted(Path("jobs").rglob("summary.json"))]
    assert len(set(found)) == 2


def test_check_and_evaluate_do_not_search(cli, monkeypatch):
    assert cli("train", *AUTO, "hydra.run.dir=auto")[0] == 0
    monkeypatch.setattr(rates, "find_rate", refuse_to_search)
    code, out, _ = cli("check", *AUTO)
    assert (code, "sgd, lr auto" in out) == (0, True)
    assert cli("evaluate", "auto")[0] == 0


@pytest.mark.parametrize("schedule", ["constant", "onecycle"])
def test_check_leaves_out_only_the_rates_to_be_found(cli, schedule):
    """AdamW's part of muon has its own, and a group where it states one."""
    rules = "optim.groups={own: {name: '3.weight', lr: 0.5}, other: {name: '1.*', adamw_lr: 0.25}}"
    code, out, _ = cli("check", "optim=muon", "optim.lr=auto", f"scheduler={schedule}", rules)
    assert code == 0
    found = dict(re.findall(r"│ (\S+) +│ +\S+ │ +(\S+) │", out))
    assert [name for name, rate in found.items() if rate == "-"] == ["rest", "other"]
    if schedule == "constant":
        assert found == {"rest": "-", "rest.adamw": "0.001", "own": "0.5", "other": "-", "other.adamw": "0.25"}


# The command


def test_it_shows_a_rate_and_writes_nothing(cli):
    code, out, err = cli("find-lr", *SMALL, "optim=sgd", "optim.lr=7")
    assert (code, err) == (0, "")
    found = find_rate(compose(*SMALL, "optim=sgd"))
    assert f"train with: lossbench train {' '.join(SMALL)} optim=sgd optim.lr={found.suggested:g}" in out
    assert "steepest" in out
    assert list(Path().iterdir()) == []


def test_a_row_for_each_combination_a_picture_and_json(cli):
    words = ("optim=sgd,adam", "--output", "a.svg", "--json", "a.json", "--steps", "60", "--stop=1")
    code, out, err = cli("find-lr", *SMALL, *words)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in Path().iterdir()) == ["a.json", "a.svg"]
    found = json.loads(Path("a.json").read_text())
    assert [one["name"] for one in found] == ["sgd", "adam"]
    assert all(one["rates"][0] == 1e-7 and max(one["rates"]) <= 1 + 1e-9 for one in found)
    assert "sgd" in Path("a.svg").read_text()
    assert out.count("train with:") == 2
    code, out, _ = cli("find-lr", *SMALL, "--json", "-", "--steps=60")
    assert json.loads(out)[0]["suggested"] > 0
