"""Runs as their records leave them, for tests: whole, killed or interrupted; and what TensorBoard reads of them."""

from __future__ import annotations

import json
import math
import signal
from collections import defaultdict
from pathlib import Path

import torch
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import metadata

from lossbench import stopping
from lossbench.engine import StepRow
from lossbench.observe import records
from lossbench.observe.csv_files import CsvFiles
from lossbench.observe.event_files import event_files
from lossbench.observe.tensorboard import TensorBoard

STEPS, EPOCH, STOP = 47, 10, 33  # of the whole run, of an epoch, and where it goes on: in the middle of an epoch
HPARAMS = {"loss": "focal", "optim.lr": 0.1, "hidden": "[8]", "fused": True}
BEST = {"best": {"loss": 0.5, "accuracy": 0.75}, "test": {"loss": 0.25, "accuracy": math.nan}}


def row(step, wrong=0):
    loss = torch.tensor(0.1 * step + wrong).item()
    return StepRow(step, (step - 1) // EPOCH + 1, loss, 1e-3, 2.0, 512.0, "overflow" if step % 15 == 0 else "")


def train(sinks, first, last, wrong=0):
    """As the engine does: rows some at a time, and an evaluation at the end of each epoch."""
    rows = []
    for step in range(first, last + 1):
        rows.append(row(step, wrong))
        if step % EPOCH == 0 or len(rows) == 7 or step == last:
            for sink in sinks:
                sink.steps(rows)
            rows = []
        if step % EPOCH == 0:
            found = {s: {"loss": step / 7 + wrong, "accuracy": i / step} for i, s in enumerate(("train", "val"), 1)}
            for sink in sinks:
                sink.evaluated(step, step // EPOCH, found)


def open_sinks(directory, resume=None):
    return TensorBoard(directory, HPARAMS, ["test/loss"], scaled=True, resume=resume), CsvFiles(
        directory, resume=resume
    )


def state(directory, status, beat=0.0):
    directory.joinpath("status.json").write_text(
        json.dumps({"status": status, "started": 1000.0, "heartbeat": beat or 2000.0})
    )


def end(sinks, directory, status="completed"):
    board, files = sinks
    board.status = status
    state(directory, status)
    if status == "completed":
        board.evaluated(STEPS, 5, BEST)
        metrics = {"val": BEST["best"], "test": {"loss": 0.25, "accuracy": None}}
        summary = {"status": status, "metrics": metrics, "steps": STEPS}
        directory.joinpath("summary.json").write_text(json.dumps(summary))
    board.close()
    files.close()


def whole_run(directory):
    directory.mkdir()
    sinks = open_sinks(directory)
    train(sinks, 1, STEPS)
    end(sinks, directory)
    return directory


def killed_run(directory):
    """It had come to a few steps after the last checkpoint, with other numbers than it will find the next time."""
    directory.mkdir()
    sinks = open_sinks(directory)
    train(sinks, 1, STOP)
    train(sinks, STOP + 1, STEPS - 2, wrong=1000)
    sinks[0]._shut()
    sinks[1].close()
    state(directory, "running")
    return directory


def interrupted_run(directory, stop):
    directory.mkdir()
    sinks = open_sinks(directory)
    train(sinks, 1, stop)
    end(sinks, directory, "interrupted")


def go_on(directory, stop=STOP):
    sinks = open_sinks(directory, resume=stop)
    train(sinks, stop + 1, STEPS)
    end(sinks, directory)


def stop_after(monkeypatch, steps):
    """The run is asked to stop in the n-th step that it makes."""
    made = []

    def asked(self):
        made.append(1)
        if len(made) == steps:
            self.signal = signal.SIGTERM
        return self.signal is not None

    monkeypatch.setattr(stopping.Stop, "asked", asked)


def bytes_of(run):
    """The files that two runs must agree in, byte for byte, to be equal."""
    names = ("steps.csv", "evals.csv", "checkpoints/last/model.safetensors", "checkpoints/best/model.safetensors")
    return {name: Path(run, name).read_bytes() for name in names}


def copy(source, target):
    target.mkdir(parents=True)
    for path in source.iterdir():
        target.joinpath(path.name).write_bytes(path.read_bytes())
    return target


def flipped(data, offset):
    return data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :]


def curves(directory):
    """Each tag's steps and values as TensorBoard's loader reads them, which must be as its data server does."""
    found = plugin_event_accumulator.EventAccumulator(str(directory), size_guidance={"tensors": 0})
    found.Reload()
    loaded = {
        tag: [(e.step, e.tensor_proto.float_val[0]) for e in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
        if not tag.startswith("_hparams_")
    }
    assert repr(loaded) == repr({tag: served(directory)[tag] for tag in loaded})
    assert set(loaded) == set(served(directory))
    return repr(sorted(loaded.items()))  # NaN equals NaN here


def served(directory):
    """As the data server does: no START counts, and an event drops the tag's others that are not before it."""
    found = defaultdict(list)
    for path in event_files(directory):
        for event in map(Event.FromString, records.read(path)):
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    kept = [pair for pair in found[value.tag] if pair[0] < event.step]
                    found[value.tag] = [*kept, (event.step, value.simple_value)]
    return dict(found)


def hparams(directory):
    found = plugin_event_accumulator.EventAccumulator(str(directory)).Reload()
    content = found.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    end = content.get(metadata.SESSION_END_INFO_TAG)
    status = metadata.parse_session_end_info_plugin_data(end).status if end else None
    return sorted(start.hparams), metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG]), status


def check(directory, wanted):
    assert directory.joinpath("steps.csv").read_bytes() == wanted.joinpath("steps.csv").read_bytes()
    assert directory.joinpath("evals.csv").read_bytes() == wanted.joinpath("evals.csv").read_bytes()
    assert curves(directory) == curves(wanted)
    assert hparams(directory) == hparams(wanted)


def intact(path):
    """Whether every record of the file is whole and its checksums are right, to the end of the file."""
    try:
        for _ in records.read(path):
            pass
    except records.Damaged:
        return False
    return True
