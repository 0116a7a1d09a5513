"""Every command in the README is run, with the files that it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_iris

from lossbench.cli import main

README = (Path(__file__).parents[1] / "README.md").read_text()
CI = (Path(__file__).parents[1] / ".ci" / "run").read_text()
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", README, re.S)]
COMMANDS = [line for block in BLOCKS for line in block]
FILES = re.findall(r"`(my_\S+)`:\n\n```(?:python|yaml)\n(.*?)```", README, re.S)
PYTHON = [code for code in re.findall(r"```python\n(.*?)```", README, re.S) if "import" in code]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A directory with the files that the README shows, and the table that it speaks of."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    iris = load_iris()
    lines = [",".join([*map(str, row), iris.target_names[k]]) for row, k in zip(iris.data, iris.target, strict=True)]
    digits = load_digits()
    np.save(tmp_path / "images.npy", digits.images[:5, None] / 16)
    np.savez(tmp_path / "digits.npz", x=digits.images.astype(np.uint8), y=digits.target)
    pq.write_table(pa.table({"a": iris.data[:, 0], "species": iris.target_names[iris.target]}), "flowers.parquet")
    for i in range(120):
        place = tmp_path / "pictures" / str(digits.target[i])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(place / f"{i}.png")
    (tmp_path / "flowers.csv").write_text("\n".join(["a,b,c,d,species", *lines]))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block[0].startswith("lossbench")], ids=lambda b: b[0])
def test_commands(block, desk, monkeypatch):
    """One after the other, as they stand in their block."""
    for command in block:
        words = shlex.split(command)
        monkeypatch.setattr("sys.argv", words)
        try:
            main()
        except SystemExit as end:
            assert end.code in (0, None), command  # noqa: PT017


def test_the_other_commands_are_known():
    """The two for a fresh machine are run by CI, word for word; TensorBoard reads what tests/test_records.py reads."""
    others = [c for c in COMMANDS if not c.startswith("lossbench")]
    installs = [c for c in others if c.startswith("python3 -m venv")]
    assert [c for c in others if c not in installs] == ["tensorboard --logdir outputs"]
    patterns = re.findall(r"^readme '(.*)'$", CI, re.M)
    assert len(installs) == len(patterns) == 2
    first = [next(line for line in README.splitlines() if re.search(p, line)) for p in patterns]
    assert first == installs


def test_the_files_are_found():
    assert [name for name, _ in FILES] == [
        "my_conf/optim/lion.yaml",
        "my_conf/optim/schedule_free.yaml",
        "my_losses.py",
        "my_conf/loss/asymmetric_mse.yaml",
        "my_conf/loss/torch_smooth_l1.yaml",
    ]


@pytest.mark.parametrize("code", PYTHON)
def test_python(code):
    names = {}
    exec(code, names)
    assert names["loss"].dim() == 0
