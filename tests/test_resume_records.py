"""Records of a run that was killed, resumed or rolled back: no gap, and no step twice."""

from __future__ import annotations

import json

import pytest
from recorded import (
    HPARAMS,
    STEPS,
    STOP,
    check,
    copy,
    end,
    flipped,
    go_on,
    hparams,
    intact,
    interrupted_run,
    open_sinks,
    row,
    served,
    train,
)
from tensorboard.compat.proto.event_pb2 import Event

from lossbench.observe import records
from lossbench.observe.event_files import event_files
from lossbench.observe.tensorboard import TensorBoard


def test_the_run_to_compare_with_is_as_wanted(wanted):
    found = served(wanted)
    assert [step for step, _ in found["train/loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in found["train/loss_epoch"]] == [10, 20, 30, 40, 47]
    assert found["train/loss_epoch"][0][1] == pytest.approx(0.55)
    assert found["train/loss_epoch"][1][1] == pytest.approx(14 / 9)  # without step 15
    assert [step for step, _ in found["val/loss"]] == [10, 20, 30, 40]
    assert [step for step, _ in found["best/accuracy"]] == [STEPS]
    assert hparams(wanted)[2] == 1  # STATUS_SUCCESS


@pytest.mark.parametrize("stop", [1, 29, 30, 31, STOP, STEPS - 2])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, wanted, killed, stop):
    if stop > STOP:
        killed = tmp_path / "a" / "run"
        killed.parent.mkdir()
        interrupted_run(killed, stop)
    run = copy(killed, tmp_path / "run")
    go_on(run, stop)
    check(run, wanted)


@pytest.mark.parametrize("stop", [20, 25, 40])
def test_an_interrupted_run_goes_on_in_one_more_file(tmp_path, wanted, stop):
    run = tmp_path / "run"
    interrupted_run(run, stop)
    (first,) = event_files(run)
    before = first.read_bytes()
    assert hparams(run)[2] is None
    go_on(run, stop)
    assert first.read_bytes() == before
    assert len(event_files(run)) == 2  # in the same second, by the same process
    assert event_files(run)[0] == first
    assert not list(run.glob("replaced*"))
    check(run, wanted)


def test_a_run_is_resumed_more_than_once(tmp_path, wanted):
    run = tmp_path / "run"
    interrupted_run(run, 12)
    for stop, until in ((12, 25), (25, 38), (31, 33)):
        sinks = open_sinks(run, resume=stop)
        train(sinks, stop + 1, until)
        end(sinks, run, "interrupted")
    go_on(run, 33)
    check(run, wanted)


def test_a_completed_run_can_go_on_and_ends_well(tmp_path, wanted):
    run = tmp_path / "run"
    run.mkdir()
    sinks = open_sinks(run)
    train(sinks, 1, 25)
    end(sinks, run)  # with metrics of its best weights, the mean of half an epoch, and an end
    sinks = open_sinks(run, resume=25)
    train(sinks, 26, STEPS)
    end(sinks, run)
    check(run, wanted)
    assert hparams(run)[2] == 1


def test_a_failed_run_can_end_well_where_its_last_epoch_has_no_mean(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for resume, status in ((None, "failed"), (31, "completed")):
        sinks = open_sinks(run, resume)
        if resume is None:
            train(sinks, 1, 30)
            for sink in sinks:
                sink.steps([row(31)._replace(skipped="nonfinite")])
        else:
            train(sinks, 32, STEPS)
        end(sinks, run, status)
    assert hparams(run)[2] == 1  # STATUS_SUCCESS
    assert len(list(run.glob("replaced*"))) == 1


def test_other_hyperparameters_are_shown(tmp_path):
    interrupted_run(tmp_path / "run", 25)
    TensorBoard(tmp_path / "run", {"optim.lr": 0.5, "new": 1}, [], scaled=True, resume=25).close()
    assert hparams(tmp_path / "run")[0] == ["new", "optim.lr"]


def test_resume_heals_an_event_file_cut_anywhere(tmp_path, wanted, killed):
    (name,) = (path.name for path in event_files(killed))
    size = killed.joinpath(name).stat().st_size
    for offset in (*range(0, size, 401), size - 1, size - 5):
        run = copy(killed, tmp_path / str(offset) / "run")
        with run.joinpath(name).open("r+b") as file:
            file.truncate(offset)
        go_on(run)
        check(run, wanted)


def test_resume_heals_a_flipped_byte_anywhere(tmp_path, wanted):
    source = tmp_path / "source" / "run"
    source.parent.mkdir()
    interrupted_run(source, STOP)
    (name,) = (path.name for path in event_files(source))
    data = source.joinpath(name).read_bytes()
    for offset in (*range(0, len(data), 283), len(data) - 1):
        run = copy(source, tmp_path / str(offset) / "run")
        run.joinpath(name).write_bytes(flipped(data, offset))
        go_on(run)
        check(run, wanted)
        (kept,) = run.glob("replaced*")
        assert kept.read_bytes() == flipped(data, offset)
        assert "tfevents" not in kept.name


def test_resume_heals_half_a_record_after_the_last(tmp_path, wanted):
    run = tmp_path / "run"
    interrupted_run(run, STOP)
    with event_files(run)[0].open("ab") as file:
        file.write(records.frame([b"x" * 60])[:40])
    go_on(run)
    check(run, wanted)
    assert all(map(intact, event_files(run)))


def test_resume_needs_no_event_file(tmp_path, wanted, killed):
    run = copy(killed, tmp_path / "run")
    for path in event_files(run):
        path.unlink()
    go_on(run)
    check(run, wanted)


def test_resume_fills_in_events_that_were_never_written(tmp_path, wanted):
    """Each record is whole, but a step or an evaluation of the CSV files is not among them."""
    source = tmp_path / "source" / "run"
    source.parent.mkdir()
    interrupted_run(source, STOP)
    (name,) = (path.name for path in event_files(source))
    payloads = list(records.read(source / name))
    for left_out in range(4, len(payloads), 5):
        run = copy(source, tmp_path / str(left_out) / "run")
        run.joinpath(name).write_bytes(records.frame(payloads[:left_out] + payloads[left_out + 1 :]))
        go_on(run)
        check(run, wanted)


@pytest.mark.parametrize("stop", [7, 29, 30, 31, 33])
def test_a_run_is_rolled_back_while_it_runs(tmp_path, wanted, stop):
    tmp_path.joinpath("run").mkdir()
    sinks = open_sinks(tmp_path / "run")
    train(sinks, 1, stop)
    for until in (stop + 3, 42):
        train(sinks, stop + 1, until, wrong=1000)
        for sink in sinks:
            sink.rewind(stop)
    for sink in sinks:
        sink.rewind(stop)  # nothing is after it
    train(sinks, stop + 1, STEPS)
    end(sinks, tmp_path / "run")
    check(tmp_path / "run", wanted)


def test_wall_times_are_kept_where_they_can_be_read(tmp_path, killed):
    run = copy(killed, tmp_path / "run")
    before = {e.step: e.wall_time for e in map(Event.FromString, records.read(event_files(run)[0])) if e.step}
    started = json.loads(run.joinpath("hparams.json").read_text())["started"]
    board = TensorBoard(run, HPARAMS, [], scaled=True, resume=STOP)
    assert json.loads(run.joinpath("hparams.json").read_text())["started"] == started
    board.status = "interrupted"
    board.close()
    after = {e.step: e.wall_time for e in map(Event.FromString, records.read(event_files(run)[-1])) if e.step}
    assert {step: after[step] for step in range(1, STOP + 1)} == {step: before[step] for step in range(1, STOP + 1)}
