"""What a real TensorBoard shows of a run that is rolled back, interrupted, resumed and repaired."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlencode

import pytest
from recorded import (
    STEPS,
    STOP,
    end,
    go_on,
    open_sinks,
    train,
)

from lossbench.observe.repair import repair


@contextmanager
def server(logdir, fast, log):
    """A TensorBoard as a user starts it, with its data server or without; yields what asks it."""
    words = ["--logdir", str(logdir), "--port", "0", "--load_fast", fast, "--reload_interval", "1"]
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *words], stdout=file, stderr=file)
    try:
        port = int(wait_for(lambda: re.search(r"http://localhost:(\d+)/", log.read_text()))[1])

        def ask(path, body=None, **query):
            connection = HTTPConnection("localhost", port, timeout=30)
            where = f"/data/plugin/{path}?{urlencode(query)}"
            connection.request("POST" if body else "GET", where, json.dumps(body) if body else None)
            response = connection.getresponse()
            return json.loads(response.read()) if response.status == 200 else None

        yield ask
    finally:
        process.terminate()
        process.wait(30)


def wait_for(found, seconds=60):
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.3)
    return value


def check_shown(ask, tag, steps):
    """The server comes to show just these steps of a tag, none with a value that was rolled back."""
    wait_for(lambda: [point[1] for point in ask("scalars/scalars", run="run", tag=tag) or []] == list(steps))
    assert all(point[2] < 400 for point in ask("scalars/scalars", run="run", tag=tag))


def sessions(ask):
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    columns = [{"metric": {"group": "", "tag": "test/loss"}}]
    body = {"experimentName": "", "allowedStatuses": statuses, "colParams": columns, "startIndex": 0, "sliceSize": 9}
    return (ask("hparams/session_groups", body) or {}).get("sessionGroups")


def check_completed(ask):
    check_shown(ask, "train/loss", range(1, STEPS + 1))
    check_shown(ask, "train/loss_epoch", [10, 20, 30, 40, STEPS])
    check_shown(ask, "val/loss", [10, 20, 30, 40])
    check_shown(ask, "best/loss", [STEPS])
    (group,) = sessions(ask)
    (session,) = group["sessions"]
    assert session["status"] == "STATUS_SUCCESS"
    assert group["hparams"]["loss"] == "focal"
    assert [(m["name"]["tag"], m["value"], m["trainingStep"]) for m in session["metricValues"]] == [
        ("test/loss", 0.25, STEPS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("fast", ["true", "false"])
def test_what_a_user_sees(tmp_path, fast):
    """In a TensorBoard that watches a run being rolled back, interrupted, resumed and repaired, and in a fresh one."""
    run = tmp_path / "logs" / "run"
    run.mkdir(parents=True)
    sinks = open_sinks(run)
    train(sinks, 1, 23)
    with server(run.parent, fast, tmp_path / "log") as ask:
        check_shown(ask, "train/loss", range(1, 24))
        train(sinks, 24, 36, wrong=500)
        wait_for(lambda: len(ask("scalars/scalars", run="run", tag="val/loss")) == 3)
        for sink in sinks:
            sink.rewind(23)
        check_shown(ask, "train/loss", range(1, 24))
        check_shown(ask, "val/loss", [10, 20])
        check_shown(ask, "train/loss_epoch", [10, 20])
        train(sinks, 24, STOP)
        end(sinks, run, "interrupted")
        check_shown(ask, "train/loss", range(1, STOP + 1))
        check_shown(ask, "val/loss", [10, 20, 30])
        assert sessions(ask)[0]["sessions"][0]["status"] == "STATUS_UNKNOWN"
        go_on(run)
        check_completed(ask)
        repair(run)
        time.sleep(3)
        check_completed(ask)
    with server(run.parent, fast, tmp_path / "log2") as ask:
        check_completed(ask)
