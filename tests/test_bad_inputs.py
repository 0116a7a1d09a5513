"""Every bad input that is known: one line on stderr, its exit code, and nothing left behind.

The table is `bad_inputs.txt`: a command line, and below it the exit code and the line. HERE is the current directory,
and `...` at the end what others (torch, YAML, Python) say in their own words. The files that it names are made below.
"""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lossbench import catalog
from lossbench.compose import compose

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
def level(logits, labels): return 0 * logits.sum(1) + 1
def undefined(logits, labels): return logits.sum(1) * float("nan")
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
def softmax(*, input_shape, outputs): return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs), nn.Softmax(1))
def not_a_model(*, input_shape, outputs): return 3

# optimizers and schedules
def not_an_optimizer(params, lr=0.1): return 3
class Asks(torch.optim.SGD):
    def step(self, closure=None):
        if closure is None: raise RuntimeError("a closure is needed\\nsecond line")
class Keeps(torch.optim.SGD):
    def step(self, closure=None):
        self.state[self.param_groups[0]["params"][0]]["hook"] = print if self.state else lambda: 0
def not_a_schedule(optimizer): return 3
def falling(move): return 1 - move
"""


def table(line=0, text=""):
    """A file of 60 rows; `text` stands in one line of it."""
    lines = ["a,b,y", *(f"{i % 7},{i * 3 % 11},{i % 2}" for i in range(60)), ""]
    return "\n".join([text if i == line else kept for i, kept in enumerate(lines, 1)])


OPTIONS = {
    "loss": """per_class too_few column broadcast constant detached text nothing whole level undefined raises no_field
        weights scalar pinball Functor number absent""",
    "dataset": """float_ids one_hot column_target label_10 label_minus_1 positive_2 no_rows one_class ragged gap unequal
        cannot a_list gives_none bytes_""",
    "model": "narrow other_input colour two softmax not_a_model",
    "optim": "not_an_optimizer Asks Keeps",
    "scheduler": "not_a_schedule",
}

FILES = {
    "mine.py": CODE,
    **{f"mine/{group}/{name}.yaml": f"_target_: mine.{name}" for group in OPTIONS for name in OPTIONS[group].split()},
    "mine/optim/sparse.yaml": "_target_: torch.optim.SparseAdam",
    "mine/loss/no_module.yaml": "_target_: not_there.loss",
    "mine/loss/bad_module.yaml": "_target_: broken.loss",
    "mine/loss/no_target.yaml": "gamma: 1",
    "mine/loss/typo.yaml": "_target_: mine.pinball\nquantile: 0.9",
    "mine/loss/unknown.yaml": "_target_: mine.pinball\n1: 2",
    "mine/loss/torch_nll.yaml": "_target_: torch.nn.NLLLoss",
    "mine/loss/huber1.yaml": "_target_: torch.nn.HuberLoss",
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


# `check` refuses what `train` does; what is about a sweep concerns `train` alone.
ALIKE = re.compile(r"train (?!.*\B--?[^c\s])(?!.*--cfg|.*--config-[np]|sweep)")
CHECKED = [(row[0].replace("train", "check", 1), *row[1:]) for row in ROWS if ALIKE.match(row[0])]


@pytest.mark.parametrize(("command", "code", "message"), [*ROWS, *CHECKED], ids=[row[0] for row in [*ROWS, *CHECKED]])
def test_one_line_an_exit_code_and_nothing_left(cli, here, command, code, message):
    before = everything(here)
    found, _, err = cli(*shlex.split(command))
    wanted = re.escape(message.replace("HERE", str(here))).replace(re.escape("..."), "[^\n]+")
    assert re.fullmatch(f"lossbench: error: {wanted}\n", err), err
    assert found == int(code)
    assert everything(here) == before


def test_a_file_where_runs_should_go(cli, here):
    before = everything(here)
    code, _, err = cli("train", "output_root=good.csv")
    line = r"lossbench: error: cannot write to 'good\.csv/.*': Not a directory; output_root says where runs go\n"
    assert re.fullmatch(line, err)
    assert code == 6
    assert everything(here) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written(cli, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = cli("train", "output_root=locked")
    assert re.fullmatch(r"lossbench: error: cannot write to 'locked/.*': Permission denied; .*\n", err)
    assert code == 6


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_directory_that_holds_a_run(cli, tmp_path):
    words = ("train", "trainer.steps=1", "hydra.run.dir=mine")
    assert cli(*words)[0] == 0
    before = contents(tmp_path / "mine")
    code, _, err = cli(*words)
    assert code == 2
    assert re.fullmatch(
        r"lossbench: error: \S*mine already holds a run; resume=\S*mine goes on with it, "
        r"output_root=DIRECTORY writes elsewhere\n",
        err,
    )
    code, _, err = cli("train", "-m", "seed=0,1", "trainer.steps=1", "hydra.sweep.dir=mine")
    assert (code, err) == (
        2,
        "lossbench: error: mine holds a run; a sweep needs a directory of its own, such as sweep.name=NAME\n",
    )
    assert contents(tmp_path / "mine") == before


def test_a_cuda_device_that_is_not_there(cli, tmp_path):
    count = torch.cuda.device_count()
    code, _, err = cli("train", f"trainer.device=cuda:{count}")
    assert err.startswith(f"lossbench: error: trainer.device=cuda:{count}: this machine has {count} CUDA device")
    assert err.endswith("; use trainer.device=auto or cpu\n")
    assert code == 6
    assert everything(tmp_path) == []


def test_debug_shows_the_traceback(cli):
    code, _, err = cli("train", "--debug", "seed=x")
    assert code == 2
    assert err.startswith("Traceback")
    assert err.endswith("\nlossbench: error: seed must be a whole number, got 'x'\n")


# Whatever the values are, they are refused in one line or trained with

ODD = [0, -1, 1, 2, 0.5, 1e9, 1e-320, "nan", "inf", "-inf", "null", "true", "false", "text", "''", "'é'", "a b", "\\"]
ODD += ["[]", "[1]", "[0.5,0.9]", "[0.5,null]", "{}", "{a:1}", "${seed}", "${nothing}", "???", "balanced", "auto"]
SLOW = ("trainer.epochs", "trainer.compile", "dataset.workers", "model.hidden")


def keys():
    """Every key of the config, those below a group with its name."""

    def walk(node, prefix=""):
        for key, value in node.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")

    return sorted(set(walk(compose().plain)) - {*SLOW})


def options(group):
    return st.tuples(st.just(group), st.sampled_from([*catalog.names(group), *ODD]))


SETTINGS = st.deferred(lambda: st.tuples(st.sampled_from(keys()), st.sampled_from(ODD)))
CHOICES = st.sampled_from(catalog.GROUPS).flatmap(options)


@pytest.mark.slow
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(SETTINGS | CHOICES, max_size=3))
def test_any_override_is_refused_in_one_line_or_trained_with(cli, chosen):
    overrides = [f"{key}={value}" for key, value in chosen]
    code, _, err = cli("train", *overrides, "trainer.steps=1")
    assert code in (0, 2, 3, 4, 5, 6)
    assert re.fullmatch(r"lossbench: error: [^\n]+\n" if code else "", err)
