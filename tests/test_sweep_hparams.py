"""The HPARAMS tab of a sweep: the same columns in all its runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.plugins.hparams import metadata
from test_tensorboard_server import server, wait_for

from lossbench.observe.hparams import columns_of, joined_columns, sound_columns

SWEEP = ("train", "-m", "loss=focal,cross_entropy", "trainer.clip_norm=null,1", "sweep.name=s", "trainer.epochs=1")


def shown(run):
    """By its key, what a run's event files hold of each hyperparameter; and the columns that they ask for."""
    found = plugin_event_accumulator.EventAccumulator(str(run)).Reload()
    content = found.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    columns = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG]).hparam_infos
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    return values, [(c.name, c.type, c.differs) for c in columns]


def check_same_columns(runs):
    found = [shown(run) for run in runs]
    columns = found[0][1]
    assert all(other == columns for _, other in found)
    assert all(sorted(own) == sorted(name for name, *_ in columns) for own, _ in found)
    return [own for own, _ in found]


def test_all_runs_of_a_sweep_have_the_same_columns(cli):
    assert cli(*SWEEP, "hydra/launcher=basic")[0] == 0
    runs = sorted(path.parent for path in Path("outputs/s").glob("*/status.json"))
    focal, clipped, cross_entropy, _ = check_same_columns(runs)
    assert focal["loss.gamma"] == 2
    assert math.isnan(cross_entropy["loss.gamma"])
    assert math.isnan(focal["trainer.clip_norm"])
    assert clipped["trainer.clip_norm"] == 1
    assert (focal["loss.weight"], cross_entropy["loss.weight"]) == ("-", "None")
    differing = [name for name, _, differs in shown(runs[0])[1] if differs]
    assert sorted(differing) == ["loss", "optim.lr", "trainer.clip_norm"]

    assert cli("repair", str(runs[2]))[0] == 0
    assert cli("train", f"resume={runs[3]}", "trainer.epochs=2")[0] == 0
    assert check_same_columns(runs)[3]["trainer.epochs"] == 2


def test_the_columns_of_runs():
    runs = [
        {"a": 1, "b": None, "c": True, "d": True, "e": 1, "f": None, "g": [1]},
        {"a": 2.5, "b": 3, "c": False, "e": "auto", "f": None, "g": [2]},
    ]
    kinds = {name: (column["kind"], column["differs"]) for name, column in columns_of(runs).items()}
    assert kinds == {
        "a": ("number", True),
        "b": ("number", True),
        "c": ("bool", True),
        "d": ("text", False),  # a run without it has a dash
        "e": ("text", True),
        "f": ("text", False),
        "g": ("text", True),
    }


def test_runs_that_join_a_sweep():
    first, second = columns_of([{"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 1}]), columns_of([{"a": "x", "d": 1}])
    both = joined_columns(first, second)
    assert {name: column["kind"] for name, column in both.items()} == {
        "a": "text", "b": "number", "c": "number", "d": "number"
    }  # fmt: skip
    assert both["b"]["differs"]


@pytest.mark.parametrize(
    "held", [None, [], {"a": 1}, {"a": {"kind": "colour", "differs": True}}, {"a": {"kind": "text"}}, {"\ud800": {}}]
)
def test_columns_that_are_none(held):
    assert sound_columns(held) == {}


@pytest.mark.slow
@pytest.mark.parametrize("fast", ["true", "false"])
def test_tensorboard_lists_and_sorts_the_runs(cli, tmp_path, fast):
    """A column of numbers that some runs have not, or have null in, would stop the sorting if it held text as well."""
    assert cli(*SWEEP, "optim=sgd,adamw", "hydra/launcher=basic")[0] == 0
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    with server(tmp_path / "outputs", fast, tmp_path / "log") as ask:

        def groups(*columns):
            body = {"experimentName": "", "allowedStatuses": statuses, "startIndex": 0, "sliceSize": 99}
            return (ask("hparams/session_groups", {**body, "colParams": columns}) or {}).get("sessionGroups", [])

        wait_for(lambda: [s["status"] for g in groups() for s in g["sessions"]] == ["STATUS_SUCCESS"] * 8)
        names = [column["name"] for column in ask("hparams/experiment", {"experimentName": ""})["hparamInfos"]]
        for name in names:
            assert len(groups({"hparam": name, "order": "ORDER_ASC"})) == 8, name
        measured = [{m["name"]["tag"] for m in g["sessions"][0]["metricValues"]} for g in groups()]
        assert all({"best/accuracy", "test/accuracy"} <= found for found in measured)
