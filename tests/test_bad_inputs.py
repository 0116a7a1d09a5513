"""Every bad input that is known: one line on stderr, its exit code, and nothing left behind.

The table is `bad_inputs.txt`: a command line, and below it the exit code and the line, in which HERE is the current
directory. The files that the commands name are made below.
"""

import os
import shlex
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lossbench import catalog

TABLE = [
    line
    for line in Path(__file__).with_name("bad_inputs.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
ROWS = [(command, *outcome.split(maxsplit=1)) for command, outcome in zip(TABLE[::2], TABLE[1::2], strict=True)]

CODE = """
import sys
import numpy as np
import torch
from torch import nn
from lossbench.data import Source

# losses
def per_class(logits, labels): return logits
def too_few(logits, labels): return logits[:2].sum(1)
def column(logits, labels): return logits.sum(1, keepdim=True)
def broadcast(pred, target): return (pred[:, None] - target).square()
def constant(logits, labels): return torch.ones(len(labels))
def detached(logits, labels): return logits.detach().sum(1)
def text(logits, labels): return "0.5"
def nothing(logits, labels): pass
def whole(logits, labels): return labels
def raises(logits, labels): raise RuntimeError("first line\\nsecond line")
def no_field(*, gamma: float = 1.0): return torch.zeros(4)
def weights(logits, labels): return logits.sum(1), torch.ones(1)
def scalar(logits, labels): return nn.functional.cross_entropy(logits, labels)
def pinball(pred, target, *, q: float = 0.5): return torch.maximum(q * (target - pred), (q - 1) * (target - pred))
class Functor:
    def __call__(self, logits, labels): return logits.sum(1)
number = 3

# data sets
POINTS = np.random.default_rng(0).normal(size=(600, 4))
def source(target, features=POINTS, task="multiclass", classes=()): return Source(features, target, task, classes)
def labels(at=None, label=0, classes=10):
    found = np.arange(600) % classes
    if at is not None: found[at] = label
    return found
def float_ids(): return source(labels() / 1.0)
def one_hot(): return source(np.eye(10, dtype=int)[labels()])
def column_target(): return source(POINTS[:, :1], task="regression")
def label_10(): return source(labels(512, 10), classes=tuple("abcdefghij"))
def label_minus_1(): return source(labels(512, -1))
def positive_2(): return source(labels(512, 2, classes=2), task="binary")
def no_rows(): return source(labels()[:0], POINTS[:0])
def one_class(): return source(labels(classes=1), task="binary")
def ragged(): return source(labels()[:2], [[1, 2], [3]])
def gap(at=np.nan):
    features = POINTS.copy()
    features[7, 2] = at
    return source(labels(), features)
def unequal(): return source(labels()[:5])
def cannot(): raise OSError("the disk is gone")
def a_list(): return [1, 2]
class Items(torch.utils.data.Dataset):
    def __init__(self, item): self.item = item
    def __len__(self): return 600
    def __getitem__(self, i): return self.item
def gives_none(): return source(labels(), Items(None))
def bytes_(): return source(labels(), Items(torch.zeros(4, dtype=torch.uint8)))

# models
def narrow(*, input_shape, outputs): return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs - 1))
def other_input(*, input_shape, outputs): return nn.Sequential(nn.Flatten(), nn.Linear(63, outputs))
def colour(*, input_shape, outputs): return nn.Sequential(nn.Conv2d(3, outputs, 8), nn.Flatten())
class Two(nn.Linear):
    def forward(self, x): return super().forward(x.flatten(1)), 1
def two(*, input_shape, outputs): return Two(64, outputs)
def not_a_model(*, input_shape, outputs): return 3

# optimizers and schedules
def not_an_optimizer(params, lr=0.1): return 3
def not_a_schedule(optimizer): return 3
"""


def table(line=0, text=""):
    """A file of 60 rows; `text` stands in one line of it."""
    lines = ["a,b,y", *(f"{i % 7},{i * 3 % 11},{i % 2}" for i in range(60)), ""]
    return "\n".join([text if i == line else kept for i, kept in enumerate(lines, 1)])


OPTIONS = {
    "loss": """per_class too_few column broadcast constant detached text nothing whole raises no_field weights scalar
        pinball Functor number absent""",
    "dataset": """float_ids one_hot column_target label_10 label_minus_1 positive_2 no_rows one_class ragged gap unequal
        cannot a_list gives_none bytes_""",
    "model": "narrow other_input colour two not_a_model",
    "optim": "not_an_optimizer",
    "scheduler": "not_a_schedule",
}

FILES = {
    "mine.py": CODE,
    **{f"mine/{group}/{name}.yaml": f"_target_: mine.{name}" for group in OPTIONS for name in OPTIONS[group].split()},
    "mine/loss/no_module.yaml": "_target_: not_there.loss",
    "mine/loss/bad_module.yaml": "_target_: broken.loss",
    "mine/loss/no_target.yaml": "gamma: 1",
    "mine/loss/typo.yaml": "_target_: mine.pinball\nquantile: 0.9",
    "mine/loss/unknown.yaml": "_target_: mine.pinball\n1: 2",
    "mine/loss/huber1.yaml": "_target_: torch.nn.HuberLoss",
    "mine/optim/lbfgs.yaml": "_target_: torch.optim.LBFGS\nlr: 1",
    "broken.py": "def loss(:",
    "broken/loss/open.yaml": "_target_: mine.pinball\nq: [",
    "broken/loss/tab.yaml": "_target_: mine.pinball\n\tq: 1",
    "broken/loss/twice.yaml": "_target_: mine.pinball\nq: 1\nq: 2",
    "broken/loss/latin.yaml": "_target_: mine.p\xefnball",
    "yml/loss/pinball.yml": "_target_: mine.pinball",
    "ours/loss/focal.yaml": "_target_: mine.pinball",
    "good.csv": table(),
    "text.csv": table(32, "oops,1,0"),
    "gap.csv": table(5, "1,2,"),
    "ragged.csv": table(5, "1,2,0,9"),
    "huge.csv": table(9, "1e999,1,0"),
    "constant.csv": "a,b,y\n" + "1,2,1\n2,1,1\n" * 30,
    "short.csv": "a,b,y\n1,2,0\n2,1,1\n",
    "header.csv": "a,b,y\n",
}


@pytest.fixture
def here(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="latin-1")
    return tmp_path


def everything(directory):
    return sorted(path for path in directory.rglob("*") if "__pycache__" not in path.parts)


@pytest.mark.parametrize(("command", "code", "message"), ROWS, ids=[command for command, *_ in ROWS])
def test_one_line_an_exit_code_and_nothing_left(cli, here, command, code, message):
    before = everything(here)
    found, _, err = cli(*shlex.split(command))
    assert err == f"lossbench: error: {message.replace('HERE', str(here))}\n"
    assert found == int(code)
    assert everything(here) == before
