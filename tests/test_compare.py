"""`lossbench compare`: which runs count, how they are grouped and paired, and what is said and saved of them.

Runs are small hand-written records with known numbers, but for the last tests, which are of real sweeps.
"""

import csv
import fcntl
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from lossbench.console import console
from lossbench.errors import ConfigError
from lossbench.report import leaderboard
from lossbench.report.arms import group
from lossbench.report.comparison import Question, compare
from lossbench.report.layout import pair_columns
from lossbench.report.leaderboard_files import as_json
from lossbench.report.pairs import compare_pairs
from lossbench.report.runs import read_runs

DIRECTIONS = {"loss": "min", "accuracy": "max", "nll": "min", "rmse": "min", "recall/0": "max"}
FOCAL = [0.90, 0.92, 0.94, 0.99, 0.95]
PLAIN = [0.89, 0.90, 0.95, 0.91, 0.93]


def record(path, accuracy=0.9, *, status="completed", seed=0, metrics=None, monitor="accuracy", **settings):
    """A run's directory; settings are written with `__` for `.`."""
    path.mkdir(parents=True)
    values = {"accuracy": accuracy, "nll": 1.0, "loss": 0.5} if metrics is None else metrics
    found = {"loss": "focal", **{key.replace("__", "."): v for key, v in settings.items()}, "seed": seed}
    facts = {"status": status, "config_hash": json.dumps(found), "settings": found}
    summary = {
        **facts,
        "metrics": dict.fromkeys(("val", "test"), values) if values else {},
        "best": {"metric": monitor, "value": 1.0},
        "directions": DIRECTIONS,
        "seconds": 10.0,
        "steps": 100,
    }
    if status in ("completed", "diverged"):
        (path / "summary.json").write_text(json.dumps(summary))
    (path / "status.json").write_text(json.dumps({"heartbeat": 0.0, **facts}))
    return path


def arm(folder, accuracies, **settings):
    """A run for each value, with seeds from 0 on."""
    name = re.sub(r"\W+", "_", "-".join(map(str, settings.values()))) or "run"
    for seed, value in enumerate(accuracies):
        record(folder / f"{name}-{seed}", value, seed=seed, **settings)


def change(path, name="summary.json", **facts):
    found = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**found, **facts}))


def answer(*paths, **question):
    return compare(read_runs(list(paths)), Question(**question))


def standings(comparison):
    return {each.name: each for each in comparison.arms}


def printed(cli, *words):
    code, out, err = cli(*map(str, words))
    assert (code, err) == (0, "")
    return out


def refused(cli, *words):
    code, _, err = cli(*map(str, words))
    assert code == 2
    assert err.startswith("lossbench: error: ")
    return err.removeprefix("lossbench: error: ").rstrip("\n")


@pytest.fixture
def two(tmp_path):
    """A folder with two arms of five seeds."""
    arm(tmp_path / "runs", FOCAL, loss="focal")
    arm(tmp_path / "runs", PLAIN, loss="cross_entropy")
    return tmp_path / "runs"


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(console, "width", 200)


# Figures


def test_figures_of_arms_are_those_of_scipy_and_by_hand(two):
    change(two / "focal-0", seconds=30.0)
    change(two / "focal-1", seconds=20.0)
    found = answer(two)
    assert str(found.metric) == "test accuracy"
    assert [each.name for each in found.arms] == ["focal", "cross_entropy"]
    focal = found.arms[0]
    assert focal.spread.n == 5
    assert focal.spread.mean == pytest.approx(0.94)
    assert focal.spread.sd == pytest.approx(math.sqrt((0.04**2 + 0.02**2 + 0.05**2 + 0.01**2) / 4))
    assert (focal.spread.median, focal.best, focal.seconds) == (0.94, 0.99, 10.0)
    wanted = scipy.stats.t.interval(0.95, 4, np.mean(FOCAL), scipy.stats.sem(FOCAL))
    assert focal.spread.interval == pytest.approx(wanted)
    low, high = focal.spread.bootstrap
    assert 0.90 <= low < 0.94 < high <= 0.99


def test_pairs_are_of_runs_with_the_same_seed(two):
    (pair,) = answer(two).pairs
    assert (pair.first, pair.second, pair.n) == ("focal", "cross_entropy", 5)
    assert pair.difference == pytest.approx(0.024)
    assert pair.t_p == pytest.approx(scipy.stats.ttest_rel(FOCAL, PLAIN).pvalue)
    assert pair.improvement == pytest.approx(18 / 25)  # of 25 pairs of runs 17 are better and 2 are equal


def test_a_metric_that_is_better_when_it_is_smaller(tmp_path):
    for name, values in {"focal": [0.3, 0.4], "cross_entropy": [0.5, 0.2]}.items():
        for seed, value in enumerate(values):
            record(tmp_path / f"{name}{seed}", seed=seed, loss=name, metrics={"rmse": value, "nll": 2 - value})
    found = answer(tmp_path, metric="rmse")
    assert [(each.name, each.best) for each in found.arms] == [("cross_entropy", 0.2), ("focal", 0.3)]
    assert answer(tmp_path, metric="val/nll").arms[0].best == pytest.approx(1.5)


def test_equal_arms_are_in_the_order_of_their_names(tmp_path):
    arm(tmp_path, [0.9, 0.8], loss="focal")
    arm(tmp_path, [0.9, 0.8], loss="cross_entropy")
    found = answer(tmp_path)
    assert [each.name for each in found.arms] == ["cross_entropy", "focal"]
    assert found.pairs[0].better is None


def test_a_planted_difference_is_found_and_said(cli, tmp_path):
    arm(tmp_path / "runs", [0.90 + 0.001 * seed for seed in range(8)], loss="focal")
    arm(tmp_path / "runs", [0.85 + 0.002 * seed for seed in range(8)], loss="cross_entropy")
    out = printed(cli, "compare", "runs")
    assert "\nfocal is better than cross_entropy by 0.0465 (95 % CI 0.0445 to 0.0485)\n" in out


# What counts


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_runs_that_diverged_or_failed_count_as_the_worst(two, status):
    for seed in range(5, 8):
        record(two / f"bad{seed}", 0.99, status=status, loss="focal", seed=seed)
    found = answer(two)
    focal = standings(found)["focal"]
    assert (focal.spread.n, getattr(focal, status), focal.spread.mean) == (8, 3, pytest.approx(5 * 0.94 / 8))
    assert f"3 runs {status}: counted as the worst outcome, test accuracy 0" in found.notes


def test_the_worst_of_a_metric_without_bounds_lies_beyond_all_values(tmp_path):
    for seed, value in enumerate([1.0, 3.0]):
        record(tmp_path / str(seed), seed=seed, metrics={"nll": value})
    record(tmp_path / "bad", status="diverged", seed=2)
    (found,) = answer(tmp_path, metric="nll").arms
    assert sorted(found.values.values()) == [1.0, 3.0, 5.0]


@pytest.mark.parametrize("metrics", [{"accuracy": None, "nll": 1.0}, {"accuracy": math.nan, "nll": 1.0}, {}])
def test_a_completed_run_without_a_number_counts_as_the_worst(two, metrics):
    record(two / "empty", loss="cross_entropy", seed=5, metrics=metrics)
    found = answer(two)
    assert standings(found)["cross_entropy"].empty == 1
    assert "1 run gave no number: counted as the worst outcome, test accuracy 0" in found.notes
    json.dumps(as_json(found), allow_nan=False)


def test_runs_that_go_on_or_were_interrupted_are_left_out(two):
    for name in ("running", "interrupted", "killed", "held"):
        record(two / name, status="interrupted" if name == "interrupted" else "running", seed=9)
    change(two / "running", "status.json", heartbeat=time.time())
    with (two / "held" / ".lock").open("w") as lock:  # of another open file, as of another process
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = read_runs([two])
    assert len(found.runs) == 10
    assert found.notes == ["left out, still running: 2 runs", "left out, interrupted: 2 runs"]


STRANGE = [
    *("", "{", "[]", "3", "null", "[" * 100_000, "\x00\xff"),
    '{"status": "done"}',
    '{"status": "completed"}',
    '{"status": [], "metrics": {}}',
    '{"status": "completed", "metrics": {}, "settings": 7}',
    '{"status": "completed", "metrics": {"test": 3}, "settings": {}}',
    '{"status": "completed", "metrics": {"test": {"accuracy": "high"}}, "settings": {}}',
    f'{{"status": "completed", "metrics": {{"test": {{"accuracy": 1{400 * "0"}}}}}, "settings": {{}}}}',
    '{"status": "failed", "settings": {}, "best": 3}',
]


@pytest.mark.parametrize("text", STRANGE)
def test_what_is_damaged_or_of_others_is_left_out_and_said(two, text):
    (two / "strange").mkdir()
    (two / "strange" / "summary.json").write_text(text)
    found = read_runs([two])
    assert len(found.runs) == 10
    assert found.notes == [f"left out, what it records cannot be read: {two / 'strange'}"]


def test_nothing_is_looked_for_in_hidden_folders_checkpoints_and_links(two, tmp_path):
    for name in (".trash", "checkpoints", "focal-0/checkpoints"):
        record(two / name / "run", seed=7)
    (two / "link").symlink_to(record(tmp_path / "elsewhere", seed=8))
    assert len(read_runs([two]).runs) == 10


def test_a_run_that_is_named_twice_is_one(two):
    found = read_runs([two, two / "focal-0", two / ".." / "runs"])
    assert len(found.runs) == 10


def test_of_equal_runs_one_counts_the_latest_that_completed(two, tmp_path):
    record(tmp_path / "again" / "later", 0.70, loss="focal", seed=0)
    record(tmp_path / "again" / "failed", status="failed", loss="focal", seed=1)
    found = answer(two, tmp_path / "again")
    focal = standings(found)["focal"]
    assert sorted(focal.values.values()) == sorted([0.70, *FOCAL[1:]])
    assert focal.failed == 0
    said = "2 runs with the settings and the seed of another: of equal ones the last that did not fail counts"
    assert said in found.notes


@pytest.mark.parametrize(("first", "last"), [("completed", "diverged"), ("diverged", "completed")])
def test_of_equal_runs_the_latest_counts_also_where_one_diverged(tmp_path, first, last):
    for place, status in enumerate((first, last)):
        path = record(tmp_path / str(place), 0.7, status=status, optim__lr=1)
        os.utime(path / "summary.json", (place, place))
    record(tmp_path / "other", optim__lr=2)
    found = answer(tmp_path)
    assert standings(found)["optim.lr=1"].diverged == (last == "diverged")
    said = "1 run that diverged, where an equal one that completed later counts"
    assert (said in found.notes) == (last == "completed")


def test_runs_are_equal_by_their_hash_and_not_by_what_was_typed(tmp_path):
    for name, rate, digest in (("a", "${rate}", "1"), ("b", 0.1, "1"), ("c", "${oc.env:RATE}", "2")):
        change(record(tmp_path / name, optim__lr=rate), config_hash=digest)
    found = arms(tmp_path)
    assert [sum(map(len, each.runs.values())) for each in found.arms] == [1, 1]
    assert found.notes == [
        "1 run with the settings and the seed of another: of equal ones the last that did not fail counts"
    ]
    change(record(tmp_path / "d", optim__lr="${oc.env:RATE}"), config_hash="3")
    assert "1 run with the same words as another, but other values of interpolations: " in arms(tmp_path).notes[1]


# Sweeps


def sweep(folder, *phases):
    """A `sweep.json` over the runs in a folder."""
    names = sorted(path.name for path in folder.iterdir())
    phases = phases or ("",) * len(names)
    jobs = [{"hash": name, "directory": name, "phase": p} for name, p in zip(names, phases, strict=True)]
    (folder / "sweep.json").write_text(json.dumps({"version": 1, "jobs": jobs}))


def test_of_a_sweep_only_its_jobs_count(two):
    sweep(two)
    record(two / "focal-0~1", status="failed", seed=0)
    jobs = json.loads((two / "sweep.json").read_text())
    jobs["jobs"].append({"hash": "h", "directory": "not-yet", "phase": ""})
    (two / "sweep.json").write_text(json.dumps(jobs))
    found = read_runs([two.parent])
    assert len(found.runs) == 10
    assert found.notes == ["left out, not begun yet: 1 run"]


def test_of_a_sweep_in_phases_the_final_runs_count(two):
    sweep(two, *["tune"] * 4, *["final"] * 5, "former")
    found = read_runs([two])
    assert len(found.runs) == 5
    assert found.notes == ["left out, not of the sweep's last call: 1 run", "4 tuning runs are not counted"]


def describe(folder, **facts):
    change(folder, "sweep.json", **facts)


def test_a_fair_sweep_names_what_sets_arms_apart_and_its_metric(tmp_path):
    for name, size, rates in (("one", 16, (0.1, 0.2)), ("two", 32, (0.1, 0.3))):
        for rate in rates:
            sizes = {0.1: size, 0.2: 64, 0.3: 64}
            arm(tmp_path / name, [0.9, 0.8], optim__lr=rate * size, trainer__batch_size=sizes[rate])
        sweep(tmp_path / name)
        describe(tmp_path / name, arms=["trainer.batch_size"], metric="test/nll")
    found = answer(tmp_path / "one")
    assert [each.name for each in found.arms] == ["trainer.batch_size=16", "trainer.batch_size=64"]
    assert str(found.metric) == "test nll"
    assert answer(tmp_path / "one", metric="accuracy").metric.name == "accuracy"
    assert answer(tmp_path).metric.name == "nll"
    describe(tmp_path / "two", arms=["seed", "optim.lr"], metric="val/accuracy")
    both = read_runs([tmp_path])
    assert (both.arms, both.metric, both.is_fair) == (["trainer.batch_size", "seed", "optim.lr"], None, True)
    record(tmp_path / "plain")
    assert not read_runs([tmp_path]).is_fair


def test_a_fair_sweep_with_one_seed_asks_for_more(tmp_path):
    arm(tmp_path, [0.9], loss="focal")
    arm(tmp_path, [0.8], loss="nll")
    sweep(tmp_path)
    describe(tmp_path, arms=["loss"])
    said = "one run per arm: too few seeds to tell; add seeds (such as sweep.seeds=8)"
    assert answer(tmp_path).notes == [said]


def test_pruned_trials_are_left_out(two):
    change(two / "focal-4", reason="pruned")
    found = read_runs([two])
    assert (len(found.runs), found.notes) == (9, ["left out, ended early by a search: 1 run"])


@pytest.mark.parametrize("how", ["journal", "sweeper"])
def test_trials_of_a_search_are_no_arms_to_be_told_apart(cli, tmp_path, how):
    for i, rate in enumerate((0.123456, 0.123451, 0.00123456, 1e-3)):
        record(tmp_path / "runs" / str(i), 0.9, optim__lr=rate, loss="nll")
    sweep(tmp_path / "runs")
    describe(tmp_path / "runs", settings={"hydra/sweeper": ["optuna" if how == "sweeper" else "lossbench"]})
    if how == "journal":
        (tmp_path / "runs" / "optuna.journal").touch()
    found = answer(tmp_path / "runs")
    names = ["optim.lr=0.001", "optim.lr=0.001235", "optim.lr=0.123451", "optim.lr=0.123456"]
    assert [each.name for each in found.arms] == names
    assert [note.partition(":")[0] for note in found.notes] == ["trials of a search"]
    assert "not saved; --output" in printed(cli, "compare", "runs")
    describe(tmp_path / "runs", arms=["optim.lr"])
    assert not read_runs([tmp_path / "runs"]).is_search


def test_a_sweep_leads_nowhere_else(two, tmp_path):
    outside = record(tmp_path / "outside")
    (two / "sweep.json").write_text(
        json.dumps({"jobs": [{"directory": f"../{outside.name}"}, {"directory": "focal-0"}]})
    )
    found = read_runs([two])
    assert [run.path.name for run in found.runs] == ["focal-0"]


# Arms


def arms(*folders, by=()):
    return group(read_runs(list(folders)).runs, by)


def test_arms_are_told_apart_by_what_differs_and_not_by_what_follows_from_it(tmp_path):
    arm(tmp_path, [0.9], loss="focal", loss__gamma=2.0, optim__lr=1e-3, model="mlp")
    arm(tmp_path, [0.9], loss="focal", loss__gamma=2.0, optim__lr=1e30, model="mlp")
    arm(tmp_path, [0.9], loss="cross_entropy", loss__ignore=-1, optim__lr=0.001, model="mlp")
    found = arms(tmp_path)
    assert found.keys == ["loss", "optim.lr"]
    assert [each.name for each in found.arms] == [
        "cross_entropy, optim.lr=0.001",
        "focal, optim.lr=0.001",
        "focal, optim.lr=1e30",
    ]
    assert found.notes == []


def test_an_arm_without_a_setting_is_named_without_it(tmp_path):
    arm(tmp_path, [0.9], loss="focal", loss__gamma=1)
    arm(tmp_path, [0.9], loss="focal", loss__gamma=2)
    arm(tmp_path, [0.9], loss="cross_entropy")
    assert [each.name for each in arms(tmp_path).arms] == [
        "cross_entropy",
        "focal, loss.gamma=1",
        "focal, loss.gamma=2",
    ]


def test_an_infinite_setting_is_not_shown_as_null(cli, wide):
    words = ("dataset=diabetes", "loss=adaptive_robust", "loss.learn=false", *SHORT[:2])
    for shape in ("-inf", "1"):
        assert cli("train", *words, f"loss.shape={shape}", f"hydra.run.dir=runs/{shape}")[0] == 0
    assert "│ loss.shape=-inf │" in printed(cli, "compare", "runs")


def test_equal_numbers_are_equal_however_they_are_typed(tmp_path):
    for seed, lr in enumerate([1, 1.0, 2, 2.0]):
        record(tmp_path / str(seed), seed=seed, optim__lr=lr, model__hidden=[8])
    assert [(each.name, len(each.runs)) for each in arms(tmp_path).arms] == [("optim.lr=1", 2), ("optim.lr=2", 2)]


def test_a_setting_that_differs_along_with_the_arms_is_said(tmp_path):
    arm(tmp_path, [0.9, 0.8], loss="focal", data__size=3)
    arm(tmp_path, [0.9, 0.8], loss="cross_entropy", data__size=5)
    assert arms(tmp_path).notes == ["data.size differs with the arms (cross_entropy: 5; focal: 3)"]


def test_by_makes_arms_and_pairs_over_the_rest(tmp_path):
    for data in ("digits", "wine"):
        for lr in (0.1, 0.2):
            arm(tmp_path / data, [0.9, 0.8], loss="focal", loss__gamma=2, dataset=data, optim__lr=lr)
            arm(tmp_path / data, [0.7, 0.6], loss="cross_entropy", dataset=data, optim__lr=lr)
    found = arms(tmp_path, by=["loss"])
    assert [(each.name, [len(runs) for runs in each.runs.values()]) for each in found.arms] == [
        ("cross_entropy", [4, 4]),
        ("focal", [4, 4]),
    ]
    assert found.averaged == ["dataset", "optim.lr"]
    assert found.notes == ["each seed's value is the mean over 4 combinations of dataset and optim.lr"]
    (pair,) = answer(tmp_path, by=("loss",)).pairs
    assert (pair.n, pair.difference) == (2, pytest.approx(0.2))
    said = "the arms are of several data sets; --by loss,optim.lr compares their means over the data sets"
    assert arms(tmp_path).notes == [said]


def test_only_seeds_repeat_a_run(cli, tmp_path, wide):
    noise = [0.010, -0.003, 0.004]
    for k, decay in enumerate((0, 1e-6, 2e-6, 3e-6)):
        arm(tmp_path / "runs" / str(k), [0.90 + 1e-5 * k] * 3, loss="focal", optim__weight_decay=decay)
        worse = [0.90 + 1e-5 * k - each for each in noise]
        arm(tmp_path / "runs" / str(k), worse, loss="nll", optim__weight_decay=decay)
    out = printed(cli, "compare", "runs", "--by", "loss")
    assert "2 arms, 24 runs, paired by seed" in out
    assert "focal against nll: too few seeds to tell (try 6 or more)" in out
    assert "note: each seed's value is the mean over 4 values of optim.weight_decay" in out
    found = answer(tmp_path / "runs", by=("loss",))
    assert [(each.spread.n, each.runs) for each in found.arms] == [(3, 12), (3, 12)]
    assert found.pairs[0].t_p == pytest.approx(scipy.stats.ttest_1samp(noise, 0).pvalue)
    assert standings(found)["nll"].values["0"] == pytest.approx(0.890015)


def test_seeds_are_averaged_over_what_all_arms_have(tmp_path):
    for loss, accuracy in (("focal", 0.9), ("nll", 0.8)):
        for data in ("digits", "wine"):
            for seed in range(3):
                if (loss, data, seed) != ("nll", "wine", 2):
                    status = "diverged" if (loss, data, seed) == ("focal", "wine", 1) else "completed"
                    name = f"{loss}-{data}-{seed}"
                    record(tmp_path / name, accuracy, status=status, loss=loss, dataset=data, seed=seed)
    record(tmp_path / "alone", loss="focal", dataset="digits", seed=7)
    found = answer(tmp_path, by=("loss",))
    wanted = {"0": 0.9, "1": 0.45, "2": 0.9, "7": 0.9}
    assert dict(standings(found)["focal"].values) == {seed: pytest.approx(value) for seed, value in wanted.items()}
    assert (standings(found)["focal"].runs, standings(found)["focal"].diverged) == (6, 1)
    assert found.notes[:2] == [
        "each seed's value is the mean over 1 to 2 values of dataset",
        "left out, as not all arms have the same seed and dataset: 1 run",
    ]


def test_arms_with_nothing_in_common_cannot_be_averaged(tmp_path):
    arm(tmp_path, [0.9, 0.8], loss="focal", loss__gamma=1)
    arm(tmp_path, [0.9, 0.8], loss="focal", loss__gamma=2)
    arm(tmp_path, [0.9, 0.8], loss="nll")
    said = "there is no seed and loss.gamma that all arms have; --by loss,loss.gamma makes arms of these too"
    with pytest.raises(ConfigError, match=said):
        arms(tmp_path, by=["loss"])


def test_seeds_can_be_arms_but_leave_nothing_to_tell_them_apart_by(tmp_path):
    arm(tmp_path, [0.9, 0.8], loss="focal")
    arm(tmp_path, [0.7, 0.6], loss="cross_entropy")
    found = answer(tmp_path, by=("seed",))
    assert found.pairs == []
    assert [(each.name, each.runs) for each in found.arms] == [("seed=0", 2), ("seed=1", 2)]
    assert [each.spread.mean for each in found.arms] == [pytest.approx(0.8), pytest.approx(0.7)]
    assert found.notes[1:] == [
        "seeds set the arms apart: there are no others by which to tell a difference from chance"
    ]


def test_data_sets_among_the_arms_are_said(tmp_path):
    for data in ("digits", "wine"):
        arm(tmp_path / data, [0.9], loss="focal", dataset=data)
        arm(tmp_path / data, [0.9], loss="cross_entropy", dataset=data)
    assert "--by loss compares their means over the data sets" in arms(tmp_path).notes[0]


def test_runs_of_older_versions_have_choices_and_a_seed(tmp_path):
    for seed in range(2):
        for loss in ("focal", "mse_onehot"):
            path = record(tmp_path / f"{loss}{seed}", loss=loss, seed=seed)
            facts = json.loads((path / "summary.json").read_text())
            del facts["settings"], facts["directions"]
            choices = {"loss": loss, "optim": "adamw", "trainer": "default"}
            (path / "summary.json").write_text(json.dumps({**facts, "seed": seed, "choices": choices}))
    found = arms(tmp_path)
    assert [(each.name, len(each.runs)) for each in found.arms] == [("focal", 2), ("mse_onehot", 2)]
    assert [answer(tmp_path, metric=name).metric.direction for name in ("accuracy", "nll")] == ["max", "min"]
    record(tmp_path / "new", loss="focal", optim="adamw", optim__lr=1, seed=7)
    found = read_runs([tmp_path])
    assert [run.path.name for run in found.runs] == ["new"]
    assert found.notes == ["left out, of an older version that recorded choices and the seed alone: 4 runs"]


def test_seeds_that_not_all_arms_have_are_left_out_of_pairs_only(two):
    record(two / "more", 0.5, loss="focal", seed=17)
    found = answer(two)
    assert standings(found)["focal"].spread.n == 6
    assert found.pairs[0].n == 5
    assert found.notes == ["not all arms have runs of the same seed: a pair is compared in those that both have"]


@pytest.mark.parametrize("runs", [1, 3])
def test_one_arm_has_figures_and_no_pairs(cli, tmp_path, runs):
    arm(tmp_path / "runs", FOCAL[:runs])
    out = printed(cli, "compare", "runs")
    assert "1 arm, " in out
    assert "all runs" in out
    assert "against" not in out
    assert ("one run per arm" in out) == (runs == 1)


def test_one_run_of_each_arm_asks_for_seeds(cli, tmp_path):
    arm(tmp_path / "runs", [0.9], loss="focal")
    arm(tmp_path / "runs", [0.8], loss="cross_entropy")
    out = printed(cli, "compare", "runs")
    assert "note: one run per arm: too few seeds to tell; add seeds (such as 'seed=range(0,8)')" in out
    assert "against" not in out


# Questions


def test_a_baseline_is_what_each_arm_is_compared_with(two):
    arm(two, [0.8] * 5, loss="nll")
    assert [(p.first, p.second) for p in answer(two, baseline="nll").pairs] == [
        ("focal", "nll"),
        ("cross_entropy", "nll"),
    ]
    assert len(answer(two).pairs) == 3
    with pytest.raises(ConfigError, match="no arm is called 'fokal'; did you mean 'focal'"):
        answer(two, baseline="fokal")


def test_the_beginning_of_names_lists_them(two):
    arm(two, [0.8] * 5, loss="focal", loss__gamma=1)
    said = "no arm is called 'foc'; --baseline takes a whole name: 'focal', 'focal, loss.gamma=1'"
    with pytest.raises(ConfigError, match=said):
        answer(two, baseline="foc")
    assert {pair.second for pair in answer(two, baseline="focal").pairs} == {"focal"}


def test_of_many_arms_each_is_compared_with_the_best(tmp_path):
    for rate in range(1, 8):
        arm(tmp_path, [0.5 + 0.01 * rate + 0.001 * (rate * seed % 5) for seed in range(5)], optim__lr=rate, model="m")
    found = answer(tmp_path)
    assert {pair.second for pair in found.pairs} == {"optim.lr=7"}
    assert len(found.pairs) == 6
    assert found.notes == [
        "7 arms: each is compared with the best one, and p corrected for that choice; "
        "--baseline NAME compares with one that was chosen before"
    ]
    values = {name: dict(each.values) for name, each in standings(found).items()}
    corrected = compare_pairs(values, "max", "optim.lr=7", chosen_by_values=True)
    assert [pair.p_holm for pair in found.pairs] == [pair.p_holm for pair in corrected]
    asked = answer(tmp_path, baseline="optim.lr=7")
    assert asked.notes == []
    assert [pair.p_holm for pair in asked.pairs] < [pair.p_holm for pair in found.pairs]
    six = answer(*(path for path in tmp_path.iterdir() if not path.name.startswith("7")))
    assert len(six.pairs) == 15


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--metric acuracy", "no run has test acuracy; --metric takes one that all have: accuracy, nll; did you mean"),
        ("--metric vall/nll", "no run has test vall/nll"),
        ("--metric train/nll", "no run has test train/nll"),
        ("--metric loss", "the values of different losses cannot be compared"),
        ("--by los", "--by: no run has a setting 'los'; did you mean 'loss'?"),
        ("--baseline Focal", "no arm is called 'Focal'; did you mean 'focal'?"),
        ("--target high", "--target must be METRIC=NUMBER or a number, such as accuracy=0.95, got 'high'"),
        ("--target accuracy", "--target must be METRIC=NUMBER"),
        ("--target nan", "--target must be METRIC=NUMBER"),
        ("--target acc=0.9", "--target: no run is validated by 'acc', but by accuracy, loss, nll"),
        ("--target accuracy<=0.9", "--target: accuracy is better when it is larger"),
        ("--by", "--by needs a value"),
        ("--metrics nll", "there is no flag '--metrics'; did you mean '--metric'?"),
    ],
)
def test_questions_that_cannot_be_answered(cli, two, words, said):
    assert refused(cli, "compare", "runs", *words.split()).startswith(said)


@pytest.mark.parametrize(
    ("line", "found"),
    [("compare --b", "--baseline --by"), ("compare outputs --f", "--force"), ("compare ", ""), ("comp", "compare")],
)
def test_flags_are_completed(cli, line, found):
    assert printed(cli, "completion", "query", f"lossbench {line}").split()[: len(found.split())] == found.split()


def test_paths_that_hold_nothing(cli, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    record(tmp_path / "bad", status="diverged", metrics={})
    record(tmp_path / "killed", status="running")
    assert refused(cli, "compare").startswith("compare what? PATH is missing")
    assert refused(cli, "compare", "nowhere") == "there is no directory 'nowhere'; name that of a sweep or a run"
    assert refused(cli, "compare", "file") == "'file' is no directory; name that of a sweep or a run"
    assert refused(cli, "compare", "empty").startswith(
        "nothing to compare in empty: there is no run; a run's directory"
    )
    assert refused(cli, "compare", "killed") == "nothing to compare in killed: left out, interrupted: 1 run"
    assert refused(cli, "compare", "bad") == "nothing to compare: 1 run diverged, and none has metrics"


def test_runs_of_different_tasks_are_not_compared(cli, two, tmp_path):
    record(tmp_path / "other", metrics={"rmse": 1.0}, monitor="rmse")
    said = refused(cli, "compare", "runs", "other")
    assert said.startswith("the best weights were chosen by different metrics (accuracy, rmse); they have no metric in")
    assert refused(cli, "compare", "runs", "other", "--metric", "rmse").startswith("1 of 11 runs have test rmse;")
    record(tmp_path / "same", monitor="nll")
    assert refused(cli, "compare", "runs", "same").endswith("--metric takes one that all have: accuracy, nll")


# Time to target


def evals(path, *values):
    rows = [f"{10 * (i + 1)},1,{split},{0.5},{value}" for i, value in enumerate(values) for split in ("train", "val")]
    rows = [row.replace("train,0.5,", "train,0.5,9") for row in rows]
    (path / "evals.csv").write_text("\n".join(["step,epoch,split,loss,accuracy", *rows, "90,9,va"]))


def test_time_to_target(tmp_path):
    arm(tmp_path, [0.9] * 3, loss="focal")
    arm(tmp_path, [0.9] * 2, loss="nll")
    evals(tmp_path / "focal-0", 0.5, 0.8, 0.7)  # step 20 of 100, in 10 s: 2 s
    evals(tmp_path / "focal-1", 0.5, 0.6, 0.8)  # step 30
    evals(tmp_path / "focal-2", 0.5, 0.6, 0.7)  # never
    evals(tmp_path / "nll-0", 0.9)
    for question in ("0.8", "accuracy=0.8", "accuracy>=0.8", "accuracy >= 0.8", "val/accuracy=0.8"):
        found = standings(answer(tmp_path, target=question))
        assert (found["focal"].reached.count, found["focal"].reached.steps) == (2, 30)
        assert found["focal"].reached.seconds == pytest.approx(3.0)
        assert (found["nll"].reached.count, found["nll"].reached.steps) == (1, None)
    found = standings(answer(tmp_path, target="loss<=0.5"))
    assert (found["focal"].reached.count, found["focal"].reached.steps) == (3, 10)


# Files


def test_the_answer_for_one_sweep_is_saved_in_it(cli, two):
    sweep(two)
    out = printed(cli, "compare", "runs")
    assert "saved as runs/leaderboard.csv" in out
    with (two / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["arm"], row["loss"], row["n"]) for row in rows] == [
        ("focal", "focal", "5"),
        ("cross_entropy",) * 2 + ("5",),
    ]
    assert float(rows[0]["t_low"]) == pytest.approx(answer(two).arms[0].spread.interval[0])
    with (two / "leaderboard-pairs.csv").open() as file:
        (pair,) = csv.DictReader(file)
    assert float(pair["difference"]) == pytest.approx(0.024)
    found = json.loads((two / "leaderboard.json").read_text())
    assert found["metric"] == {"split": "test", "name": "accuracy", "direction": "max"}
    assert {"seed": 3, "value": 0.99} in found["arms"][0]["values"]
    text = (two / "leaderboard.md").read_text()
    assert "| focal | 5 | 0.940 |" in text
    assert "- focal against cross_entropy: " in text
    assert printed(cli, "compare", "runs") == out


def test_other_answers_are_saved_where_that_is_asked_for(cli, two):
    before = sorted(two.rglob("*"))
    assert "not saved; --output DIRECTORY" in printed(cli, "compare", "runs")
    sweep(two)
    assert "not saved; --output DIRECTORY" in printed(cli, "compare", "runs", "--metric", "nll")
    assert "saved in new/answer" in printed(cli, "compare", "runs", "--metric", "nll", "--output", "new/answer")
    assert sorted(path.name for path in Path("new/answer").iterdir()) == [
        "leaderboard-pairs.csv",
        "leaderboard.csv",
        "leaderboard.json",
        "leaderboard.md",
    ]
    assert "is there already; --force" in refused(cli, "compare", "runs", "--output", "new/answer")
    printed(cli, "compare", "runs", "--output", "new/answer", "--force")
    assert json.loads(Path("new/answer/leaderboard.json").read_text())["metric"]["name"] == "accuracy"
    assert sorted(two.rglob("*")) == sorted([*before, two / "sweep.json"])


def test_files_of_others_are_not_overwritten(cli, two):
    sweep(two)
    (two / "leaderboard.md").write_text("mine")
    assert "not saved: runs/leaderboard.md is not a leaderboard of ours" in printed(cli, "compare", "runs")
    assert (two / "leaderboard.md").read_text() == "mine"
    printed(cli, "compare", "runs", "--force")
    assert "accuracy" in (two / "leaderboard.md").read_text()


def test_an_output_that_is_a_file_is_refused(cli, two):
    code, _, err = cli("compare", "runs", "--output", "runs/focal-0/summary.json")
    assert (code, err.count("\n")) == (6, 1)


# The screen


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_tables_fit_the_screen_and_numbers_stay_whole(two, monkeypatch, capsys, width):
    monkeypatch.setattr(console, "width", width)
    leaderboard.show(answer(two, target="0.9"))
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert max(map(len, tables)) <= width
    assert any("0.940" in line for line in tables)
    assert any("0.916" in line and "│ 5" in line for line in tables) or width < 60
    assert any("bootstrap" in line for line in tables) == (width >= 120)


def test_names_are_shown_as_they_are_and_nothing_in_them_is_obeyed(cli, two, wide):
    arm(two, [0.8] * 5, loss="[bold]x[/nope]\x1b[2J|`*a*` <b>", loss__gamma=1)
    sweep(two)
    out = printed(cli, "compare", "runs")
    assert "\x1b[2J" not in out
    assert "[bold]x[/nope]?[2J|`*a*` <b>" in out
    text = (two / "leaderboard.md").read_text()
    assert r"\[bold\]x\[/nope\]?\[2J\|\`\*a\*\` \<b\>" in text
    assert {line.count(" | ") for line in text.splitlines() if line.startswith("| ")} == {8, 9}


def test_names_that_look_the_same_are_told_apart(tmp_path):
    record(tmp_path / "1", loss="a\x01")
    record(tmp_path / "2", loss="a\x02")
    assert [each.name for each in arms(tmp_path).arms] == ["loss=a?", "loss=a? (2)"]


def test_tiny_and_huge_values_have_digits(tmp_path, capsys, wide):
    for scale, shown in ((1e-12, "2e-12"), (1e9, "2e+09"), (0.0, "0")):
        folder = tmp_path / str(scale)
        for seed in range(3):
            record(folder / str(seed), seed=seed, metrics={"rmse": scale * (1 + seed)}, monitor="rmse")
        leaderboard.show(answer(folder))
        assert f" {shown} " in capsys.readouterr().out


def test_an_interval_ends_where_the_metric_does(tmp_path):
    arm(tmp_path, [0.99, 0.90], loss="focal")
    arm(tmp_path, [0.5, 0.5], loss="nll")
    found = standings(answer(tmp_path))
    low, high = scipy.stats.t.interval(0.95, 1, 0.945, scipy.stats.sem([0.99, 0.90]))
    assert (low < 1 < high, found["focal"].spread.interval) == (True, (pytest.approx(low), 1.0))
    assert (found["nll"].spread.interval, found["nll"].spread.bootstrap) == (None, None)


def test_values_without_a_spread_have_no_interval_and_nothing_is_minus_zero(tmp_path, capsys, wide):
    for loss, values in (("a", [0.5, 0.6, 0.7]), ("b", [0.5, 0.6, 0.7]), ("c", [0.4, 0.5, 0.6])):
        arm(tmp_path / loss, [0.0] * 3, loss=loss)
        for seed, value in enumerate(values):
            change(
                tmp_path / loss / f"{loss}-{seed}", metrics={"test": {"accuracy": value - (loss == "b") * 1e-9 * seed}}
            )
    leaderboard.show(answer(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert not any("-0.00 " in line for line in lines)
    (row,) = [line for line in lines if line.startswith("│ a ") and "│ c " in line]
    assert [cell.strip() for cell in row.split("│")][4:6] == ["0.10", "-"]


def shown(comparison, monkeypatch, width=80):
    monkeypatch.setattr(console, "width", width)
    with console.capture() as captured:
        leaderboard.show(comparison)
    return captured.get()


def test_equal_verdicts_are_counted_and_names_said_once(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).normal(scale=0.01, size=(4, 9))
    for loss, mean, each in zip("abcd", (0.5, 0.5, 0.5, 0.9), noise, strict=True):
        arm(tmp_path / loss, (mean + each).tolist(), loss=loss)
    lines = [line for line in shown(answer(tmp_path), monkeypatch).splitlines() if line[:1] not in "┏┃┡│└"]
    assert [line.partition(" by ")[0] for line in lines if " better than " in line] == [
        f"d is better than {other}" for other in standings(answer(tmp_path)) if other != "d"
    ]
    assert [line for line in lines if " pairs: " in line] == ["3 pairs: no detectable difference"]
    assert not any("against" in line for line in lines)


def test_the_interval_goes_after_the_p_and_that_after_those_of_each_test(two, monkeypatch):
    arm(two, [0.2, 0.3, 0.7], loss="nll")
    arm(two, [0.1 + 0.1 * (3 * seed % 8) for seed in range(15)], loss="other")
    arm(two, [0.1 + 0.1 * (5 * seed % 8) for seed in range(15)], loss="another")
    found, shares = answer(two), [0, 0, 0]
    for width in range(30, 130, 5):
        text = shown(found, monkeypatch, width)
        table = text[text.index("against") - 400 :]
        for place, columns in enumerate((["95 % CI"], ["95 % CI", "(Holm)"], ["95 % CI", "(Holm)", "Wilcoxon"])):
            shares[place] += all(column in table for column in columns)
        assert ("95 % CI" in table) >= ("(Holm)" in table) >= ("Wilcoxon" in table)
    assert shares == sorted(set(shares), reverse=True)
    pairs = found.pairs
    assert {pair.test for pair in pairs} == {"t", "wilcoxon"}
    (column,) = [each for each in pair_columns(found) if each.head == "p\n(Holm)"]
    assert [cell for cell in column.cells if cell != "<0.001"] == [
        f"{pair.p_holm:.3f}" for pair in pairs if pair.p_holm >= 0.001
    ]


@pytest.mark.parametrize("seeds", [2, 9])
def test_the_best_is_bold_where_it_is_found_better(tmp_path, monkeypatch, seeds):
    arm(tmp_path, [0.9 + 0.001 * seed for seed in range(seeds)], loss="focal")
    arm(tmp_path, [0.8 + 0.002 * seed for seed in range(seeds)], loss="nll")
    rows = []
    monkeypatch.setattr(leaderboard, "fitted", lambda columns, bold: rows.append(bold) or "")
    leaderboard.show(answer(tmp_path))
    assert rows[0] == [seeds == 9, False]


def test_compare_does_not_import_torch(two):
    code = "import sys; from lossbench.cli import main; main(['compare', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(two)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# The end of a sweep


def test_a_sweep_without_an_answer_says_why(tmp_path, capsys):
    record(tmp_path / "a", status="failed")
    sweep(tmp_path)
    leaderboard.conclude(tmp_path)
    assert capsys.readouterr().out == "no leaderboard: nothing to compare: 1 run failed, and none has metrics\n"


SHORT = ("trainer.steps=3", "model.hidden=[4]", "hydra/launcher=basic")


def test_a_sweep_ends_with_its_leaderboard(cli, tmp_path, wide):
    out = printed(cli, "train", "-m", "optim=sgd", "optim.lr=0.1,1e30", "seed=0,1", *SHORT, "sweep.name=real")
    assert "test accuracy (larger is better): 2 arms, 4 runs, paired by seed" in out
    assert "2 runs diverged: counted as the worst outcome, test accuracy 0" in out
    path = tmp_path / "outputs" / "real"
    first = {name: (path / f"leaderboard.{name}").read_text() for name in ("csv", "md", "json")}
    assert printed(cli, "compare", "outputs/real") in out.replace("\r", "")
    assert first == {name: (path / f"leaderboard.{name}").read_text() for name in first}
    runs = [json.loads(file.read_text()) for file in path.glob("*/summary.json")]
    values = {
        run["settings"]["seed"]: run["metrics"]["test"]["accuracy"]
        for run in runs
        if run["settings"]["optim.lr"] == 0.1
    }
    best, worst = json.loads(first["json"])["arms"]
    assert {each["seed"]: each["value"] for each in best["values"]} == values
    assert {each["seed"]: each["value"] for each in worst["values"]} == {0: 0.0, 1: 0.0}


def test_a_direction_that_was_stated_is_that_of_the_comparison(cli):
    words = ("trainer.monitor=loss", "trainer.direction=max", "trainer.epochs=2", "sweep.name=s")
    assert cli("train", "-m", "optim.lr=1e-9,1e-2", *words)[0] == 0
    for metric, best in (("loss", "larger"), ("nll", "smaller")):
        code, out, err = cli("compare", "outputs/s", "--metric", metric)
        assert (code, err) == (0, "")
        assert f"{best} is better" in out
