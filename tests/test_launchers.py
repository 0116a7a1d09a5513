"""Launchers of other plugins: joblib, submitit, on this machine and as Slurm's, and Ray; each really started."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.config_store import ConfigStore

from lossbench.errors import ResourceError
from lossbench.sweep.clusters import cluster
from lossbench.sweep.clusters.cluster import run
from lossbench.sweep.lost import lost

LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "ray")
SHORT = ("dataset=digits", "dataset.subset=200", "trainer.epochs=2")

# A model that can end its process.
NET = """
import os
import sys

from torch import nn


def net(input_shape, outputs, die="no"):
    if die == "exit":
        os._exit(9)
    if die == "leave":
        sys.exit(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
"""


def lossbench(*words, **environment):
    """A `lossbench` process as a person starts one; its exit code, stdout and stderr."""
    found = subprocess.run(
        [sys.executable, "-m", "lossbench", *words],
        capture_output=True,
        text=True,
        timeout=500,
        env={**os.environ, **environment},
    )
    return found.returncode, found.stdout, found.stderr


def slurm(path):
    """The environment in which Slurm's commands are those of `slurm.py`."""
    path.mkdir()
    shutil.copy(Path(__file__).with_name("slurm.py"), path / "slurm.py")
    (path / "slurm.py").write_text(re.sub("^#!.*", f"#!{sys.executable}", (path / "slurm.py").read_text()))
    (path / "slurm.py").chmod(0o755)
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        (path / name).symlink_to("slurm.py")
    return {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}


def status(path):
    return json.loads((path / "status.json").read_text())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_its_settings_are_ours_on_top_of_the_plugins(cli, launcher):
    code, out, err = cli("train", f"hydra/launcher={launcher}", "--cfg", "hydra")
    assert (code, err) == (0, "")
    assert {
        "joblib": "n_jobs: -1",
        "submitit_local": "timeout_min: 10080",
        "submitit_slurm": "max_num_timeout: 20",
        "ray": "max_retries: 0",
    }[launcher] in out
    assert "_target_: hydra_plugins.hydra_" in out


def test_a_setting_of_another_kind_is_refused(cli):
    code, _, err = cli("train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=many", "seed=0,1")
    assert code == 2
    assert "hydra.launcher.n_jobs=many" in err


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [("joblib", "joblib"), ("submitit_local", "submitit"), ("submitit_slurm", "submitit"), ("ray", "ray")],
)
def test_without_its_plugin_the_extra_is_named(cli, monkeypatch, launcher, extra):
    cli("train", "--cfg", "job")  # after which Hydra has looked for plugins
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["launcher"]["plugin"], f"{launcher}.yaml")
    code, out, err = cli("train", "-m", f"hydra/launcher={launcher}", "seed=0,1")
    assert (code, out) == (2, "")
    assert err == (
        f"lossbench: error: hydra/launcher={launcher} is a plugin that is not installed: "
        f'pip install "lossbench[{extra}]"\n'
    )
    assert not Path("outputs").exists()


class Jobs:
    """A cluster of two places that ends its jobs in the order of their names; `values` are what they give back."""

    slots = 2

    def __init__(self, values):
        self.values, self.most, self.stopped, self.closed, self.submitted = values, 0, [], False, []

    def submit(self, tasks):
        self.submitted += [task.path.name for task in tasks]
        return [task.path.name for task in tasks]

    def ended(self, running):
        self.most = max(self.most, len(running))
        value = self.values[min(running)]
        if value is KeyboardInterrupt:
            raise value
        return [(min(running), value)]

    def stop(self, running):
        self.stopped = list(running)

    def close(self):
        self.closed = True


class Rows:
    """A feed of tasks with the rows that come back; `batch` is how many its source gives at a time."""

    def __init__(self, path, names, batch=None):
        job = SimpleNamespace(overrides=(), hash="", settings={})
        self.tasks = [SimpleNamespace(job=job, number=k, path=path / name) for k, name in enumerate(names)]
        self.source = SimpleNamespace(batch=batch, total=len(names))
        self.rows = {}

    @property
    def exhausted(self):
        return not self.tasks

    def next(self):
        return self.tasks.pop(0) if self.tasks else None

    def started(self, task):
        pass

    def ended(self, task, row):
        self.rows[task.path.name] = row


def test_a_job_that_gives_nothing_back_is_a_failed_row_and_the_others_run(tmp_path):
    done = {"status": "completed"}
    cluster, feed = Jobs({"a": done, "b": ResourceError("its process was killed"), "c": done}), Rows(tmp_path, "abc")
    run(cluster, feed)
    assert {name: row["status"] for name, row in feed.rows.items()} == {
        "a": "completed",
        "b": "failed",
        "c": "completed",
    }
    assert feed.rows["b"]["error"] == status(tmp_path / "b")["error"] == "its process was killed"
    assert cluster.most == 2
    assert cluster.closed


DONE = {"status": "completed"}


def test_a_search_gets_no_more_jobs_at_a_time_than_it_can_learn_from(tmp_path):
    cluster, feed = Jobs({"a": DONE, "b": DONE, "c": DONE}), Rows(tmp_path, "abc", batch=1)
    run(cluster, feed)
    assert len(feed.rows) == 3
    assert cluster.most == 1


@pytest.mark.parametrize(("checkpoints", "submitted"), [(True, "abca"), (False, "abc")])
def test_a_job_that_somebody_has_stopped_is_gone_on_with_once(tmp_path, checkpoints, submitted):
    cluster, feed = Jobs({"a": ResourceError("cancelled"), "b": DONE, "c": DONE}), Rows(tmp_path, "abc")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text(json.dumps({"status": "interrupted", "config_hash": ""}))
    if checkpoints:
        (tmp_path / "a" / "checkpoints" / "step-00000003").mkdir(parents=True)
    run(cluster, feed)
    assert sorted(cluster.submitted) == sorted(submitted)
    assert {name: row["status"] for name, row in feed.rows.items()} == {
        "a": "failed",
        "b": "completed",
        "c": "completed",
    }


class Gone(Jobs):
    """Its machines go away after the first job, and come back when they have been looked for so often."""

    def __init__(self, values, looks):
        super().__init__(values)
        self.looks = looks

    @property
    def slots(self):
        if not self.submitted:
            return 1
        self.looks -= 1
        return int(self.looks < 0)


def test_a_cluster_without_machines_is_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "PAUSE", 0.001)
    feed = Rows(tmp_path, "ab")
    run(Gone({"a": DONE, "b": DONE}, looks=5), feed)
    assert list(feed.rows) == ["a", "b"]
    assert "waiting for one" in capsys.readouterr().out
    monkeypatch.setattr(cluster, "WAIT", 0.01)
    with pytest.raises(ResourceError, match=r"no machine .* 2 jobs left to do"):
        run(Gone({"a": DONE}, looks=10**9), Rows(tmp_path, "abc"))


def test_ctrl_c_stops_what_runs(tmp_path):
    cluster = Jobs({"a": {"status": "completed"}, "b": KeyboardInterrupt})
    with pytest.raises(KeyboardInterrupt):
        run(cluster, Rows(tmp_path, "abcd"))
    assert cluster.stopped == ["b", "c"]
    assert cluster.closed


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [(None, "failed", "failed"), ("running", "failed", "failed"), ("interrupted", "failed", "interrupted")],
)
def test_a_lost_job_is_failed_unless_it_has_saved(tmp_path, before, said, after):
    (task,) = Rows(tmp_path, "a").tasks
    if before:
        task.path.mkdir()
        (task.path / "status.json").write_text(json.dumps({"status": before, "config_hash": ""}))
    assert lost(task, "killed")["status"] == said
    assert status(task.path)["status"] == after


def test_what_is_said_of_a_lost_job_is_one_line(tmp_path):
    (task,) = Rows(tmp_path, "a").tasks
    assert lost(task, "word\n" * 1000)["error"] == status(task.path)["error"] == 59 * "word " + "wo..."
    assert (task.path / "run.log").read_text() == "word\n" * 1000


@pytest.mark.parametrize("ended", ["completed", "diverged", "failed"])
def test_a_lost_job_that_had_ended_keeps_its_row(tmp_path, ended):
    (task,) = Rows(tmp_path, "a").tasks
    task.path.mkdir()
    for name in ("status.json", "summary.json"):
        (task.path / name).write_text(json.dumps({"status": ended, "config_hash": "", "error": "its own"}))
    row = lost(task, "killed", resumable=False)
    assert (row["status"], row["error"]) == (ended, "its own")
    assert status(task.path) == {"status": ended, "config_hash": "", "error": "its own"}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_run_as_in_one_process_and_those_that_die_are_rows(tmp_path, monkeypatch, launcher):
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NET)
    Path("mine/model").mkdir(parents=True)
    Path("mine/model/net.yaml").write_text('_target_: nets.net\ndie: "no"\n')
    environment = slurm(tmp_path / "slurm") if launcher == "submitit_slurm" else {}
    # joblib loses what runs beside a process that dies, and of Slurm submitit waits 15 s for its result
    dies = "exit" if launcher in ("submitit_local", "ray") else "leave"
    sweep = ("train", "-m", "--config-dir", "mine", "model=net", *SHORT)
    jobs = ("hydra.launcher.n_jobs=2",) if launcher == "joblib" else ()  # 1 would be the sweep's own process
    code, out, err = lossbench(
        *sweep, f"model.die=no,{dies}", f"hydra/launcher={launcher}", *jobs, "sweep.name=a", **environment
    )
    assert code == 10, out + err
    assert "noise" not in out
    rows = {path.parent.name: status(path.parent) for path in Path("outputs/a").glob("*/status.json")}
    assert {name: row["status"] for name, row in rows.items()} == {
        "0-model.die=no": "completed",
        f"1-model.die={dies}": "failed",
    }
    assert "Traceback" not in err
    assert lossbench(*sweep, "hydra/launcher=basic", "seed=0", "sweep.name=b")[0] == 0
    (plain,) = Path("outputs/b").glob("0*/steps.csv")
    assert Path("outputs/a/0-model.die=no/steps.csv").read_bytes() == plain.read_bytes()


def left(folder):
    """The processes whose command line or directory names this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text()
            if int(path.name) != os.getpid() and (str(folder) in words or (path / "cwd").resolve() == folder):
                found.append(words.replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])
def test_ctrl_c_leaves_nothing_running(tmp_path, monkeypatch, launcher):
    monkeypatch.chdir(tmp_path)
    words = ("train", "-m", f"hydra/launcher={launcher}", "dataset=diabetes", "seed=0,1", "sweep.name=a")
    words += ("trainer.epochs=100000", "trainer.eval_every=10000")
    process = subprocess.Popen([sys.executable, "-m", "lossbench", *words], start_new_session=True)
    directory = Path("outputs/a/0-seed=0")

    def until(reached):
        end = time.monotonic() + 200
        while not reached():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)

    try:
        until(lambda: (directory / "steps.csv").exists() and (directory / "steps.csv").stat().st_size > 1000)
        if launcher == "submitit_local":  # with Slurm's signal the job saves, is begun again, and goes on
            os.kill(status(directory)["pid"], signal.SIGUSR2)
            log = directory / "run.log"
            until(lambda: log.exists() and "resumed after step" in log.read_text())
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(200) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert status(directory)["status"] == "interrupted"
    assert (directory / "checkpoints/last").exists()
    end = time.monotonic() + 30
    while found := left(tmp_path):
        assert time.monotonic() < end, found
        time.sleep(0.2)
