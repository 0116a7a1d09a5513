"""Imports point one way, and what must start fast imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lossbench"

# Each part, and the parts of lossbench that it may import beside itself.
MAY = {
    "losses": set(),
    "models": {"errors"},
    "tasks": set(),
    "data": {"errors", "seeds", "tasks"},
    "optim": {"errors"},
    "engine": {"data", "errors", "optim", "tasks"},
    "observe": {"console", "engine.record", "errors"},
    "signatures": {"errors"},
    "catalog": {"errors"},
    "errors": set(),
    "seeds": set(),
}
HEAVY = {"torch", "hydra", "omegaconf", "sklearn", "scipy", "matplotlib", "tensorboard", "torchvision"}


def imports(path, *, top_level=False):
    """The modules that a file imports, everywhere or at its top level only."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "lossbench":
                yield from (f"lossbench.{alias.name}" for alias in node.names)


def files(part):
    found = PACKAGE / f"{part}.py"
    return [found] if found.exists() else sorted((PACKAGE / part).glob("*.py"))


@pytest.mark.parametrize("part", MAY)
def test_a_part_imports_only_what_lies_below_it(part):
    allowed = {"lossbench", f"lossbench.{part}", *(f"lossbench.{name}" for name in MAY[part])}
    for path in files(part):
        for name in imports(path):
            if name.startswith("lossbench"):
                assert any(name == a or (a != "lossbench" and name.startswith(f"{a}.")) for a in allowed), (path.name, name)


def test_losses_need_torch_and_nothing_else():
    for path in files("losses"):
        foreign = {name.partition(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
        assert foreign <= {"torch", "lossbench"}, path.name


def test_nothing_imports_the_command_line():
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__main__.py":
            assert "lossbench.cli" not in set(imports(path)), path.name


@pytest.mark.parametrize("name", ["cli", "catalog", "listing", "completion", "console", "errors"])
def test_light_modules_import_nothing_heavy(name):
    found = {module.partition(".")[0] for module in imports(PACKAGE / f"{name}.py", top_level=True)}
    assert not found & HEAVY


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list"], ["list", "losses"]])
def test_help_and_list_start_without_torch_or_hydra(words):
    code = f"import sys; from lossbench.cli import main; main({words!r}); print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
