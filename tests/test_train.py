"""`lossbench train` as a user types it: what it leaves behind, and how runs and sweeps end."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from lossbench import catalog
from lossbench.build import build
from lossbench.compose import compose

SHORT = ("trainer.steps=3", "trainer.batch_size=32")

# Text that YAML could take for something else, or break.
TEXTS = ["1e-3", "1_0", "nan", ".5", "no", "null", "~", "", "a: b", "- a", "#a", "*a", "${oc.env:X}", "é", "a\n\nb"]


def runs():
    return sorted(path.parent for path in Path("outputs").rglob("status.json"))


def status(directory):
    return json.loads((directory / "status.json").read_text())["status"]


def test_the_config_is_written_as_omegaconf_does():
    keys = {f"key{k}": text for k, text in enumerate([*TEXTS, 40 * "word ", "x" * 200])}
    typed = {**keys, "numbers": [1, 1e-5, -0.0, math.inf, None, True], "empty": [{}, []], "deep": {"a": {"b": keys}}}
    text = replace(compose(), typed=typed).text
    assert text == OmegaConf.to_yaml(OmegaConf.create(typed))
    assert OmegaConf.to_container(OmegaConf.create(text)) == typed


def test_a_run_leaves_its_files(cli):
    code, out, err = cli("train", "loss=focal", "optim=adamw", *SHORT)
    assert (code, err) == (0, "")
    (run,) = runs()
    events = [path.name for path in run.glob("events.out.tfevents.*")]
    assert len(events) == 1
    found = {path.name for path in run.iterdir()} - set(events)
    files = {"config.yaml", "evals.csv", "hparams.json", "status.json", "steps.csv", "summary.json"}
    assert found == {*files, "checkpoints", ".lock"}
    assert str(run) in out
    assert "tensorboard --logdir outputs" in out
    assert run.name.endswith("-digits-mlp-focal-adamw")
    assert (run / "config.yaml").read_text().startswith("# lossbench train loss=focal optim=adamw trainer.steps=3")
    with (run / "steps.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    summary = json.loads((run / "summary.json").read_text())
    assert set(summary) == {
        "name", "status", "metrics", "best", "steps", "epochs", "seconds", "examples_per_second", "skipped_steps",
        "skipped", "spikes", "rollbacks", "parameters", "device", "precision", "threads", "seed", "choices",
        "config_hash", "versions", "git_commit", "reason", "averaged", "groups", "directions", "settings",
        "peak_memory",
    }  # fmt: skip
    assert summary["choices"]["loss"] == "focal"
    assert set(summary["metrics"]) == {"train", "val", "test"}


def test_equal_runs_write_equal_steps(cli):
    for _ in range(2):
        assert cli("train", "model=cnn", "model.dropout=0.1", "trainer.flush_every=2", *SHORT)[0] == 0
    first, second = runs()
    assert (first / "steps.csv").read_bytes() == (second / "steps.csv").read_bytes()
    assert (first / "evals.csv").read_bytes() == (second / "evals.csv").read_bytes()


def test_the_hash_is_of_what_can_change_a_result(cli):
    for words in (["name=a"], ["name=b", "trainer.flush_every=7", "output_root=outputs/x"], ["seed=1"]):
        assert cli("train", *SHORT, *words)[0] == 0
    hashes = {json.loads((run / "summary.json").read_text())["name"]: run for run in runs()}
    found = [json.loads((run / "summary.json").read_text())["config_hash"] for run in hashes.values()]
    assert len(set(found)) == 2


def test_name_and_output_root(cli):
    assert cli("train", "name=mine", "output_root=elsewhere/deep", *SHORT)[0] == 0
    (path,) = Path("elsewhere/deep").glob("*/*")
    assert path.name.endswith("-mine")


def test_hydras_own_directory_key_works(cli):
    assert cli("train", "hydra.run.dir=here", *SHORT)[0] == 0
    assert status(Path("here")) == "completed"
    code, _, err = cli("train", "hydra.run.dir=here", *SHORT)
    assert (code, "already holds a run" in err) == (2, True)


def test_secrets_of_the_environment_stay_out(cli, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    assert cli("train", "name=${oc.env:SECRET}", "output_root=o", *SHORT)[0] == 0
    (run,) = (path.parent for path in Path("o").rglob("config.yaml"))
    assert "hunter2" not in (run / "config.yaml").read_text()


def test_secrets_stay_out_of_the_event_file(cli, monkeypatch):
    monkeypatch.setenv("SECRET", "leaky_relu")
    assert cli("train", "model.activation=${oc.env:SECRET}", *SHORT)[0] == 0
    (run,) = runs()
    for path in run.rglob("*"):
        assert path.is_dir() or b"leaky" not in path.read_bytes(), path.name


def test_a_model_of_nan_is_no_result(cli):
    """A finite gradient times the rate overflows the weights in the last step, after the last good look."""
    code, _, err = cli("train", "optim=sgd", "optim.lr=1e38", "trainer.steps=1")
    assert (code, "the model's outputs are not finite" in err) == (4, True)
    assert json.loads((runs()[0] / "summary.json").read_text())["metrics"] == {}


@pytest.mark.parametrize("dataset", ["digits", "breast_cancer", "diabetes"])
def test_metrics_of_nan_outputs_are_nan(dataset):
    run = build(compose(f"dataset={dataset}"))
    for parameter in run.player.parameters:
        torch.nn.init.constant_(parameter, float("nan"))
    metrics = run.evaluate(run.data.val)
    assert all(math.isnan(value) for value in metrics.values())


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (
            "MemoryError()",
            6,
            "out of memory with 64 inputs of shape (10,) at a time; try trainer.batch_size=32 trainer.accumulate=2",
        ),
        (
            "torch.OutOfMemoryError('CUDA out of memory')",
            6,
            "out of memory with 64 inputs of shape (10,) at a time; try trainer.batch_size=32 trainer.accumulate=2",
        ),
        ("SystemExit(3)", 1, r"code of yours called sys.exit(3)"),
    ],
)
def test_user_code_that_ends_a_run(cli, raised, code, line):
    Path("ends.py").write_text(
        "import torch\ncalls = 0\n"
        "def ends(pred, target):\n"
        "    global calls\n"
        "    calls += 1\n"
        f"    if calls > 2: raise {raised}\n"
        "    return (pred - target).square()\n"
    )
    Path("mine/loss").mkdir(parents=True)
    Path("mine/loss/ends.yaml").write_text("_target_: ends.ends\n")
    found, _, err = cli("train", "--config-dir", "mine", "dataset=diabetes", "loss=ends")
    assert (found, line in err, err.count("\n")) == (code, True, 1)
    assert status(runs()[0]) == "failed"


def test_a_diverged_run(cli):
    code, _, err = cli("train", "optim=sgd", "optim.lr=1e30")
    assert code == 4
    assert err.startswith("lossbench: error: step 2: the loss is ")
    (run,) = runs()
    assert status(run) == "diverged"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["steps"], summary["skipped_steps"]) == ("diverged", 2, 1)


def test_a_run_that_fails_in_a_way_nobody_foresaw(cli):
    Path("late.py").write_text(
        "calls = 0\n"
        "def late(pred, target):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls > 2: raise RuntimeError('at last')\n"
        "    return (pred - target).square()\n"
    )
    Path("mine/loss").mkdir(parents=True)
    Path("mine/loss/late.yaml").write_text("_target_: late.late\n")
    code, _, err = cli("train", "--config-dir", "mine", "dataset=diabetes", "loss=late")
    assert (code, err) == (1, "lossbench: error: internal error: RuntimeError: at last (--debug shows where)\n")
    (run,) = runs()
    assert status(run) == "failed"
    assert "RuntimeError: at last" in (run / "run.log").read_text()


def test_a_sweep(cli):
    code, out, err = cli("train", "-m", "loss=cross_entropy,focal", "seed=range(0,2)", *SHORT)
    assert (code, err) == (0, "")
    assert [run.name for run in runs()] == [
        "0-loss=cross_entropy,seed=0",
        "1-loss=cross_entropy,seed=1",
        "2-loss=focal,seed=0",
        "3-loss=focal,seed=1",
    ]
    assert "sweep of 4 jobs in outputs/" in out
    (directory,) = {run.parent for run in runs()}
    assert (directory / "leaderboard.csv").read_text().count("\n") == 3  # a line for each loss, under their names


def test_a_sweep_over_options_that_share_a_setting(cli):
    """Hydra by itself would hold it against the default optimizer, which has no momentum."""
    code, _, err = cli("train", "-m", "optim=momentum,nesterov", "optim.momentum=0.8", *SHORT)
    assert (code, err) == (0, "")
    settings = [yaml.safe_load((run / "config.yaml").read_text())["optim"] for run in runs()]
    assert [(s["momentum"], s["nesterov"]) for s in settings] == [(0.8, False), (0.8, True)]


def test_equal_jobs_run_once(cli):
    code, out, _ = cli("train", "-m", "seed=1,1", *SHORT)
    assert (code, len(runs())) == (0, 1)
    assert "1 job equal to another: run once" in out


def test_a_failed_job_does_not_stop_the_others(cli):
    Path("a.csv").write_text("x,y\n" + "\n".join(f"{i},{i % 2}" for i in range(60)))
    sweep = ("dataset=csv", "dataset.path=a.csv,gone.csv,a.csv", "dataset.target=y")
    code, out, err = cli("train", "-m", *sweep, "seed=0,1", *SHORT)
    assert code == 10
    assert err == "lossbench: error: 2 of 4 jobs failed; the first: dataset.path: there is no file 'gone.csv'\n"
    assert [status(run) for run in runs()] == ["completed"] * 2 + ["failed"] * 2
    table = out.partition("2 jobs failed")[2]
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in table.splitlines() if line.startswith("│")]
    cause = "dataset.path: there is no file 'gone.csv'"
    assert rows == [[f"{job}-dataset.path=gone.csv,seed={seed}", cause] for job, seed in ((2, 0), (3, 1))]


def test_a_diverged_job_is_a_result(cli):
    code, out, _ = cli("train", "-m", "optim=sgd", "optim.lr=0.1,1e30", "trainer.steps=5")
    assert code == 0
    assert [status(run) for run in runs()] == ["completed", "diverged"]
    assert ": diverged; step 2: the loss is nan" in out
    assert "failed" not in out


@pytest.mark.parametrize(
    ("optim", "scheduler"),
    [
        *((optim, "onecycle") for optim in catalog.names("optim")),  # it moves momentum too, where there is one
        *(("muon", scheduler) for scheduler in catalog.names("scheduler")),  # two optimizers, and a schedule for each
    ],
)
def test_every_optimizer_and_every_schedule(cli, optim, scheduler):
    words = (f"optim={optim}", f"scheduler={scheduler}", "scheduler.warmup=2", "trainer.epochs=2")
    assert cli("train", "dataset=diabetes", *words)[0] == 0
