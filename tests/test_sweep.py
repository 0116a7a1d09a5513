"""A sweep by its name: what a later call skips, runs, goes on with and refuses; failures; what is said."""

import errno
import fcntl
import json
import os
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, Mock

import pytest

from lossbench.errors import ConfigError
from lossbench.sweep.command import named_directory, resuming
from lossbench.sweep.drive import drive
from lossbench.sweep.experiment import joined, refuse_changes, values
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Job, Listed
from lossbench.sweep.ledger import Ledger
from lossbench.sweep.options import SweepOptions

TRAIN = ("train", "-m", "dataset=diabetes", "trainer.steps=4")
CSV = ("train", "-m", "dataset=csv", "dataset.target=y", "trainer.steps=2", "dataset.path=a.csv,b.csv", "seed=0,1")
SWEEP = Path("outputs/a")


def read(path):
    return json.loads(Path(path).read_text())


def statuses(directory=SWEEP):
    """How the run in each job's directory stands."""
    return {path.parent.name: read(path)["status"] for path in sorted(directory.glob("*/status.json"))}


def contents(directory=SWEEP):
    return {path: path.read_bytes() for path in directory.glob("*/*") if path.is_file()}


def table(name):
    Path(name).write_text("x,y\n" + "\n".join(f"{i},{i % 2}" for i in range(60)))


def stop_in(monkeypatch, step):
    """A later evaluation than this one is a Ctrl-C."""
    from lossbench.observe.reporter import Reporter

    def evaluated(self, number, epoch, metrics):
        if number > step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Reporter, "evaluated", evaluated)


# The same name again


def test_ended_jobs_are_skipped_and_more_may_be_added(cli):
    assert cli(*TRAIN, "loss=mse,mae", "seed=0", "sweep.name=a")[0] == 0
    before = contents()
    code, out, _ = cli(*TRAIN, "loss=mae", "seed=0,1", "sweep.name=a")
    assert code == 0
    assert "sweep of 2 jobs in outputs/a; 1 has ended already" in out
    assert list(statuses()) == ["0-loss=mse", "1-loss=mae", "2-seed=1"]
    assert before.items() <= contents().items()


def test_the_printed_command_goes_on_with_a_sweep_without_a_name(cli):
    _, out, _ = cli(*TRAIN, "seed=0,1", "output_root=my runs")
    (command,) = set(re.findall(r"go on with: (.*)", out))
    (directory,) = (path.parent for path in Path("my runs").rglob("sweep.json"))
    assert re.fullmatch(r"my runs/[\d-]{10}/[\d-]{8}-[0-9a-f]{4}-sweep", str(directory))
    before = contents(directory)
    code, out, _ = cli(*shlex.split(command)[1:])
    assert (code, "sweep of 2 jobs" in out, "2 have ended already" in out) == (0, True, True)
    assert "should it be interrupted" not in out
    assert out.endswith(f"\nshow again   {command}\n")
    assert contents(directory) == before


@pytest.mark.slow
def test_a_directory_in_place_of_a_name(cli):
    _, out, _ = cli(*TRAIN, "seed=0,1", "hydra.sweep.dir='my sweeps/one'")
    (command,) = set(re.findall(r"go on with: (.*)", out))
    assert shlex.split(command)[1:] == ["train", "-m", "hydra.sweep.dir='my sweeps/one'"]
    code, out, _ = cli(*shlex.split(command)[1:])
    assert (code, "sweep of 2 jobs in my sweeps/one; 2 have ended already" in out) == (0, True)


@pytest.mark.slow
def test_the_users_own_options_are_in_the_command(cli):
    Path("mine/optim").mkdir(parents=True)
    Path("mine/optim/fast.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.1\n")
    _, out, _ = cli(*TRAIN, "--config-dir", "mine", "optim=fast", "seed=0,1", "sweep.name=a")
    assert "go on with: lossbench train -m --config-dir mine sweep.name=a\n" in out
    assert cli("train", "-m", "--config-dir", "mine", "sweep.name=a")[0] == 0


@pytest.mark.parametrize("name", ["it's", "a\\", "a\\'b", "1e3", "my runs", "null"])
def test_hydra_reads_the_printed_directory_as_it_is(name):
    (word,) = shlex.split(resuming(Path(name, "a b"), name, []))[3:]
    assert named_directory([word]) == Path(name, "a b")
    (_, root) = shlex.split(resuming(Path(name, "a"), name, []))[3:]
    assert named_directory(["sweep.name=a", root]) == Path(name, "a")


def test_two_places_for_a_sweep_are_refused(cli, tmp_path):
    code, _, err = cli(*TRAIN, "seed=0,1", "sweep.name=a", "hydra.sweep.dir=b")
    assert (code, err) == (
        2,
        "lossbench: error: sweep.name and hydra.sweep.dir both say where the sweep is; leave one of them away\n",
    )
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_is_named_by_the_directory(cli, monkeypatch):
    full = OSError(errno.EFBIG, "File too large")  # of a file that was open already
    monkeypatch.setattr("lossbench.sweep.session.Ledger", Mock(side_effect=full))
    code, _, err = cli(*TRAIN, "seed=0,1", "sweep.name=a")
    line = "cannot write to 'outputs/a': File too large; output_root says where runs go"
    assert (code, err) == (6, f"lossbench: error: {line}\n")


@pytest.mark.parametrize(
    "word",
    ["hydra.searchpath=[file:///tmp]", "loss=../../evil", "loss=choice(mse,/evil)", "hydra.launcher._target_=os.abort"],
)
def test_recorded_settings_that_may_name_code_are_typed_again(cli, word):
    SWEEP.mkdir(parents=True)
    (SWEEP / "sweep.json").write_text(json.dumps({"command": ["dataset=diabetes", word, "seed=0,1"]}))
    code, _, err = cli("train", "-m", "sweep.name=a")
    assert code == 2
    assert f"the sweep was started with {word}, which may name code: type its settings again" in err


@pytest.mark.slow
def test_choices_and_plugins_are_recorded(cli):
    words = ("loss=choice(mse,mae)", "hydra/sweeper=lossbench", "hydra/launcher=basic")
    assert cli(*TRAIN, *words, "sweep.name=a")[0] == 0
    assert read(SWEEP / "sweep.json")["command"] == [*TRAIN[2:], *words]
    code, out, _ = cli("train", "-m", "sweep.name=a")
    assert (code, "2 have ended already" in out) == (0, True)


@pytest.mark.slow
def test_jobs_that_a_later_call_leaves_behind_are_named(cli, monkeypatch):
    with monkeypatch.context() as patched:
        stop_in(patched, 0)
        cli(*TRAIN, "trainer.eval_every=2", "seed=0,1", "sweep.name=a")
    code, out, _ = cli(*TRAIN, "trainer.eval_every=2", "seed=1,2", "sweep.name=a")
    assert code == 0
    assert "1 job of earlier calls not ended, and not of this one: type those settings again" in out


# What would be another experiment


def test_changed_settings_are_refused(cli):
    cli(*TRAIN, "loss=mse,mae", "sweep.name=a")
    before = contents(), (SWEEP / "sweep.json").read_bytes()
    code, _, err = cli("train", "-m", "dataset=diabetes", "trainer.steps=5", "optim.lr=1", "loss=mse", "sweep.name=a")
    assert (code, err) == (
        2,
        "lossbench: error: sweep 'a' was run with optim.lr=0.001, trainer.steps=4, and optim.lr=1, trainer.steps=5 are "
        "asked for; choose another sweep.name\n",
    )
    assert (contents(), (SWEEP / "sweep.json").read_bytes()) == before


@pytest.mark.slow
def test_what_cannot_change_a_result_may_change(cli):
    cli(*TRAIN, "seed=0,1", "sweep.name=a")
    code, out, _ = cli(*TRAIN, "seed=0,1", "trainer.flush_every=7", "name=other", "sweep.name=a")
    assert (code, "2 have ended already" in out) == (0, True)


def test_which_settings_count_as_changed():
    old = values([{"seed": 0, "lr": 0.1, "loss": "mse", "only": 1}, {"seed": 0, "lr": 0.2, "loss": "mse"}])
    assert old == {"seed": [0], "lr": [0.1, 0.2], "loss": ["mse"], "only": [1]}
    refuse_changes(Path("a"), old, values([{"seed": 1, "lr": 0.3, "loss": "mse", "new": 2}]))
    refuse_changes(Path("a"), old, values([{"loss": "mae"}, {"loss": "huber"}]))
    with pytest.raises(ConfigError, match=r"sweep 'a' was run with loss=mse, and loss=mae is asked for"):
        refuse_changes(Path("a"), old, values([{"loss": "mae"}]))
    assert joined(old, {"lr": [0.2, 0.3]})["lr"] == [0.1, 0.2, 0.3]


# Equal jobs


def test_the_same_number_spelt_in_two_ways_is_one_job(cli):
    code, out, _ = cli(*TRAIN, "optim.lr=1e-3,0.001,0.01", "sweep.name=a")
    assert (code, len(statuses())) == (0, 2)
    assert "1 job equal to another: run once" in out


# Failures


@pytest.mark.slow
def test_failed_jobs_are_tried_again_only_when_asked(cli):
    table("a.csv")
    code, out, _ = cli(*CSV, "sweep.name=a")
    assert code == 10
    assert "try again    lossbench train -m sweep.name=a sweep.retry_failed=true\n" in out
    before = contents()
    code, out, _ = cli("train", "-m", "sweep.name=a")
    assert code == 10
    assert "4 have ended already, 2 of them failed (sweep.retry_failed=true runs those again)" in out
    assert contents() == before

    table("b.csv")
    assert cli("train", "-m", "sweep.name=a", "sweep.retry_failed=true")[0] == 0
    assert before.items() <= contents().items()
    assert list(statuses().values()).count("failed") == 2
    jobs = read(SWEEP / "sweep.json")["jobs"]
    latest = ["0-dataset.path=a.csv,seed=0", "1-dataset.path=a.csv,seed=1"]
    latest += ["2-dataset.path=b.csv,seed=0~2", "3-dataset.path=b.csv,seed=1~2"]
    assert [job["directory"] for job in jobs] == latest
    assert {statuses()[job] for job in latest} == {"completed"}
    code, out, _ = cli("train", "-m", "sweep.name=a", "sweep.retry_failed=true")
    assert (code, "4 have ended already\n" in out) == (0, True)


def test_stopping_at_the_first_failure(cli):
    table("b.csv")
    code, out, err = cli(*CSV, "sweep.name=a", "sweep.on_failure=stop")
    assert (code, len(statuses())) == (10, 1)
    assert "\n3 jobs left out: sweep.on_failure=stop\n" in out
    assert "\ngo on        lossbench train -m sweep.name=a\n" in out
    assert "1 of 4 jobs failed, 3 jobs left out; the first: dataset.path: there is no file 'a.csv'" in err
    assert cli("train", "-m", "sweep.name=a", "sweep.on_failure=continue")[0] == 10
    assert list(statuses().values()) == ["failed", "failed", "completed", "completed"]


@pytest.mark.slow
def test_a_job_with_damaged_checkpoints_fails_and_can_be_tried_again(cli, monkeypatch):
    words = (*TRAIN, "seed=0,1", "trainer.steps=20", "trainer.eval_every=5", "trainer.checkpoint.every=5")
    with monkeypatch.context() as patched:
        stop_in(patched, 5)
        assert cli(*words, "sweep.name=a")[0] == 130
    for file in SWEEP.glob("*/checkpoints/*/state.pt"):
        file.write_bytes(b"")
    code, _, err = cli("train", "-m", "sweep.name=a")
    assert (code, list(statuses().values())) == (10, ["failed", "completed"])
    assert re.search(r"no checkpoint of \S*outputs/a/0-seed=0 is whole", err)
    assert cli("train", "-m", "sweep.name=a", "sweep.retry_failed=true")[0] == 0
    assert statuses() == {"0-seed=0": "failed", "0-seed=0~2": "completed", "1-seed=1": "completed"}


LOSS = """
from pathlib import Path

def breaks(pred, target):
    if len(target) > 4 or Path("at-once").exists():  # a step, and not the trial on a few examples
        {}
    return (pred - target).square()
"""


@pytest.mark.parametrize(
    ("does", "at_once", "cause"),
    [
        ("raise SystemExit(3)", False, "SystemExit: 3"),
        ("raise ValueError('a' + 10**6 * ' \\ud800\\n')", False, "ValueError: a " + 141 * "\ud800 " + "\ud800..."),
        ("raise ValueError('as asked')", True, "loss 'breaks': as asked"),
    ],
)
def test_a_users_error_is_one_line_and_its_traceback_in_the_log(cli, tmp_path, does, at_once, cause):
    (tmp_path / "mine/loss").mkdir(parents=True)
    (tmp_path / "mine/loss/breaks.yaml").write_text("_target_: mine.breaks")
    (tmp_path / "mine.py").write_text(LOSS.replace("{}", does))
    if at_once:
        Path("at-once").touch()
    words = ("--config-dir", "mine", "loss=breaks", "sweep.name=a")
    for _ in range(2):
        code, _, err = cli(*TRAIN, *words)
        assert code == 10
        assert err.startswith("lossbench: error: 1 of 1 job failed; the first: " + cause.replace("\ud800", "?")[:250])
    (directory,) = SWEEP.glob("0-*")
    assert read(directory / "status.json")["error"] == cause
    log = (directory / "run.log").read_text()
    assert does.partition("(")[0] in log


# Interruptions


@pytest.mark.parametrize("checkpoints", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_an_interrupted_job_goes_on_or_is_run_anew(cli, monkeypatch, checkpoints):
    every = "trainer.checkpoint.every=5" if checkpoints else "trainer.checkpoint.every=1000"
    words = (*TRAIN, "trainer.steps=20", "trainer.eval_every=5", every, "seed=0,1")
    with monkeypatch.context() as patched:
        stop_in(patched, 10)
        code, out, err = cli(*words, "sweep.name=a")
    assert (code, err) == (130, "")
    saved = ", 1 saved half-way" if checkpoints else ""
    assert f"interrupted; 0 jobs ended{saved}; go on with: lossbench train -m sweep.name=a\n" in out
    assert statuses() == {"0-seed=0": "interrupted"}
    if not checkpoints:
        before = contents()
    assert cli("train", "-m", "sweep.name=a")[0] == 0
    if checkpoints:
        assert statuses() == {"0-seed=0": "completed", "1-seed=1": "completed"}
        assert "resumed after step" in (SWEEP / "0-seed=0/run.log").read_text()
    else:
        assert statuses() == {"0-seed=0": "interrupted", "0-seed=0~2": "completed", "1-seed=1": "completed"}
        assert before.items() <= contents().items()
    (first,) = (SWEEP / job["directory"] for job in read(SWEEP / "sweep.json")["jobs"] if job["number"] == 0)
    assert cli(*words, "sweep.name=whole")[0] == 0
    for name in ("steps.csv", "evals.csv"):
        assert (first / name).read_bytes() == Path("outputs/whole/0-seed=0", name).read_bytes()


def test_a_job_that_is_started_again_where_it_ended_changes_nothing(cli):
    """As a cluster starts one that it takes for lost."""
    cli(*TRAIN, "seed=0,1", "sweep.name=a")
    before = contents()
    place = ("hydra/sweeper=basic", "hydra.sweep.dir=outputs/a", "hydra.sweep.subdir='0-seed=0'")
    assert cli(*TRAIN, "seed=0", *place)[0] == 0
    assert contents() == before


def test_a_job_that_was_killed_on_its_last_lines_is_measured_again(cli):
    """Its summary is there, and its status still says that it runs."""
    cli(*TRAIN, "seed=0,1", "sweep.name=a")
    status = SWEEP / "0-seed=0/status.json"
    status.write_text(json.dumps({**read(status), "status": "running"}))
    code, out, _ = cli("train", "-m", "sweep.name=a")
    assert (code, "; 1 has ended already" in out) == (0, True)
    assert statuses() == {"0-seed=0": "completed", "1-seed=1": "completed"}


# Launchers that take lists


class Lossy:
    """Runs no job; its first launch is lost with the third of four, as by a worker that dies."""

    def __init__(self):
        self.launched = []

    def launch(self, batches, initial_job_idx):
        self.launched.append([shlex.split(words[-1])[0].partition("=")[2] for words in batches])
        if len(self.launched) > 1:
            return [SimpleNamespace(_return_value={"status": "completed"}) for _ in batches]
        for words, status in zip(batches, ("completed", "diverged", "running"), strict=False):
            place, name = (shlex.split(word)[0].partition("=")[2] for word in words[-2:])
            path = Path(place, name)
            path.mkdir()
            facts = {"status": status, "config_hash": words[0]}
            for file in ("status.json", *(["summary.json"] if status != "running" else [])):
                (path / file).write_text(json.dumps(facts))
        raise RuntimeError("a worker died")


def feed_of(path, count, **options):
    """Jobs of so many seeds, each known by its seed, of the sweep in this directory."""
    jobs = [Job(f"seed={i}", (f"seed={i}",), None, f"seed={i}", {"seed": i}, {}) for i in range(count)]
    source, ledger = Listed(jobs), Ledger(path)
    ledger.plan(source, [], "lossbench")
    return Feed(source, ledger, MagicMock(), SweepOptions(**options))


def test_a_launch_that_is_lost_with_one_job(tmp_path):
    feed, launcher = feed_of(tmp_path, 4), Lossy()
    drive(launcher, feed)
    assert launcher.launched == [["0-seed=0", "1-seed=1", "2-seed=2", "3-seed=3"], ["3-seed=3"]]
    assert [row["status"] for row in feed.rows.values()] == ["completed", "diverged", "failed", "completed"]
    assert feed.rows["seed=2"]["error"] == "RuntimeError: a worker died"
    assert statuses(tmp_path)["2-seed=2"] == "failed"


def test_a_launcher_that_cannot_launch_leaves_a_job_to_go_on_with(tmp_path):
    (tmp_path / "0-seed=0").mkdir()
    status = tmp_path / "0-seed=0/status.json"
    status.write_text(json.dumps({"status": "interrupted", "config_hash": "seed=0"}))
    feed, launcher = feed_of(tmp_path, 1), SimpleNamespace(launch=Mock(side_effect=ValueError("n_jobs == 0")))
    before = status.read_bytes()
    with pytest.raises(ConfigError, match=r"^hydra\.launcher: ValueError: n_jobs == 0$"):
        drive(launcher, feed)
    assert status.read_bytes() == before


@pytest.mark.parametrize(("jobs_at_once", "launched"), [(2, [2, 2]), (None, [1, 1, 1])])
def test_stopping_at_a_failure_hands_out_no_more_jobs_than_run_at_once(tmp_path, jobs_at_once, launched):
    def launch(batches, initial_job_idx):
        sizes.append(len(batches))
        rows = [{"status": "failed" if "seed=2" in words else "completed"} for words in batches]
        return [SimpleNamespace(_return_value=row) for row in rows]

    feed, sizes = feed_of(tmp_path, 5, on_failure="stop"), []
    drive(SimpleNamespace(launch=launch, joblib={"n_jobs": jobs_at_once}), feed)
    assert sizes == launched
    assert (feed.stopped, feed.is_over) == (True, False)


def test_a_sweep_whose_launcher_ends_too_early_has_failed(cli, monkeypatch):
    from lossbench.sweep import session

    monkeypatch.setattr(session, "drive", lambda launcher, feed: feed.next())
    code, out, err = cli(*TRAIN, "seed=0,1", "sweep.name=a")
    assert (code, err) == (
        10,
        "lossbench: error: 2 jobs not run, as the launcher ended before; go on with: lossbench train -m sweep.name=a\n",
    )
    assert out.endswith("\ngo on        lossbench train -m sweep.name=a\n")


@pytest.mark.parametrize("launcher", ["basic", "pool"])
def test_a_device_that_is_not_there_is_said_before_anything_is_made(cli, monkeypatch, tmp_path, launcher):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, _, err = cli(*TRAIN, "seed=0,1", "trainer.device=cpu,cuda", "sweep.name=a", f"hydra/launcher={launcher}")
    line = "trainer.device=cuda: this machine has 0 CUDA devices; use trainer.device=auto or cpu"
    assert (code, err) == (6, f"lossbench: error: {line}\n")
    assert os.listdir(tmp_path) == []


# One at a time, and damage


def test_a_sweep_that_is_going_on_is_left_alone(cli):
    cli(*TRAIN, "seed=0,1", "sweep.name=a")
    with (SWEEP / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, _, err = cli("train", "-m", "sweep.name=a")
    assert (code, err) == (
        2,
        "lossbench: error: outputs/a is in use: its sweep is still going on in another process\n",
    )


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["{", None])
def test_a_lost_ledger_is_made_again_from_the_jobs(cli, damage):
    table("a.csv")
    cli(*CSV, "sweep.name=a")
    cli("train", "-m", "sweep.name=a", "sweep.retry_failed=true")
    before = read(SWEEP / "sweep.json")["jobs"]
    if damage is None:
        (SWEEP / "sweep.json").unlink()
    else:
        (SWEEP / "sweep.json").write_text(damage)
    code, _, err = cli("train", "-m", "sweep.name=a")
    assert (code, "does not say how the sweep was started; type its settings again" in err) == (2, True)
    files = contents()
    code, _, err = cli(*CSV, "trainer.steps=3", "sweep.name=a")
    assert (code, "was run with trainer.steps=2" in err) == (2, True)
    code, out, _ = cli(*CSV, "sweep.name=a")
    assert (code, "4 have ended already, 2 of them failed" in out) == (10, True)
    assert contents() == files
    assert read(SWEEP / "sweep.json")["jobs"] == before


ENTRY = {"hash": "h", "number": 3, "name": "seed=1", "phase": "", "directory": "3-seed=1~2"}


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"jobs": [1], "settings": {}},
        {"jobs": [{**ENTRY, "number": "3"}], "settings": {}},
        *({"jobs": [{**ENTRY, "directory": name}], "settings": {}} for name in ("../3-seed=1", "..", ".", "", "a")),
        {"jobs": [{**ENTRY, "hash": "other"}, ENTRY], "settings": {}},
        {"jobs": [ENTRY], "settings": 1},
        {"jobs": [ENTRY], "settings": {"seed": 1}},
    ],
)
def test_what_is_no_ledger(tmp_path, damage):
    """Of two attempts at a job the later one counts, and a directory that holds no job does not."""
    (tmp_path / "sweep.json").write_text(json.dumps(damage))
    for name, started in (("3-seed=1~2", 2.0), ("3-seed=1", 1.0), ("notes", 3.0)):
        (tmp_path / name).mkdir()
        status = {"status": "failed", "started": started, "config_hash": "h", "settings": {"seed": 1}}
        (tmp_path / name / "status.json").write_text(json.dumps(status))
    ledger = Ledger(tmp_path)
    assert ledger.jobs == {"h": ENTRY}
    assert ledger.facts == {"settings": {"seed": [1]}}


def test_two_jobs_never_have_one_directory(tmp_path):
    """Here a damaged ledger gives the next job's name to an earlier one."""
    entry = {"hash": "h", "number": 0, "name": "seed=1", "phase": "", "directory": "1-seed=1"}
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [entry], "settings": {}}))
    ledger = Ledger(tmp_path)
    ledger.register([Job("seed=1", ("seed=1",), None, "other", {"seed": 1}, {})])
    assert [job["directory"] for job in ledger.jobs.values()] == ["1-seed=1", "1-seed=1~2"]


@pytest.mark.parametrize(
    "damage", [{"metrics": [1]}, {"metrics": {"val": {"r2": "a"}}}, {"best": 3}, {"directions": 1}, {"seconds": "1"}]
)
def test_a_job_whose_summary_is_damaged_is_run_anew(cli, damage):
    cli(*TRAIN, "seed=0,1", "sweep.name=a")
    summary = SWEEP / "0-seed=0/summary.json"
    summary.write_text(json.dumps({**read(summary), **damage}))
    before = contents()
    code, _, err = cli("train", "-m", "sweep.name=a")
    assert (code, err) == (0, "")
    assert list(statuses()) == ["0-seed=0", "0-seed=0~2", "1-seed=1"]
    assert before.items() <= contents().items()


@pytest.mark.slow
def test_another_runs_directory_is_never_written_to(cli):
    """One that happens to have the name of a job."""
    cli(*TRAIN, "seed=0", "sweep.name=a")
    assert cli("train", "dataset=diabetes", "trainer.steps=1", "hydra.run.dir='outputs/a/1-seed=1'")[0] == 0
    before = contents()
    assert cli(*TRAIN, "seed=0,1", "sweep.name=a")[0] == 0
    assert list(statuses())[1:] == ["1-seed=1", "1-seed=1~2"]
    assert before.items() <= contents().items()


def test_nothing_is_made_for_a_sweep_that_is_refused(cli, tmp_path):
    assert cli(*TRAIN, "loss=mse,foccal", "sweep.name=a")[0] == 2
    assert os.listdir(tmp_path) == []
