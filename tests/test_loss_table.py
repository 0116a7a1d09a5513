"""The quick form of scripts/loss_table.py, and when it fails."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "scripts" / "loss_table.py"


@pytest.fixture(scope="module")
def table():
    spec = importlib.util.spec_from_file_location("loss_table", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["loss_table"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["loss_table"]


def rows(table, after, *, trivial=0.2, sign=1, seconds=1.0):
    preset = table.Preset("toy", "a", "accuracy", sign, trivial)
    return [table.Row(loss, preset, [0.1], [value], seconds) for loss, value in after.items()]


def test_quick(table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["loss_table.py", "--quick", "--losses", "hinge,quantile"])
    monkeypatch.setattr(table, "presets_of", lambda card: [card.preset])  # hinge fits another, which takes longer
    with pytest.raises(SystemExit) as left:
        table.main()
    out, err = capsys.readouterr()
    assert (left.value.code, err) == (0, "")
    found = {tuple(line.split()[:3]): line.split()[3:] for line in out.splitlines()[1:]}
    assert {key[:2] for key in found if key[0] != "zero_one"} == {
        ("bce", "binary"),
        ("hinge", "binary"),
        ("default", "binary"),
        ("mae", "outliers"),
        ("quantile", "outliers"),
        ("default", "outliers"),
    }
    assert float(found["hinge", "binary", "accuracy"][1]) == pytest.approx(0.62, abs=0.01)  # malignant are fewer
    assert float(found["hinge", "binary", "accuracy"][2]) > 0.9
    assert found["bce", "binary", "accuracy"][2] == found["default", "binary", "accuracy"][2]


def test_every_loss_is_in_the_plan_on_a_preset_of_each_task_that_it_fits(table, monkeypatch):
    monkeypatch.setattr(table, "own_loss", lambda preset: "own")
    plan = table.plan([])
    found = {
        loss: sorted(preset for preset in plan if loss in plan[preset]) for loss in ("focal", "mse", "cvar", "sum")
    }
    assert found == {
        "focal": ["binary", "imbalanced", "multilabel"],
        "mse": ["regression"],
        "cvar": ["binary", "multilabel", "regression", "robust"],
        "sum": ["sum"],
    }
    planned = {loss for losses in plan.values() for loss in losses} - {"own"}
    assert planned == set(table.catalog.names("loss")) - {"zero_one"}


@pytest.mark.parametrize(
    ("preset", "metric", "expected"),
    [
        ("imbalanced", "accuracy", 0.1),
        ("binary", "auroc", 0.5),
        ("outliers", "r2", 0.0),
        ("quantiles", "coverage", 0.8),
        ("counts", "r2", 0.0),
    ],
)
def test_what_a_constant_reaches(table, preset, metric, expected):
    assert table.constant_score(table.composed(preset), metric) == pytest.approx(expected, abs=0.05)


def test_a_loss_has_to_recover_half_of_the_gap(table):
    after = {"a": 0.8, "b": 0.51, "c": 0.49, "d": float("nan"), "default": 0.3}
    assert list(table.failures(rows(table, after))) == [
        "c on toy recovers 48% of the gap",
        "d on toy recovers nan% of the gap",
    ]
    errors = {"a": 0.8, "b": 1.5, "c": 1.3}  # less is better
    assert list(table.failures(rows(table, errors, trivial=2.0, sign=-1))) == ["b on toy recovers 42% of the gap"]


def test_no_loss_may_be_worse_than_a_constant_or_slow(table):
    assert list(table.failures(rows(table, {"a": 0.1, "b": 0.2}))) == ["toy: no loss is better than a constant"]
    assert list(table.failures(rows(table, {"a": 0.9}, seconds=4.0))) == ["a on toy takes 4.0 s for one training"]


def test_the_short_form_has_the_best_first(table):
    found = rows(table, {"a": 0.5, "b": float("nan"), "c": 0.75})
    assert table.short(found) == "| toy | accuracy | 0.2 | c 0.75, a 0.5, b nan |"
