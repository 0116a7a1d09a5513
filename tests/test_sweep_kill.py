"""A sweep that is killed at random moments and called again ends with every job exactly once."""

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from processes import Process

SWEEP = Path("outputs/a")
JOBS = ("dataset=diabetes", "loss=mse,mae", "seed=0,1")
RUN = ("trainer.steps=60", "trainer.eval_every=10", "trainer.checkpoint.every=5", "trainer.flush_every=5")
POOL = ("hydra/launcher=pool", "hydra.launcher.n_workers=2")


def state():
    return {path: path.stat().st_mtime_ns for path in SWEEP.glob("*.json") if path.exists()}


def kill(words, delay):
    """Kill it so many seconds after it has begun with its jobs; whether that was before its end."""
    before = state()
    process = Process(*words)
    if not process.until(lambda: state() != before):
        return False
    end = time.monotonic() + delay
    if not process.until(lambda: time.monotonic() > end):
        return False
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def by_hash(directory):
    """The directories of each job that completed."""
    found = Counter()
    places = {}
    for path in directory.glob("*/status.json"):
        status = json.loads(path.read_text() or "{}")
        if status.get("status") == "completed":
            found[status["config_hash"]] += 1
            places[status["config_hash"]] = path.parent
    assert set(found.values()) == {1}
    return places


def check(cli, kills, longest, launcher=()):
    """Kill it so often, each time some seconds after its start, and let it end."""
    chance = random.Random(7)
    words = ("train", "-m", *JOBS, *RUN, "sweep.name=a", *launcher)
    again = ("train", "-m", "sweep.name=a")
    assert cli("train", "-m", *JOBS, *RUN, "sweep.name=whole")[0] == 0
    calls = [words, *chance.choices([words, again], k=kills - 1)]
    hits = sum(kill(call, chance.uniform(0, longest)) for call in calls)
    assert hits >= min(kills, 3)  # a fast machine is done before the last ones
    code, _, err = cli(*again)
    assert (code, err) == (0, "")

    wanted, found = by_hash(Path("outputs/whole")), by_hash(SWEEP)
    assert found.keys() == wanted.keys()
    for key, path in found.items():
        for name in ("steps.csv", "evals.csv"):
            assert (path / name).read_bytes() == (wanted[key] / name).read_bytes()
        assert json.loads((path / "summary.json").read_text())["status"] == "completed"
    ledger = json.loads((SWEEP / "sweep.json").read_text())["jobs"]
    assert {job["hash"]: job["directory"] for job in ledger} == {key: path.name for key, path in found.items()}
    before = {path: path.read_bytes() for path in SWEEP.glob("*/*") if path.is_file()}
    code, out, _ = cli(*again)
    assert (code, "4 have ended already" in out) == (0, True)
    assert {path: path.read_bytes() for path in SWEEP.glob("*/*") if path.is_file()} == before


def test_a_killed_sweep(cli):
    check(cli, 2, 1.0)


@pytest.mark.slow
def test_a_sweep_that_is_killed_many_times(cli):
    check(cli, 10, 1.5)


@pytest.mark.slow
def test_a_sweep_of_a_pool_that_is_killed_many_times(cli):
    check(cli, 4, 6.0, POOL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(cli, number, code):
    words = ("train", "-m", "dataset=diabetes", "seed=0,1", "trainer.steps=3000", "trainer.eval_every=5")
    process = Process(*words, "sweep.name=a")
    assert process.until(lambda: list(SWEEP.glob("0-*/checkpoints/last")))
    process.send(number)
    assert process.wait() == code
    assert process.err.read_text() == ""
    assert process.out.read_text().endswith("go on with: lossbench train -m sweep.name=a\n")
    (path,) = SWEEP.glob("*/status.json")
    assert json.loads(path.read_text())["status"] == "interrupted"
