"""`lossbench plot`: the rates drawn are those that a run has, and what the command says and writes."""

import csv
import re

import pytest
from test_bad_inputs import everything

from lossbench.build import build
from lossbench.commands.plot import Course, followed, pictured
from lossbench.compose import compose
from lossbench.console import console
from lossbench.run import execute
from lossbench.sweep.expand import labels

SHORT = ("trainer.steps=60", "trainer.batch_size=256", "model.hidden=[4]")  # of 5 steps an epoch
NO_MATCH = "scheduler.threshold=1e9"  # no metric is so much better: a plateau all along
GROUPS = "optim.groups={first: {name: '1.*', lr: 0.02}, last: {name: '3.*', lr: 0.003}}"


def printed(cli, *words):
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    return out


def course(name="a", rates=(0.5, 1.0, 0.25), momenta=(), warmup=0):
    return Course(name, list(rates), list(momenta), 2, warmup, "step")


# The rates


@pytest.mark.parametrize(
    "words",
    [
        "scheduler=constant scheduler.warmup=10",
        "scheduler=cosine scheduler.warmup=0.1 trainer.accumulate=2",
        "scheduler=onecycle optim=sgd optim.lr=0.1 optim.momentum=0.9",
        "scheduler=step scheduler.step_size=3 scheduler.warmup=7",
        "scheduler=cosine scheduler.interval=epoch trainer.drop_last=true",
        "scheduler=cosine scheduler.interval=evaluation trainer.eval_every=7",
        f"scheduler=plateau scheduler.patience=1 trainer.eval_every=4 {NO_MATCH}",
        f"scheduler=plateau scheduler.patience=2 scheduler.metric=loss scheduler.warmup=9 {NO_MATCH}",
        "scheduler=cosine_restarts",
        "scheduler=cyclic optim=sgd optim.momentum=0.9",
        "scheduler=wsd scheduler.warmup=0.2",
    ],
)
def test_the_rates_are_those_of_a_run(tmp_path, words):
    typed = [*SHORT, *words.split()]
    (found,) = followed(build(compose(*typed)))
    execute(build(compose(*typed)), tmp_path / "run", typed, brief=True)
    with (tmp_path / "run" / "steps.csv").open() as file:
        recorded = [float(row["lr"]) for row in csv.DictReader(file)]
    assert found.rates == recorded
    assert len(set(recorded)) > 1


def test_each_parameter_group_has_its_own(tmp_path):
    typed = [*SHORT, "scheduler=cosine", "scheduler.warmup=5", GROUPS]
    found = followed(build(compose(*typed)))
    execute(build(compose(*typed)), tmp_path / "run", typed, brief=True)
    with (tmp_path / "run" / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {name for name in rows[0] if name.startswith("lr/")} == {f"lr/{course.name}" for course in found}
    assert len(found) > 1
    for one in found:
        assert one.rates == [float(row[f"lr/{one.name}"]) for row in rows]
    assert len({tuple(one.rates) for one in found}) > 1


def test_the_momentum_is_torchs_own():
    """One-cycle, linear: down for 30 % of the run, and up again (`OneCycleLR`); beta1 of Adam, momentum of SGD."""
    words = ["scheduler=onecycle", "scheduler.anneal_strategy=linear", "trainer.steps=101"]
    for optim in (["optim=adamw"], ["optim=sgd", "optim.momentum=0.9"]):
        (found,) = followed(build(compose(*words, *optim)))
        assert found.momenta[0] == pytest.approx(0.95)
        assert min(found.momenta) == pytest.approx(0.85, abs=0.001)
        assert found.momenta.index(min(found.momenta)) in (29, 30)
        assert found.momenta[-1] == pytest.approx(0.95)


# The picture


def test_one_panel_or_two():
    assert [p.ylabel for p in pictured([course()]).panels] == ["learning rate"]
    assert [p.ylabel for p in pictured([course(momenta=[0.9, 0.9, 0.9])]).panels] == ["learning rate"]
    moving = pictured([course("a"), course("b", momenta=[0.9, 0.8, 0.9]), course("c", momenta=[0.9, 0.9, 0.9])])
    assert [p.ylabel for p in moving.panels] == ["learning rate", "momentum"]
    assert [[c.name for c in p.curves] for p in moving.panels] == [["a", "b", "c"], ["b", "c"]]


def test_steps_or_epochs_from_left_to_right():
    (curve,) = pictured([course()]).panels[0].curves
    assert (list(curve.x), list(curve.y)) == ([1, 2, 3], [0.5, 1.0, 0.25])
    by_epoch = pictured([course()], by_epoch=True, log=True)
    assert list(by_epoch.panels[0].curves[0].x) == [0.5, 1.0, 1.5]
    assert (by_epoch.xlabel, by_epoch.panels[0].log_y) == ("epoch", True)


def test_the_title_says_the_length_that_all_have():
    assert pictured([course("cosine")]).title == "cosine over 3 steps in 2 epochs"
    assert pictured([course(), course("b")]).title == "2 schedules over 3 steps in 2 epochs"
    assert pictured([course(), course("b", [1.0])]).title == "2 schedules"


def test_a_long_run_has_some_thousand_points_with_the_extremes():
    rates = [1.0] * 50_000
    rates[12_345] = 2.0
    (curve,) = pictured([course(rates=rates)]).panels[0].curves
    assert len(curve.x) <= 2000
    assert (12_346, 2.0) in zip(curve.x, curve.y, strict=True)


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["scheduler=a optim.lr=1", "scheduler=b optim.lr=1"], ["a", "b"]),
        (["scheduler=a scheduler.warmup=0", "scheduler=a scheduler.warmup=5"], ["warmup=0", "warmup=5"]),
        (["scheduler=a optim.lr=1", "scheduler=b optim.lr=2"], ["a, lr=1", "b, lr=2"]),
        (["optim.eps=1 x.eps=3", "optim.eps=2 x.eps=4"], ["optim.eps=1, x.eps=3", "optim.eps=2, x.eps=4"]),
        (["scheduler=a +optim.b=1", "scheduler=a +optim.b=2"], ["b=1", "b=2"]),
        (["scheduler=a"], [""]),
    ],
)
def test_combinations_are_named_by_what_differs(found, names):
    assert labels([words.split() for words in found]) == names


# The command


def test_several_schedules_in_one_picture(cli, tmp_path):
    words = ["scheduler=cosine,onecycle", "scheduler.warmup=0,0.1", "trainer.epochs=5"]
    out = printed(cli, "plot", *words, "--output", "rates.svg")
    names = [f"{s}, warmup={w}" for s in ("cosine", "onecycle") for w in ("0", "0.1")]
    text = (tmp_path / "rates.svg").read_text()
    assert all(f">{name}</text>" in text for name in names)
    assert ">momentum</text>" in text
    assert "4 schedules over 100 steps in 5 epochs" in out
    assert all(re.search(rf"{mark} {re.escape(name)}", out) for mark, name in zip("●▲■◆", names, strict=True))
    assert re.search(r"^ *0\.001 ┤", out, re.M)
    assert re.search(r"^ *0 ┤", out, re.M)
    rows = {n: re.split(" {2,}", r) for n, r in re.findall(r"^(\w+, warmup=[\d.]+) +(.*?) *$", out, re.M)}
    assert rows["cosine, warmup=0"][:3] == ["0.001", "0.001", "1"]
    assert rows["cosine, warmup=0"][4:] == ["-", "step", "100 steps in 5 epochs"]
    assert rows["onecycle, warmup=0.1"][1:3] == ["0.001", "37"]  # 10 steps, and 30 % of the 90 others
    assert rows["onecycle, warmup=0.1"][4:] == ["10 steps", "step", "100 steps in 5 epochs"]
    assert out.endswith("picture in rates.svg\n")
    assert [p.name for p in tmp_path.iterdir()] == ["rates.svg"]


def test_one_schedule_in_the_terminal_only(cli, tmp_path):
    out = printed(cli, "plot", "scheduler=step", "scheduler.step_size=1", "trainer.steps=50", "--by=epoch", "--log")
    assert out.startswith("step over 50 steps in 3 epochs\nlearning rate\n")
    assert re.search(r"^ *0\.0001 ┤", out, re.M)
    assert re.search(r"^ +epoch$", out, re.M)
    assert re.search(r"^step +0\.001 +0\.001 +1 +1e-5 +- +epoch +50 steps in 3 epochs$", out, re.M)
    assert everything(tmp_path) == []


def test_what_follows_a_metric_is_drawn_under_an_assumption_that_is_said(cli):
    out = printed(cli, "plot", "scheduler=plateau", "scheduler.patience=0", "trainer.epochs=3")
    assert out.splitlines()[-1] == "plateau follows val accuracy: drawn as if that never got better"
    assert re.search(r"^plateau +0\.001 +0\.001 +1 +0\.0001 ", out, re.M)


def test_a_narrow_console_has_lines_for_a_table(cli, monkeypatch):
    monkeypatch.setattr(console, "_width", 40)
    out = printed(cli, "plot", "scheduler=cosine,constant", "trainer.epochs=1")
    assert max(map(len, out.splitlines())) <= 40
    said = (
        "constant: start 0.001, peak 0.001, at step 1, end 0.001, warm-up -, moves per step, length 20 steps in 1 epoch"
    )
    assert " ".join(out.split()).endswith(said)


def test_a_rate_that_is_yet_to_be_found_is_found_as_a_run_would(cli):
    out = printed(cli, "plot", "scheduler=constant", "optim.lr=auto", "trainer.epochs=1")
    (rate,) = re.findall(r"^optim\.lr=auto: (\S+) \(", out, re.M)
    assert re.search(rf"^constant +{re.escape(rate)} +{re.escape(rate)} +1 +{re.escape(rate)} ", out, re.M)


def test_an_earlier_picture_is_kept_unless_force_is_said(cli, tmp_path):
    path = tmp_path / "rates.png"
    path.write_text("mine")
    words = ["plot", "scheduler=cosine", "trainer.epochs=2", "--output=rates.png"]
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert err == "lossbench: error: 'rates.png' is there already; --force overwrites it, --output FILE names another\n"
    assert path.read_text() == "mine"
    printed(cli, *words, "--force")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_options_of_the_users_own(cli, tmp_path):
    (tmp_path / "mine" / "scheduler").mkdir(parents=True)
    (tmp_path / "mine" / "scheduler" / "half.yaml").write_text(
        "_target_: torch.optim.lr_scheduler.ConstantLR\nfactor: 0.5\ntotal_iters: 10\n"
    )
    out = printed(cli, "plot", "--config-dir", "mine", "scheduler=half,constant", "trainer.epochs=1")
    assert re.search(r"^half +0\.0005 +0\.001 +11 ", out, re.M)


def test_a_path_is_no_setting_yet(cli, tmp_path):
    (tmp_path / "outputs" / "run").mkdir(parents=True)
    code, _, err = cli("plot", "outputs/run")
    assert code == 2
    assert err == (
        "lossbench: error: plot draws the schedule of settings, such as scheduler=cosine, and 'outputs/run' is a path\n"
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("lossbench plo", ["plot"]),
        ("lossbench plot --", ["--by", "--config-dir", "--force", "--help", "--log", "--output"]),
        ("lossbench plot --by ", ["step", "epoch"]),
        ("lossbench plot --output ", []),
        ("lossbench plot --log scheduler=cosine scheduler.eta", ["scheduler.eta_min="]),
    ],
)
def test_completion(cli, line, found):
    assert sorted(printed(cli, "completion", "query", line).split()) == sorted(found)
