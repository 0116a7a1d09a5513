"""A run that was interrupted at any step and gone on with equals the one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal as signals
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import Process
from recorded import bytes_of, stop_after
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from lossbench.engine import Player
from lossbench.engine.checkpoint import read
from lossbench.observe.recorder import DeviceRecorder

# A data set that does not lie in memory and draws a different noise for each look at an example.
CODE = """
import numpy as np
import random
import torch
from lossbench.data import Source

class Noisy(torch.utils.data.Dataset):
    def __init__(self, n):
        g = torch.Generator().manual_seed(0)
        self.x = torch.randn(n, 6, generator=g)
    def __len__(self):
        return len(self.x)
    def __getitem__(self, i):
        noise = torch.randn(6) + np.random.rand() + random.random()
        return self.x[i] + 0.1 * noise

def noisy(n: int = 150):
    items = Noisy(n)
    return Source(items, (items.x.sum(1) > 0).long().numpy(), "binary")
"""
FILES = {"augmented.py": CODE, "mine/dataset/noisy.yaml": "_target_: augmented.noisy\nn: 150\n"}

DROPOUT = ("model.hidden=[16]", "model.dropout=0.4", "model.norm=batch", "trainer.batch_size=16")
RUNS = {
    "plain": ("dataset=diabetes", *DROPOUT),
    "schedule": ("dataset=diabetes", *DROPOUT, "scheduler=onecycle", "optim=sgd", "scheduler.warmup=5"),
    "epoch schedule": ("dataset=diabetes", *DROPOUT, "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.5"),
    "plateau": ("dataset=diabetes", *DROPOUT, "scheduler=plateau", "scheduler.patience=0", "trainer.eval_every=7"),
    "accumulate": ("dataset=diabetes", *DROPOUT, "trainer.accumulate=3", "scheduler=cosine"),
    "fp16": ("dataset=diabetes", *DROPOUT, "trainer.precision=fp16", "optim=rmsprop"),
    "fp16 accumulate": ("dataset=breast_cancer", *DROPOUT, "trainer.precision=fp16", "trainer.accumulate=3"),
    "bf16": ("dataset=breast_cancer", *DROPOUT, "trainer.precision=bf16", "trainer.clip_norm=0.5", "loss=focal"),
    "images": ("dataset=digits", "model=cnn", "model.channels=[4]", "model.dropout=0.2", "trainer.batch_size=128"),
    "learned weights": ("loss=uncertainty", "+loss@loss.terms.a=cross_entropy", "+loss@loss.terms.b=poly1", *DROPOUT),
    "a course": ("loss=focal", "loss.gamma={from: 0, to: 2, over: 0.5}", "dataset.sampler=balanced", *DROPOUT),
    "groups": ("loss=group_dro", "loss.step_size=1", "dataset.label_noise=0.1", *DROPOUT),
    "line search": ("dataset=diabetes", *DROPOUT, "optim=lbfgs", "optim.max_iter=3"),
    "learned shape": ("dataset=diabetes", "loss=adaptive_robust", *DROPOUT),
    "changed images": ("model=cnn", "model.channels=[4]", "dataset.augment={shift: 1, rotate: 9, noise: 0.1}"),
    "augmented": ("--config-dir", "mine", "dataset=noisy", *DROPOUT, "scheduler=cosine"),
    "workers": ("--config-dir", "mine", "dataset=noisy", *DROPOUT, "dataset.workers=2"),
}


@pytest.fixture
def desk(cli, tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return cli


def state_of(run):
    state = read(Path(run, "checkpoints/last").resolve()).state("state.pt")
    state["progress"].pop("seconds")
    return state


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b or (a != a and b != b)


def metrics_of(run):
    summary = json.loads(Path(run, "summary.json").read_text())
    return summary["metrics"], summary["best"], summary["steps"], summary["skipped"]


def scalars_of(run):
    """What TensorBoard shows: of each tag its steps and values."""
    board = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    found = {}
    for tag in board.Tags()["tensors"]:
        if not tag.startswith("_hparams_"):
            found[tag] = [(e.step, e.tensor_proto.float_val[0]) for e in board.Tensors(tag)]
    return found


def assert_equal_runs(a, b):
    assert bytes_of(a) == bytes_of(b)
    assert equal(state_of(a), state_of(b))
    assert metrics_of(a) == metrics_of(b)
    shown = scalars_of(b)
    assert shown == scalars_of(a)
    steps = [step for step, _ in shown["train/loss"]]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("name", RUNS)
def test_resume_equals_the_run_that_was_not_interrupted(desk, monkeypatch, name):
    words = (*RUNS[name], "trainer.steps=40")
    assert desk("train", *words, "hydra.run.dir=whole")[0] == 0
    at = random.Random(name).sample(range(1, 20), 2)
    flags = words[:2] if words[0].startswith("--") else ()
    stop_after(monkeypatch, at[0])
    code, out, _ = desk("train", *words, "hydra.run.dir=parts")
    assert code == 143
    assert f"stopped after step {at[0]}, and saved; go on with: lossbench train" in out
    stop_after(monkeypatch, at[1])
    assert desk("train", *flags, "resume=parts")[0] == 143
    stop_after(monkeypatch, 0)
    code, out, err = desk("train", *flags, "resume=parts")
    assert (code, err) == (0, "")
    assert_equal_runs("whole", "parts")


def test_without_restoring_random_numbers_it_would_not_be_equal(desk, monkeypatch):
    """The negative control: were a step's draws not its own, dropout would differ after the resume."""
    monkeypatch.setattr(Player, "begin", lambda *_: None)
    words = (*RUNS["plain"], "trainer.steps=20")
    torch.manual_seed(0)
    assert desk("train", *words, "hydra.run.dir=whole")[0] == 0
    stop_after(monkeypatch, 7)
    assert desk("train", *words, "hydra.run.dir=parts")[0] == 143
    stop_after(monkeypatch, 0)
    assert desk("train", "resume=parts")[0] == 0
    whole, parts = bytes_of("whole")["steps.csv"].splitlines(), bytes_of("parts")["steps.csv"].splitlines()
    assert whole[:8] == parts[:8]
    assert whole[8:] != parts[8:]


def test_the_order_of_the_batches_goes_on_where_it_stopped(desk, monkeypatch):
    """Epochs of 20 steps, stopped in the second: epoch and step go on, and no step comes twice."""
    stop_after(monkeypatch, 33)
    desk("train", "trainer.epochs=3", "hydra.run.dir=parts")
    stop_after(monkeypatch, 0)
    desk("train", "resume=parts")
    lines = Path("parts/steps.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:2] for line in lines] == [[str(i), str((i - 1) // 20 + 1)] for i in range(1, 61)]


QUICK = ("dataset=diabetes", "trainer.steps=30", "trainer.checkpoint.every=10", "trainer.batch_size=32")


def interrupted(desk, monkeypatch, *words, at=25):
    stop_after(monkeypatch, at)
    assert desk("train", *QUICK, *words, "hydra.run.dir=run")[0] == 143
    stop_after(monkeypatch, 0)
    return Path("run")


def test_old_checkpoints_go_and_the_best_stays(desk, monkeypatch):
    run = interrupted(desk, monkeypatch)
    names = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert names[-2:] == ["step-00000020", "step-00000025"]
    assert os.readlink(run / "checkpoints/last") == "step-00000025"
    best = json.loads((run / "checkpoints/best/manifest.json").read_text())
    assert os.readlink(run / "checkpoints/best") == f"best-{best['step']:08d}"
    assert best["metric"] == "rmse"


def test_an_older_checkpoint_can_be_named(desk, monkeypatch):
    run = interrupted(desk, monkeypatch)
    code, _, err = desk("train", f"resume={run}/checkpoints/step-00000020")
    assert (code, err) == (0, "")
    desk("train", *QUICK, "hydra.run.dir=whole")
    assert_equal_runs("whole", "run")


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_passed_over(desk, monkeypatch, damage):
    run = interrupted(desk, monkeypatch)
    path = run / "checkpoints/step-00000025/model.safetensors"
    if damage == "cut":
        os.truncate(path, 100)
    elif damage == "flip":
        path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    else:
        path.unlink()
    code, out, err = desk("train", "resume=run")
    assert (code, err) == (0, "")
    assert re.search(r"step-00000025/model.safetensors is damaged: .*; using step-00000020", out)
    desk("train", *QUICK, "hydra.run.dir=whole")
    assert_equal_runs("whole", "run")


def test_damaged_best_weights_are_forgotten_with_a_warning(desk, monkeypatch):
    run = interrupted(desk, monkeypatch)
    (run / "checkpoints/best/model.safetensors").write_bytes(b"")
    code, out, _ = desk("train", "resume=run")
    assert code == 0
    assert "the best weights so far are lost, and the next evaluation counts as the best" in out


def refused(desk, code, line, *words):
    found, _, err = desk("train", *words)
    assert re.fullmatch(f"lossbench: error: {line}\n", err), err
    assert found == code


def test_what_may_not_change_is_refused_with_both_values(desk, monkeypatch):
    interrupted(desk, monkeypatch)
    before = bytes_of("run")
    hint = "leave it as it was, or start a new run from these weights with weights=run"
    for word, was in (
        ("loss=mae", "loss=mse"),
        ("model=linear", "model=mlp"),
        ("optim=sgd", "optim=adamw"),
        ("dataset=breast_cancer", "dataset=diabetes"),
        ("seed=1", "seed=0"),
        ("trainer.batch_size=16", "trainer.batch_size=32"),
        ("trainer.accumulate=2", "trainer.accumulate=1"),
        ("model.dropout=0.5", r"model\.dropout=0\.0"),
        ("trainer.monitor=mae", "trainer.monitor=null"),
        ("dataset.split.val=0.3", r"dataset\.split\.val=0\.15"),
    ):
        refused(desk, 5, f"run was trained with {was}, and {word} is asked for; {hint}", "resume=run", word)
    refused(
        desk,
        5,
        r"run was trained in fp32, and trainer\.precision=fp16 means fp16 here; set trainer\.precision=fp32",
        "resume=run",
        "trainer.precision=fp16",
    )
    assert bytes_of("run") == before


def test_what_may_change_is_noted(desk, monkeypatch):
    interrupted(desk, monkeypatch, "scheduler=cosine")
    code, out, err = desk("train", "resume=run", "optim.lr=0.01", "trainer.steps=60", "scheduler=constant")
    assert (code, err) == (0, "")
    assert "optim.lr was 0.001 and is 0.01 from here on" in out
    assert "trainer.steps was 30 and is 60 from here on" in out
    rates = [line.split(",")[3] for line in Path("run/steps.csv").read_text().splitlines()[1:]]
    assert set(rates[25:]) == {"0.01"}
    assert len(rates) == 60


def test_a_longer_run_has_the_longer_schedule(desk, monkeypatch):
    """A cosine that is made longer goes on where it would have stood had it been so from the start."""
    interrupted(desk, monkeypatch, "scheduler=cosine")
    desk("train", "resume=run", "trainer.steps=60")
    desk("train", *QUICK, "scheduler=cosine", "trainer.steps=60", "hydra.run.dir=long")
    rates = {
        run: [line.split(",")[3] for line in Path(run, "steps.csv").read_text().splitlines()] for run in ("run", "long")
    }
    assert rates["run"][26:] == rates["long"][26:]
    assert rates["run"][1:26] != rates["long"][1:26]


def test_a_finished_run_is_not_gone_on_with(desk):
    assert desk("train", *QUICK, "hydra.run.dir=run")[0] == 0
    refused(desk, 2, r"run has finished \(length\); trainer\.epochs=N with a larger N trains on", "resume=run")
    assert desk("train", "resume=run", "trainer.steps=35")[0] == 0
    assert len(Path("run/steps.csv").read_text().splitlines()) == 36


def test_auto_finds_the_interrupted_run_of_the_config(desk, monkeypatch):
    words = ("train", *QUICK, "resume=auto", "optim.lr=0.003")
    stop_after(monkeypatch, 12)
    code, out, _ = desk(*words)
    assert code == 143
    assert "resume=auto: no interrupted run of this config below outputs; starting a new one" in out
    stop_after(monkeypatch, 12)
    desk("train", *QUICK, "optim.lr=0.004")  # of another config: another run
    stop_after(monkeypatch, 0)
    code, out, _ = desk(*words)
    assert (code, "starting a new one" in out) == (0, False)
    statuses = [json.loads(path.read_text())["status"] for path in Path("outputs").rglob("status.json")]
    assert sorted(statuses) == ["completed", "interrupted"]
    assert "starting a new one" in desk(*words)[1]
    assert len(list(Path("outputs").rglob("status.json"))) == 3


def test_paths_that_are_no_run(desk, monkeypatch):
    Path("file").write_text("")
    Path("empty").mkdir()
    refused(
        desk, 5, "there is no run in 'nowhere': a run's directory holds config.yaml and checkpoints", "resume=nowhere"
    )
    refused(desk, 5, "there is no run in 'empty': .*", "resume=empty")
    refused(desk, 5, "'file' is a file; name a run's directory, or one of its checkpoints", "resume=file")
    interrupted(desk, monkeypatch)
    line = "there is no checkpoint 'step-7' in run/checkpoints; it has steps 20, 25"
    refused(desk, 5, line, "resume=run/checkpoints/step-7")
    shutil.rmtree("run/checkpoints")
    refused(desk, 5, "run holds no checkpoint to go on from", "resume=run")
    refused(desk, 2, "resume goes on with one run; leave -m away", "-m", "resume=run")


def test_a_recorded_setting_that_names_code_is_typed_again(desk, monkeypatch):
    """A directory from a stranger chooses among options by name; it cannot name code to run."""
    run = interrupted(desk, monkeypatch)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("dataset=diabetes", "dataset=diabetes model._target_=os.system", 1))
    line = r"the run was started with model\._target_=os\.system, which may name code: type it again if you trust it"
    refused(desk, 5, line, "resume=run")


def test_a_run_that_is_going_on_is_left_alone(desk, monkeypatch):
    from lossbench.observe.run_dir import lock

    run = interrupted(desk, monkeypatch)
    held = lock(run)
    line = r"run is in use: its run is still going on \(status\.json has the pid\)"
    refused(desk, 2, line, "resume=run")
    held.close()
    assert desk("train", "resume=run")[0] == 0


def test_weights_start_a_new_run(desk):
    assert desk("train", *QUICK, "hydra.run.dir=run")[0] == 0
    code, _, err = desk("train", *QUICK, "weights=run", "loss=mae", "optim=sgd", "optim.lr=1e-9", "hydra.run.dir=next")
    assert (code, err) == (0, "")
    first, then = (metrics_of(run)[0]["val"]["rmse"] for run in ("run", "next"))
    assert first == pytest.approx(then, rel=1e-6)
    line = r"run/checkpoints/best-\d+ is for another model: '.*' has shape .* there, .* here"
    path = re.escape(str(Path.cwd())) + "/"
    refused(desk, 5, f"({path})?{line}", *QUICK, "weights=run", "model.hidden=[7]")


def recorded(folder):
    """How many steps are in the file."""
    csv = Path(folder, "steps.csv")
    return csv.read_bytes().count(b"\n") - 1 if csv.is_file() else 0


def killed(words, folder, rows):
    """A process killed as soon as so many steps are recorded; False if it ended first."""
    process = Process("train", *words)
    if process.until(lambda: recorded(folder) >= rows):
        time.sleep(random.random() * 0.02)
        process.send(signals.SIGKILL)
    code = process.wait()
    assert code in (0, -signals.SIGKILL), process.err.read_text()
    return code != 0


def kill_and_resume(name, kills, steps=400):
    words = (*RUNS[name], f"trainer.steps={steps}", "trainer.checkpoint.every=7", "trainer.flush_every=5")
    flags = words[:2] if words[0].startswith("--") else ()
    assert Process("train", *words, "hydra.run.dir=whole").wait() == 0
    goals = sorted(random.Random(name).sample(range(7, steps - 20), kills))
    done = 0
    for rows in goals:
        done += killed((*flags, "resume=parts") if done else (*words, "hydra.run.dir=parts"), "parts", rows)
        assert json.loads(Path("parts/status.json").read_text())["status"] == "running"
    assert Process("train", *flags, "resume=parts").wait() == 0
    assert_equal_runs("whole", "parts")
    return done


def test_killed_and_gone_on_with(desk):
    assert kill_and_resume("plain", 2) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_at_random_moments_and_gone_on_with(desk, name):
    """Five kills for each of eleven kinds of run: 55."""
    assert kill_and_resume(name, 5) == 5


@pytest.mark.slow
def test_the_command_itself_killed_and_gone_on_with(desk):
    """As above, with nothing but what a user types: a fresh interpreter each time."""
    words = (*RUNS["plain"], "trainer.steps=3000", "trainer.checkpoint.every=500")
    command = [sys.executable, "-m", "lossbench", "train"]
    subprocess.run([*command, *words, "hydra.run.dir=whole"], check=True, stdout=subprocess.DEVNULL, timeout=120)
    with subprocess.Popen([*command, *words, "hydra.run.dir=parts"], stdout=subprocess.DEVNULL) as process:
        while recorded("parts") < 700 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signals.SIGKILL
    subprocess.run([*command, "resume=parts"], check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert_equal_runs("whole", "parts")


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR2", 143)])
@pytest.mark.parametrize("name", ["plain", pytest.param("workers", marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_printed_command_goes_on(desk, name, signal, code):
    words = (
        *RUNS[name],
        "trainer.steps=2000" if name == "plain" else "trainer.steps=70",
        "trainer.checkpoint.every=null",
    )
    process = Process("train", *words, "hydra.run.dir=parts", "trainer.flush_every=5")
    assert process.until(lambda: recorded("parts") > 10)
    os.killpg(process.pid, getattr(signals, signal))  # as a terminal or a batch system does: to every process
    assert process.wait() == code
    assert process.err.read_text() == ""
    assert json.loads(Path("parts/status.json").read_text())["status"] == "interrupted"
    step, way = re.search(
        r"stopped after step (\d+), and saved; go on with: lossbench (.*)", process.out.read_text()
    ).groups()
    assert os.readlink("parts/checkpoints/last") == f"step-{int(step):08d}"
    assert recorded("parts") == int(step)
    assert Process(*shlex.split(way)).wait() == 0
    assert Process("train", *words, "hydra.run.dir=whole").wait() == 0
    assert_equal_runs("whole", "parts")


def test_a_second_signal_leaves_at_once(desk):
    """The step never ends: only the second signal gets out, with what the last checkpoint has."""
    Path("slow.py").write_text(
        "import time\ncalls = 0\n"
        "def slow(pred, target):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls > 60: open('stuck', 'w').close(); time.sleep(1000)\n"
        "    return (pred - target).square()\n"
    )
    Path("mine/loss").mkdir(parents=True)
    Path("mine/loss/slow.yaml").write_text("_target_: slow.slow\n")
    words = ("--config-dir", "mine", "dataset=diabetes", "loss=slow", "trainer.checkpoint.every=10")
    process = Process("train", *words, "hydra.run.dir=run")
    assert process.until(Path("stuck").exists)
    process.send(signals.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send(signals.SIGTERM)
    assert process.wait(10) == 143
    out = process.out.read_text()
    assert "left at once; what was recorded is in run; go on with: lossbench train --config-dir mine resume=run" in out
    assert json.loads(Path("run/status.json").read_text())["status"] == "interrupted"
    assert read(Path("run/checkpoints/last").resolve()).facts["step"] % 10 == 0


@pytest.mark.parametrize(
    "word",
    [
        "loss=../../../../tmp/evil",
        "loss=/tmp/evil",
        "hydra.searchpath=[file:///tmp]",
        "+loss@extra=/tmp/evil",
        "experiment=[digits,../x]",
    ],
)
def test_a_recorded_setting_that_could_bring_in_a_file_is_typed_again(desk, monkeypatch, word):
    run = interrupted(desk, monkeypatch)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("dataset=diabetes", f"dataset=diabetes {word}", 1))
    line = f"the run was started with {re.escape(word)}, which may name code: type it again if you trust it"
    refused(desk, 5, line, "resume=run")


def test_a_job_of_a_sweep_is_a_run_like_others(desk, monkeypatch):
    stop_after(monkeypatch, 25)
    code, out, _ = desk("train", "-m", *QUICK, "seed=0,1", "trainer.flush_every=5,6", "hydra.sweep.dir=sweep")
    assert (code, "interrupted; 0 jobs ended, 1 saved half-way; go on with: " in out) == (143, True)
    Path("sweep").rename("my 'sweep'")
    (job,) = (path.parent for path in Path("my 'sweep'").rglob("status.json"))
    assert "," in job.name
    assert "=" in job.name
    stop_after(monkeypatch, 0)
    code, _, err = desk("train", f"resume={job}")
    assert (code, err) == (0, "")
    desk("train", *QUICK, "hydra.run.dir=whole")
    assert_equal_runs("whole", job)


def test_killed_in_the_final_evaluation(desk, monkeypatch):
    """All steps are made, and a checkpoint has them: what is left is to measure and to say so."""
    with monkeypatch.context() as patched:
        patched.setattr("lossbench.run.final_metrics", lambda _: os.kill(os.getpid(), signals.SIGKILL))
        assert Process("train", *QUICK, "hydra.run.dir=run").wait() == -signals.SIGKILL
    code, out, err = desk("train", "resume=run")
    assert (code, err) == (0, "")
    assert "completed" in out
    desk("train", *QUICK, "hydra.run.dir=whole")
    assert_equal_runs("whole", "run")


def test_patience_is_used_up_across_an_interruption(desk, monkeypatch):
    words = (*QUICK, "trainer.monitor=loss", "trainer.direction=max", "trainer.early_stop=2", "trainer.eval_every=5")
    desk("train", *words, "hydra.run.dir=whole")
    steps = metrics_of("whole")[2]
    assert steps < 30
    stop_after(monkeypatch, steps)
    assert desk("train", *words, "hydra.run.dir=run")[0] == 143  # in its last step
    stop_after(monkeypatch, 0)
    assert desk("train", "resume=run")[0] == 0
    assert_equal_runs("whole", "run")
    refused(desk, 2, r"run has finished \(early_stop\); a larger trainer.early_stop, or null, trains on", "resume=run")


def everything(run):
    return {path: path.read_bytes() for path in sorted(Path(run).rglob("*")) if path.is_file()}


def test_a_refused_resume_changes_nothing(desk, monkeypatch):
    run = interrupted(desk, monkeypatch)
    before = everything(run)
    refused(desk, 5, "run was trained with seed=0, .*", "resume=run", "seed=7")
    line = r"\S*run has made 25 steps, and trainer.epochs or trainer.steps asks for 9; ask for more, or .*"
    refused(desk, 2, line, "resume=run", "trainer.steps=9")
    refused(desk, 5, r"\S*best-\d+ holds weights alone, .*", "resume=run/checkpoints/best")
    assert everything(run) == before
    csv = (run / "steps.csv").read_bytes()
    (run / "steps.csv").write_bytes(csv[:200])
    refused(desk, 5, r".*steps\.csv.*", "resume=run/checkpoints/step-00000020")
    (run / "steps.csv").write_bytes(csv)
    assert everything(run) == before
    assert desk("train", "resume=run")[0] == 0


RATES = ("trainer.batch_size=32", "dataset=diabetes", "optim.lr=0.1", "trainer.checkpoint.every=10")


def rates_of(run):
    return [float(line.split(",")[3]) for line in Path(run, "steps.csv").read_text().splitlines()[1:]]


def stopped(desk, monkeypatch, *words, at=25):
    stop_after(monkeypatch, at)
    assert desk("train", *RATES, *words, "hydra.run.dir=run")[0] == 143
    stop_after(monkeypatch, 0)


def test_onecycle_can_be_left_and_entered(desk, monkeypatch):
    stopped(desk, monkeypatch, "scheduler=onecycle", "trainer.steps=40")
    code, _, err = desk("train", "resume=run", "scheduler=constant")
    assert (code, err) == (0, "")
    assert set(rates_of("run")[25:]) == {0.1}
    shutil.rmtree("run")
    stopped(desk, monkeypatch, "trainer.steps=40")
    code, _, err = desk("train", "resume=run", "scheduler=onecycle")
    assert (code, err) == (0, "")
    desk("train", *RATES, "trainer.steps=40", "scheduler=onecycle", "hydra.run.dir=fresh")
    assert rates_of("run")[25:] == rates_of("fresh")[25:]


def test_a_longer_run_keeps_what_a_plateau_has_learned(desk, monkeypatch):
    plateau = ("scheduler=plateau", "scheduler.patience=0", "scheduler.factor=0.1", "trainer.eval_every=5")
    words = (*plateau, "trainer.monitor=loss", "trainer.direction=max")
    stopped(desk, monkeypatch, *words, "trainer.steps=40")
    last = rates_of("run")[-1]
    assert last < 0.05
    assert desk("train", "resume=run", "trainer.steps=45")[0] == 0
    assert rates_of("run")[25] <= last


INTERVALS = {
    "step": ("scheduler=onecycle",),
    "epoch": ("scheduler=onecycle", "scheduler.interval=epoch"),
    "evaluation": ("scheduler=onecycle", "scheduler.interval=evaluation", "trainer.eval_every=7"),
    "metric": ("scheduler=plateau", "scheduler.patience=0", "trainer.direction=max", "trainer.eval_every=7"),
}


@pytest.fixture
def seconds(monkeypatch):
    """A clock of the training that goes on by a second at each step."""
    made = []

    def push(self, step, *rest, original=DeviceRecorder.push):
        made.append(step)
        original(self, step, *rest)

    monkeypatch.setattr(DeviceRecorder, "push", push)
    monkeypatch.setattr(DeviceRecorder, "elapsed", lambda self: made[-1])


@pytest.mark.parametrize("interval", INTERVALS)
def test_rates_are_those_of_the_whole_run_wherever_it_was_left(desk, monkeypatch, seconds, interval):
    """Twice it is out of time, which measures the weights beside the evaluations' grid, and once it is told to stop."""
    words, length = (*RATES, *INTERVALS[interval]), "trainer.steps=60"
    assert desk("train", *words, length, "hydra.run.dir=whole")[0] == 0
    first, second, third = sorted(random.Random(interval).sample(range(8, 50), 3))
    assert {first % 7, second % 7} - {0}
    assert desk("train", *words, length, f"trainer.max_time={first}", "hydra.run.dir=run")[0] == 0
    assert desk("train", "resume=run", f"trainer.max_time={second}")[0] == 0
    stop_after(monkeypatch, third - second)
    assert desk("train", "resume=run", "trainer.max_time=null")[0] == 143
    stop_after(monkeypatch, 0)
    assert desk("train", "resume=run")[0] == 0
    assert len(set(rates_of("whole"))) > 3
    assert rates_of("run") == rates_of("whole")


@pytest.mark.parametrize("interval", ["evaluation", "metric"])
def test_a_run_that_was_too_short_is_made_longer(desk, interval):
    words = (*RATES, *INTERVALS[interval])
    assert desk("train", *words, "trainer.steps=60", "hydra.run.dir=whole")[0] == 0
    assert desk("train", *words, "trainer.steps=24", "hydra.run.dir=run")[0] == 0
    assert desk("train", "resume=run", "trainer.steps=60")[0] == 0
    assert rates_of("run")[24:] == rates_of("whole")[24:]


@pytest.mark.parametrize("name", ["onecycle", "cosine"])
def test_other_evaluations_make_another_schedule_of_what_goes_by_them(desk, monkeypatch, name):
    words = (f"scheduler={name}", "scheduler.interval=evaluation", "trainer.steps=40")
    stopped(desk, monkeypatch, *words, "trainer.eval_every=8")
    code, _, err = desk("train", "resume=run", "trainer.eval_every=3")
    assert (code, err) == (0, "")
    desk("train", *RATES, *words, "trainer.eval_every=3", "hydra.run.dir=fresh")
    assert rates_of("run")[25:] == rates_of("fresh")[25:]


@pytest.mark.parametrize("change", ["trainer.eval_every=8", "optim.weight_decay=0.1"])
def test_what_is_no_rate_leaves_a_plateau_where_it_stands(desk, monkeypatch, change):
    plateau = ("scheduler=plateau", "scheduler.patience=0", "trainer.eval_every=5", "trainer.direction=max")
    stopped(desk, monkeypatch, *plateau, "trainer.steps=40", at=23)
    last = rates_of("run")[-1]
    assert desk("train", "resume=run", change)[0] == 0
    assert rates_of("run")[23] == last < 0.05
    (group,) = json.loads(Path("run/summary.json").read_text())["groups"]
    assert group["weight_decay"] == (0.1 if "decay" in change else 0.01)


def test_a_checkpoint_may_be_named_by_its_number(desk, monkeypatch):
    stopped(desk, monkeypatch, "trainer.steps=30", "trainer.checkpoint.every=10", at=23)
    assert desk("train", "resume=run/checkpoints/step-20")[0] == 0
    assert len(rates_of("run")) == 30


FAULT = """
calls = 0
def fails(pred, target, *, at: int = 27, times: int = 2):
    global calls
    calls += 1
    values = (pred - target).square()
    return values * float("nan") if at <= calls < at + times else values
"""


def test_a_rollback_after_a_resume_has_the_new_rate(desk, monkeypatch):
    """Two calls are the probe's and one an evaluation's: the fault comes a few steps after the resume."""
    Path("failing.py").write_text(FAULT)
    Path("mine/loss").mkdir(parents=True, exist_ok=True)
    Path("mine/loss/fails.yaml").write_text("_target_: failing.fails\nat: 1000000\ntimes: 2\n")
    words = ("--config-dir", "mine", "loss=fails", "trainer.nonfinite=rollback", "trainer.steps=40")
    stopped(desk, monkeypatch, *words, at=15)
    Path("failing.py").write_text(FAULT.replace("calls = 0", "calls = 1000000 - 4", 1))
    sys.modules.pop("failing", None)
    code, out, err = desk("train", "--config-dir", "mine", "resume=run", "optim.lr=0.02")
    assert (code, err) == (0, "")
    assert "back to step 15, at a lower rate" in out
    assert set(rates_of("run")[15:]) == {0.01}


def test_skipped_steps_are_none_of_a_schedule_by_evaluations_made_anew(desk, monkeypatch):
    """At step 25 there were 3 evaluations, and so few steps taken that these alone would have made 2."""
    Path("failing.py").write_text(FAULT)
    Path("mine/loss").mkdir(parents=True, exist_ok=True)
    Path("mine/loss/fails.yaml").write_text("_target_: failing.fails\nat: 12\ntimes: 8\n")
    sys.modules.pop("failing", None)
    mine = ("--config-dir", "mine", "loss=fails", "trainer.nonfinite=skip", "trainer.eval_every=8")
    words = (*mine, "scheduler=linear", "scheduler.interval=evaluation")
    stopped(desk, monkeypatch, *words, "trainer.steps=40")
    skipped = [line for line in Path("run/steps.csv").read_text().splitlines() if "nonfinite" in line]
    assert len(skipped) >= 2
    assert desk("train", "--config-dir", "mine", "resume=run", "trainer.steps=60")[0] == 0
    desk("train", *RATES, *words, "trainer.steps=60", "hydra.run.dir=fresh")
    assert rates_of("run")[25:] == rates_of("fresh")[25:]


def test_what_an_earlier_part_of_the_run_noted_stays(desk, monkeypatch):
    run = interrupted(desk, monkeypatch)
    (run / "nonfinite.json").write_text(json.dumps([{"step": 3}, {"step": 24}]))
    desk("train", f"resume={run}/checkpoints/step-00000020")
    assert json.loads((run / "nonfinite.json").read_text()) == [{"step": 3}, {"step": 24}][:1]
