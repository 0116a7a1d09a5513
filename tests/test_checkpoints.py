"""When a run's checkpoints are made, which are kept, and what refuses to be loaded."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from test_recovery import make
from torch import nn

from lossbench.engine import Best, Checkpoints
from lossbench.engine.checkpoint import read
from lossbench.engine.restore import found, load, number
from lossbench.errors import CheckpointError


def checkpoints(tmp_path, player=None, said=None, **options):
    player = player or make("none", None)[0]
    best = Best(list(player.modules), "rmse", "min")
    said = [] if said is None else said
    return Checkpoints(tmp_path / "checkpoints", player, best, dict, said.append, **options)


def names(made):
    return [path.name for kind in ("best", "step") for path in found(made.root, kind)]


def test_the_newest_are_kept_and_the_best_that_each_speaks_of(tmp_path):
    made = checkpoints(tmp_path, keep=2)
    for step, value in ((1, 5.0), (2, 4.0), (3, 4.5), (4, 3.0), (5, 9.0)):
        made.best.update(step, 1, {"rmse": value})
        made.save(step, 1)
    assert names(made) == ["best-00000004", "step-00000004", "step-00000005"]
    made.best.update(6, 1, {"rmse": 1.0})
    made.save(6, 1)
    assert names(made) == ["best-00000004", "best-00000006", "step-00000005", "step-00000006"]
    assert (made.root / "best").resolve().name == "best-00000006"
    assert json.loads((made.root / "best/manifest.json").read_text())["value"] == 1.0


def test_nan_is_never_best(tmp_path):
    made = checkpoints(tmp_path)
    made.best.update(1, 1, {"rmse": math.nan})
    made.save(1, 1)
    assert names(made) == ["step-00000001"]
    assert not (made.root / "best").exists()


def test_a_delete_that_fails_only_warns(tmp_path, monkeypatch):
    said = []
    made = checkpoints(tmp_path, said=said, keep=1)
    made.save(1, 1)

    def fails(path, *_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda p, ignore_errors=False: None if ignore_errors else fails(p))
        made.save(2, 1)
    assert names(made) == ["step-00000001", "step-00000002"]
    assert said == [f"cannot delete the old checkpoint '{made.root / 'step-00000001'}': Permission denied"]


@pytest.mark.parametrize(
    ("options", "cost", "since", "due"),
    [
        ({"every": 4}, 0, 0, [4, 8, 12]),
        ({}, 0, 1e9, []),
        ({"minutes": 2}, 0, 119, []),
        ({"minutes": 2}, 0, 121, range(1, 13)),
        ({"auto": True}, 0.3, 9.9, []),  # 3 % of the time: a save of 0.3 s every 10 s
        ({"auto": True}, 0.3, 10.1, [5, 10]),
        ({"auto": True, "every": 4}, 0.3, 10.1, [4, 5, 8, 10, 12]),
    ],
)
def test_when_a_checkpoint_is_due(tmp_path, monkeypatch, options, cost, since, due):
    """Of steps 1 to 12, with an evaluation after 5 and 10."""
    made = checkpoints(tmp_path, **options)
    made.saved, made.cost = 0, cost
    now = made.saved_at + since
    monkeypatch.setattr("lossbench.engine.checkpoints.time.perf_counter", lambda: now)
    assert [step for step in range(1, 13) if made.due(step, evaluated=step % 5 == 0)] == list(due)


def test_auto_guesses_what_the_first_save_will_cost(tmp_path):
    """0.03 s: no evaluation in the first second is worth it."""
    made = checkpoints(tmp_path, auto=True)
    assert not made.due(2, evaluated=True)
    made.saved_at -= 1.01
    assert made.due(4, evaluated=True)
    assert not made.due(5, evaluated=False)


def saved(tmp_path, player):
    made = checkpoints(tmp_path, player)
    made.save(1, 1)
    return read(made.root / "step-00000001"), made


@pytest.mark.parametrize(
    ("optimizer", "refused"),
    [(torch.optim.AdamW, False), (torch.optim.SGD, True), (torch.optim.RMSprop, True)],
)
def test_the_state_of_another_optimizer_is_refused(tmp_path, optimizer, refused):
    checkpoint, made = saved(tmp_path, make("none", None)[0])
    other = make("none", None)[0]
    other.optimizers = [optimizer(other.model.parameters(), lr=0.1)]
    if refused:
        with pytest.raises(CheckpointError, match=r"is for another optimizer; weights=\S+ starts a new run"):
            load(checkpoint, other, made.best, print)
    else:
        load(checkpoint, other, made.best, print)


def test_the_weights_of_another_model_are_refused(tmp_path):
    checkpoint, made = saved(tmp_path, make("none", None)[0])
    for layer, line in (
        (nn.Linear(4, 9), r"has shape \(8, 4\) there, shape \(9, 4\) here"),
        (nn.Tanh(), "there, none"),
    ):
        other = make("none", None)[0]
        other.model[0] = layer
        with pytest.raises(CheckpointError, match=line):
            load(checkpoint, other, made.best, print)


class Odd(torch.optim.SGD):
    def state_dict(self):
        return {**super().state_dict(), "helper": torch.nn.Linear(1, 1)}


def test_an_optimizer_whose_state_cannot_be_read_back_is_found_at_the_first_save(tmp_path):
    player = make("none", None)[0]
    player.optimizers = [Odd(player.model.parameters(), lr=0.1)]
    with pytest.raises(CheckpointError, match="holds more than tensors and numbers"):
        checkpoints(tmp_path, player).save(1, 1)


def test_what_comes_later_is_forgotten(tmp_path):
    made = checkpoints(tmp_path, keep=9)
    for step in range(1, 5):
        made.best.update(step, 1, {"rmse": 10.0 - step})
        made.save(step, 1)
    made.forget_after(2)
    assert [number(path) for path in found(made.root, "step")] == [1, 2]
    assert (made.root / "last").resolve().name == "step-00000002"
    assert (made.root / "best").resolve().name == "best-00000002"
    made.forget_after(0)
    assert list(made.root.iterdir()) == []
