"""Damaged event files: what is noticed, and what a repair makes of them."""

from __future__ import annotations

import json
import time

import pytest
from recorded import (
    check,
    copy,
    curves,
    end,
    flipped,
    hparams,
    intact,
    open_sinks,
    state,
    train,
)
from tensorboard.compat.proto.event_pb2 import Event

from lossbench.errors import CheckpointError, ConfigError
from lossbench.observe import records
from lossbench.observe.event_files import event_files
from lossbench.observe.repair import repair
from lossbench.observe.run_dir import lock


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path):
    path = tmp_path / "records"
    data = records.frame([bytes(range(n % 3, 20 + n % 3)) for n in range(3)] + [b"x" * 9] * 40 + [b""])
    path.write_bytes(data)
    assert intact(path)
    assert [len(payload) for payload in records.read(path)] == [20, 20, 20] + [9] * 40 + [0]
    ends, size = {0}, 0
    for payload in records.read(path):
        size += len(payload) + 16
        ends.add(size)
    for offset in range(len(data)):
        path.write_bytes(flipped(data, offset))
        assert not intact(path), offset
        path.write_bytes(data[:offset])
        assert intact(path) == (offset in ends), offset


def test_what_comes_before_the_damage_can_be_read(tmp_path):
    payloads = [b"%04d" % i for i in range(100)]
    data = records.frame(payloads)
    path = tmp_path / "records"
    for bad in (0, 1, 37, 99):
        path.write_bytes(flipped(data, 20 * bad + 13))
        found = []
        with pytest.raises(records.Damaged, match=f"byte {20 * bad:,}"):
            found.extend(records.read(path))
        path.write_bytes(data[: 20 * bad])
        assert list(records.read(path)) == payloads[:bad]


def test_repair_of_an_intact_run_changes_nothing_that_is_shown(tmp_path, wanted):
    run = copy(wanted, tmp_path / wanted.name)
    before = event_files(run)[0].read_bytes()
    said = repair(run)
    name, (kept,) = event_files(run)[-1].name, run.glob("replaced*")
    assert said == f"rebuilt 47 steps and 4 evaluations into {name}; the earlier file is kept as {kept.name}"
    assert kept.read_bytes() == before
    check(run, wanted)
    repair(run)
    check(run, wanted)


@pytest.mark.parametrize("status", ["diverged", "failed", "interrupted", "running"])
def test_repair_leaves_the_end_that_the_run_had(tmp_path, status):
    run = tmp_path / "run"
    run.mkdir()
    sinks = open_sinks(run)
    train(sinks, 1, 25)
    end(sinks, run, status)
    before = curves(run), hparams(run)
    repair(run)
    assert (curves(run), hparams(run)) == before
    assert (hparams(run)[2] is None) == (status in ("interrupted", "running"))


def test_repair_heals_damage_anywhere(tmp_path, wanted):
    (name,) = (path.name for path in event_files(wanted))
    data = wanted.joinpath(name).read_bytes()
    for offset in range(0, len(data), 389):
        for damaged in (flipped(data, offset), data[:offset]):
            run = copy(wanted, tmp_path / f"{offset}-{len(damaged)}" / "run")
            run.joinpath(name).write_bytes(damaged)
            said = repair(run)
            assert ("the damaged file is kept" in said) == (damaged != b"" and not intact(next(run.glob("replaced*"))))
            check(run, wanted)


def test_repair_refuses_what_it_cannot_repair(tmp_path, killed):
    with pytest.raises(ConfigError, match="is not the directory of a run"):
        repair(tmp_path / "nowhere")
    run = copy(killed, tmp_path / "run")
    state(run, "running", time.time())
    with lock(run), pytest.raises(ConfigError, match="still going on"):
        repair(run)
    assert "rebuilt 45 steps" in repair(run)
    run.joinpath("steps.csv").unlink()
    with pytest.raises(CheckpointError, match=r"steps\.csv is missing"):
        repair(run)


CARD = {"hparams": {"a": 1}, "metrics": ["val/loss"], "scaled": False, "started": 1000.0}


@pytest.mark.parametrize(
    "text",
    [
        None,
        "[]",
        "[" * 100_000,
        *(
            json.dumps({**CARD, **wrong})
            for wrong in (
                {"hparams": []},
                {"hparams": {"a": None}},
                {"hparams": {"a": 10**400}},
                {"hparams": {"\ud800": 1}},
                {"metrics": "loss"},
                {"metrics": [1]},
                {"metrics": ["\ud800"]},
                {"scaled": "no"},
                {"started": "now"},
                {"started": 1e300},
                {"started": float("nan")},
                {"more": 1},
            )
        ),
    ],
)
def test_repair_without_hparams_says_so(tmp_path, wanted, text):
    run = copy(wanted, tmp_path / "run")
    path = run / "hparams.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    said = repair(run)
    assert said.endswith("; hparams.json cannot be read, so the HPARAMS tab shows the run without its hyperparameters")
    assert "\n" not in said
    assert curves(run) == curves(wanted)


@pytest.mark.parametrize("moment", [10**400, 1e300, -1, "now", None])
def test_repair_does_without_times_that_cannot_be(tmp_path, wanted, moment):
    run = copy(wanted, tmp_path / "run")
    path = run / "status.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": moment}))
    run.joinpath("hparams.json").unlink()
    assert "rebuilt" in repair(run)
    assert curves(run) == curves(wanted)


@pytest.mark.parametrize(
    "change",
    [
        lambda summary: [summary],
        lambda summary: {k: v for k, v in summary.items() if k != "steps"},
        lambda summary: {**summary, "steps": [1]},
        lambda summary: {**summary, "steps": 10**400},
        lambda summary: {**summary, "metrics": [1]},
        lambda summary: {**summary, "metrics": {"val": [1]}},
        lambda summary: {**summary, "metrics": {"val": {"loss": "low"}}},
        lambda summary: {**summary, "metrics": {"val": {"loss": 10**400}}},
    ],
)
def test_repair_does_without_a_damaged_summary(tmp_path, wanted, change):
    run = copy(wanted, tmp_path / "run")
    path = run / "summary.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    assert "rebuilt" in repair(run)
    path.unlink()
    without = curves(run)
    repair(run)
    assert curves(run) == without != curves(wanted)


def test_wall_times_are_between_start_and_heartbeat_where_they_cannot(tmp_path, killed):
    run = copy(killed, tmp_path / "run")
    event_files(run)[0].unlink()
    repair(run)
    events = [Event.FromString(payload) for payload in records.read(event_files(run)[-1])]
    times = [event.wall_time for event in events if event.step]
    assert times == sorted(times)
    assert 1000 < times[0] < times[-1] < 2000
