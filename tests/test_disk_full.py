"""A disk that is full switches TensorBoard off and stops nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from recorded import (
    HPARAMS,
    STOP,
    check,
    go_on,
    intact,
    state,
    train,
)

from lossbench.observe.event_files import event_files
from lossbench.observe.tensorboard import TensorBoard

FULL = """
import resource, sys
from pathlib import Path
from lossbench.observe import event_files
sys.path.insert(0, {tests!r})
from recorded import open_sinks, train, STEPS
run = Path({run!r})
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
when = {when!r}
if when == "begin":
    limit(100)
board, files = open_sinks(run)
limit(resource.RLIM_INFINITY)
train([board, files], 1, 20)
if when == "steps":
    limit(event_files.event_files(run)[0].stat().st_size + 250)
if when == "rewind":
    limit(1500)
    board.rewind(18)
    limit(resource.RLIM_INFINITY)
    files.rewind(18)
    train([board, files], 19, 20)
train([board, files], 21, STEPS)
if when == "close":
    limit(event_files.event_files(run)[0].stat().st_size + 10)
board.status = "completed"
board.close()
files.close()
"""


@pytest.mark.parametrize("when", ["begin", "steps", "rewind", "close"])
def test_a_full_disk_switches_tensorboard_off_and_stops_nothing(tmp_path, wanted, when):
    run = tmp_path / "run"
    run.mkdir()
    code = FULL.format(tests=str(Path(__file__).parent), run=str(run), when=when)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"TensorBoard: cannot write to {run}: File too large; it is switched off, the CSV files go on"
    ]
    assert run.joinpath("steps.csv").read_bytes() == wanted.joinpath("steps.csv").read_bytes()
    assert all(map(intact, event_files(run)))
    assert not list(run.glob("*.part"))
    state(run, "failed")
    go_on(run, STOP)
    check(run, wanted)


def test_a_device_that_is_full_says_so(tmp_path, monkeypatch, capsys):
    tmp_path.joinpath("full").symlink_to("/dev/full")
    monkeypatch.setattr("lossbench.observe.tensorboard.new_path", lambda directory: directory / "full")
    board = TensorBoard(tmp_path, HPARAMS, [])
    train([board], 1, 5)
    board.rewind(2)
    board.close()
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert f"{tmp_path}: No space left on device; it is switched off, the CSV files go on" in out


def test_a_whole_run_on_a_disk_that_fills(tmp_path):
    """20 KiB a file: TensorBoard's goes first and the training goes on, until the CSV file cannot."""
    words = "train trainer.epochs=60 model=linear trainer.checkpoint.every=null hydra.run.dir=run"
    command = f"ulimit -f 20; exec {sys.executable} -m lossbench {words}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    line = f"cannot write to {tmp_path / 'run'}: File too large; make room, then resume={tmp_path / 'run'}"
    assert (done.returncode, done.stderr) == (6, f"lossbench: error: {line}\n")
    assert "File too large; it is switched off, the CSV files go on" in done.stdout
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "failed"
