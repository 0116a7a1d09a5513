"""The CSV files of a run that goes on, whatever was left of them."""

from __future__ import annotations

import pytest
from recorded import (
    HPARAMS,
    STOP,
    copy,
    train,
)

from lossbench.errors import CheckpointError
from lossbench.observe.csv_files import CsvFiles
from lossbench.observe.repair import repair
from lossbench.observe.tensorboard import TensorBoard


def test_resume_of_csv_files_cut_anywhere(tmp_path, killed):
    for name in ("steps.csv", "evals.csv"):
        data = killed.joinpath(name).read_bytes()
        lines = [line for line in data.splitlines(keepends=True)[1:] if int(line.split(b",")[0]) <= STOP]
        needed = len(data.splitlines(keepends=True)[0]) + sum(map(len, lines))
        for offset in (*range(0, len(data), 13), needed - 1, needed):
            run = copy(killed, tmp_path / name / str(offset))
            run.joinpath(name).write_bytes(data[:offset])
            if name == "steps.csv" and offset < needed:
                with pytest.raises(CheckpointError, match=r"steps\.csv"):
                    CsvFiles(run, resume=STOP)
                continue
            CsvFiles(run, resume=STOP).close()
            whole = data[: min(needed, data[:offset].rfind(b"\n") + 1)]
            assert run.joinpath(name).read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("steps.csv", b"\n5,", b"\n4,", "the row of step 5 is missing; found '4,1,"),
        ("steps.csv", b"\n5,1,", b"\n5,", "the row of step 5 is missing"),
        ("steps.csv", b"step,epoch", b"epoch,step", "does not begin as a steps.csv"),
        ("evals.csv", b"step,epoch", b"epoch,step", "does not begin as an evals.csv"),
        ("evals.csv", b"\n20,2,val", b"\n20,2,train", "after step 20 comes a row that does not belong there: '20,2,tr"),
        ("evals.csv", b"\n20,2,val", b"\n9,2,val", "after step 20 comes"),
        ("evals.csv", b"\n20,2,val,", b"\n20,2,val", "after step 20 comes"),
        ("evals.csv", b"\n20,2,val", b"\n\0\0,2,val", "after step 20 comes"),
    ],
)
def test_csv_files_that_do_not_hold_the_steps_are_refused(tmp_path, killed, name, old, new, said):
    run = copy(killed, tmp_path / "run")
    data = run.joinpath(name).read_bytes()
    assert data.count(old) == 1
    run.joinpath(name).write_bytes(data.replace(old, new))
    with pytest.raises(CheckpointError) as caught:
        CsvFiles(run, resume=STOP)
    assert str(run / name) in str(caught.value)
    assert said in str(caught.value)
    assert run.joinpath(name).read_bytes() == data.replace(old, new)


def test_csv_files_that_are_missing_or_short_are_refused(tmp_path, killed):
    run = copy(killed, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"ends at step 45; the steps to 99 are missing"):
        CsvFiles(run, resume=99)
    for name in ("evals.csv", "steps.csv"):
        run.joinpath(name).unlink()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            CsvFiles(run, resume=STOP)
    with pytest.raises(CheckpointError, match=r"steps\.csv is missing"):
        TensorBoard(run, HPARAMS, [], resume=STOP)


def test_a_number_that_cannot_be_read_is_said(tmp_path, killed):
    run = copy(killed, tmp_path / "run")
    data = run.joinpath("steps.csv").read_bytes()
    run.joinpath("steps.csv").write_bytes(data.replace(b"\n5,1,0.5", b"\n5,1,0\0005"))
    with pytest.raises(CheckpointError, match="cannot read the row of step 5"):
        repair(run)


def test_csv_files_resumed_before_the_first_evaluation_get_a_header(tmp_path):
    files = CsvFiles(tmp_path)
    train([files], 1, 5)
    files.close()
    tmp_path.joinpath("evals.csv").write_bytes(b"step,epoch,spl")
    files = CsvFiles(tmp_path, resume=5)
    train([files], 6, 10)
    files.sync()
    assert tmp_path.joinpath("evals.csv").read_text().splitlines()[0] == "step,epoch,split,loss,accuracy"
    files.close()
