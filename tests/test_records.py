"""What is written of a run: rows, CSV files, and an event file that TensorBoard reads back."""

from __future__ import annotations

import csv
import math
import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New, masked_crc32c
from tensorboard.plugins.hparams import metadata

from lossbench.engine import Best, StepRow
from lossbench.errors import ConfigError
from lossbench.observe import records
from lossbench.observe.csv_files import CsvFiles
from lossbench.observe.recorder import DeviceRecorder, Sink
from lossbench.observe.run_dir import RunDirectory
from lossbench.observe.tensorboard import TensorBoard

CPU = torch.device("cpu")


class Kept(Sink):
    def __init__(self):
        self.rows, self.batches, self.closed = [], 0, False

    def steps(self, rows):
        self.rows += rows
        self.batches += 1

    def evaluated(self, step, epoch, metrics):
        self.rows.append((step, epoch, metrics))

    def close(self):
        self.closed = True


@contextmanager
def closing_run(path):
    directory = RunDirectory(path)
    try:
        yield directory
    finally:
        directory.release()


def read(directory):
    found = plugin_event_accumulator.EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0})
    found.Reload()
    return found


def values(found, tag):
    return [(e.step, e.tensor_proto.float_val[0]) for e in found.Tensors(tag)]


def test_recorder_keeps_every_step_in_order():
    kept = Kept()
    recorder = DeviceRecorder([kept], device=CPU, flush_every=4)
    for step in range(1, 11):
        recorder.push(step, 1, 0.1 * step, torch.tensor([step / 2, 1.0, 1.0, float(step == 5) * 3]))
        if len(recorder.heads) == 4:
            assert recorder.due()
            recorder.write(recorder.fetch())
    recorder.close()
    assert [row.step for row in kept.rows] == list(range(1, 11))
    assert [row.loss for row in kept.rows] == [step / 2 for step in range(1, 11)]
    assert [row.skipped for row in kept.rows] == ["", "", "", "", "nonfinite", "", "", "", "", ""]
    assert (kept.batches, kept.closed, recorder.skipped["nonfinite"], recorder.last.step) == (3, True, 1, 10)


def test_recorder_leaves_out_what_came_after_the_end():
    kept = Kept()
    recorder = DeviceRecorder([kept], device=CPU)
    for step, verdict in enumerate((0.0, 3.0, 4.0, 4.0), 1):
        recorder.push(step, 1, 0.1, torch.tensor([1.0, 1.0, 1.0, verdict]))
    recorder.close()
    assert [row.step for row in kept.rows] == [1, 2]
    assert recorder.last.step == 2


def test_recorder_closes_every_sink_whatever_becomes_of_one():
    class Full(Kept):
        def steps(self, rows):
            raise OSError("no space left on device")

    full, kept = Full(), Kept()
    recorder = DeviceRecorder([full, kept], device=CPU)
    recorder.push(1, 1, 0.1, torch.ones(4))
    with pytest.raises(OSError, match="no space"):
        recorder.close()
    assert full.closed
    assert kept.closed


def test_config_yaml_stays_yaml_and_its_first_line_a_command(tmp_path):
    with closing_run(tmp_path) as directory:
        directory.config("seed: 0\n", ["name=a b", "loss.note=a\nb: [c"])
    text = (tmp_path / "config.yaml").read_text()
    assert text.startswith("# lossbench train 'name=a b' 'loss.note=a\n# b: [c'")
    assert yaml.safe_load(text) == {"seed": 0}


def test_steps_csv_round_trips(tmp_path):
    loss = torch.tensor(0.1).item()  # a float32 that has no short decimal form
    rows = [StepRow(1, 1, loss, 1e-3, 2.5, 1.0, ""), StepRow(2, 1, math.nan, 1e-3, math.inf, 1.0, "nonfinite")]
    files = CsvFiles(tmp_path)
    files.steps(rows)
    files.evaluated(2, 1, {"train": {"loss": 1.0, "rmse": 2.0}, "val": {"loss": 3.0, "rmse": 1 / 3}})
    files.close()
    with (tmp_path / "steps.csv").open() as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["step", "epoch", "loss", "lr", "grad_norm", "loss_scale", "skipped"]
    assert float(found[0]["loss"]) == loss
    assert (found[1]["loss"], found[1]["grad_norm"], found[1]["skipped"]) == ("nan", "inf", "nonfinite")
    with (tmp_path / "evals.csv").open() as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["step", "epoch", "split", "loss", "rmse"]
    assert [(r["split"], float(r["rmse"])) for r in found] == [("train", 2.0), ("val", 1 / 3)]


def test_tensorboard_holds_every_step_and_the_metrics(tmp_path):
    board = TensorBoard(tmp_path, {"loss": "focal", "optim.lr": 0.1, "model.hidden": [8], "x": None}, ["val/accuracy"])
    steps = [StepRow(s, 1 + (s > 60), s / 4, 0.1, 2.0, 1.0, "") for s in range(1, 101)]
    board.steps(steps[:70])
    board.evaluated(60, 1, {"train": {"loss": 9.0, "accuracy": 0.5}, "val": {"loss": 8.0, "accuracy": 0.75}})
    board.steps(steps[70:])
    board.close()
    found = read(tmp_path)
    assert values(found, "train/loss") == [(s, s / 4) for s in range(1, 101)]
    assert [s for s, _ in values(found, "train/lr")] == list(range(1, 101))
    assert [s for s, _ in values(found, "train/grad_norm")] == list(range(1, 101))
    # means of 1/4 .. 60/4 and of 61/4 .. 100/4
    assert values(found, "train/loss_epoch") == [(60, 7.625), (100, 20.125)]
    assert values(found, "val/accuracy") == [(60, 0.75)]
    assert values(found, "val/loss") == [(60, 8.0)]
    assert values(found, "train/accuracy") == [(60, 0.5)]
    assert "train/loss_scale" not in found.Tags()["tensors"]
    assert len(list(tmp_path.glob("events*"))) == 1  # the hyperparameters are in the same run


def test_tensorboard_hparams_in_the_same_run(tmp_path):
    board = TensorBoard(tmp_path, {"loss": "focal", "optim.lr": 0.1, "fused": True, "none": None}, ["val/accuracy"])
    board.status = "diverged"
    board.close()
    content = read(tmp_path).PluginTagToContent(metadata.PLUGIN_NAME)
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert [m.name.tag for m in experiment.metric_infos] == ["val/accuracy"]
    assert sorted(h.name for h in experiment.hparam_infos) == ["fused", "loss", "none", "optim.lr"]
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    assert start.hparams["loss"].string_value == "focal"
    assert start.hparams["optim.lr"].number_value == 0.1
    assert start.hparams["none"].string_value == "None"
    end = metadata.parse_session_end_info_plugin_data(content[metadata.SESSION_END_INFO_TAG])
    assert end.status == 2  # STATUS_FAILURE


def test_tensorboard_shows_nan_as_nan_and_the_loss_scale(tmp_path):
    board = TensorBoard(tmp_path, {}, [], scaled=True)
    board.steps([StepRow(1, 1, math.nan, 0.1, math.inf, 512.0, "overflow")])
    board.close()
    found = read(tmp_path)
    assert math.isnan(values(found, "train/loss")[0][1])
    assert values(found, "train/grad_norm") == [(1, math.inf)]
    assert values(found, "train/loss_scale") == [(1, 512.0)]


@pytest.mark.parametrize("count", [1, 40])
def test_records_are_tensorflows(tmp_path, count):
    payloads = [os.urandom(50 + i % 2) for i in range(count)]
    path = tmp_path / "records"
    path.write_bytes(records.frame(payloads))
    reader = PyRecordReader_New(str(path))
    for payload in payloads:
        reader.GetNext()  # checks both checksums
        assert reader.record() == payload


def test_checksums_equal_tensorboards():
    rows = np.frombuffer(os.urandom(40 * 33), np.uint8).reshape(40, 33)
    assert records.masked_crc32c(rows).tolist() == [masked_crc32c(row.tobytes()) for row in rows]


def test_run_directory_is_taken_once(tmp_path):
    with closing_run(tmp_path / "run") as directory:
        directory.status("completed")
    with pytest.raises(ConfigError, match="already holds a run"):
        RunDirectory(tmp_path / "run")


def test_summary_has_null_for_what_is_no_number(tmp_path):
    with closing_run(tmp_path) as directory:
        directory.summary({"metrics": {"val": {"auroc": math.nan}}, "seconds": 1.5})
    assert '"auroc": null' in (tmp_path / "summary.json").read_text()


@pytest.mark.parametrize(
    ("direction", "values", "step"),
    [
        ("max", [0.1, 0.5, 0.5, 0.2], 3),  # of equals the last
        ("min", [0.1, 0.5, math.nan, 0.2], 1),
        ("max", [math.nan, 0.1, math.nan], 2),  # NaN is never best
        ("max", [math.nan, math.nan], 0),
    ],
)
def test_best(direction, values, step):
    model = torch.nn.Linear(1, 1)
    best = Best([model], "m", direction)
    for i, value in enumerate(values, 1):
        torch.nn.init.constant_(model.weight, i)
        best.update(i, 1, {"m": value})
    assert best.step == step
    best.restore()
    assert model.weight.item() == (step or len(values))


def test_best_waits_as_long_as_its_patience():
    best = Best([torch.nn.Linear(1, 1)], "m", "min", patience=2)
    seen = []
    for i, value in enumerate([3.0, 2.0, 2.0, 1.0, 1.0, 1.0]):
        best.update(i, 1, {"m": value})
        seen.append(best.exhausted)
    assert seen == [False, False, False, False, False, True]
