"""Imports point one way, and what a command does not need it does not import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lossbench

PACKAGE = Path(lossbench.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported(module, *, anywhere=True):
    """The dotted names that a module imports: our own without `lossbench.`, and others by their first word."""
    tree = ast.parse(MODULES[module].read_text())
    names = set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= whole if node.module == "lossbench" else {node.module}
    own = {name.removeprefix("lossbench.") for name in names if name.startswith("lossbench")}
    return own - {"lossbench", "__version__"} | {name.partition(".")[0] for name in names if name[:9] != "lossbench"}


def within(package):
    return [module for module in MODULES if module == package or module.startswith(f"{package}.")]


def third_party(names):
    return {name for name in names if name not in sys.stdlib_module_names and not own(name)}


def own(name):
    return name in MODULES


# What each part may import of the rest; itself, errors and seeds apart. Who is not here may import anything but cli.
BELOW = {
    "losses": (),
    "models": (),
    "tasks": ("losses.shape",),
    "data": ("tasks",),
    "optim": (),
    "engine": ("data", "losses", "optim", "tasks"),
    "observe": ("engine.record", "console"),
    "report": ("observe.replacing", "console"),
    "signatures": (),
    "catalog": (),
    "naming": (),
    "console": (),
    "errors": (),
    "seeds": (),
    "listing": ("catalog", "console", "optim", "signatures"),
    "flags": (),
    "stopping": (),
    "commands.usage": (),
    "completion": ("catalog", "commands.usage", "flags", "naming", "signatures", "sweep.expand", "sweep.options"),
    "sweep.options": ("signatures",),
    "sweep.expand": ("catalog",),
    "sweep": (
        *("app", "build", "catalog", "compose", "config", "console", "data", "device", "engine.restore"),
        *("hydra_errors", "monitor", "naming", "observe", "rates", "report", "resume", "run", "saved", "signatures"),
        *("stopping", "summary", "tasks"),
    ),
    "cli": ("app", "commands", "completion", "hydra_errors", "listing", "stopping"),
}


@pytest.mark.parametrize("part", BELOW)
def test_each_part_imports_only_what_is_below_it(part):
    for module in within(part):
        for name in filter(own, imported(module)):
            allowed = (part, *BELOW[part], "errors", "seeds")
            assert any(name == a or name.startswith(f"{a}.") for a in allowed), f"{module} imports {name}"


def test_a_package_of_sweeps_pulls_in_none_of_its_modules():
    assert imported("sweep") == set()


def test_every_part_exists_and_none_imports_the_command_line_but_main():
    assert all(map(within, BELOW))
    assert [module for module in MODULES if "cli" in imported(module)] == ["__main__"]


@pytest.mark.parametrize("module", within("losses"))
def test_losses_need_torch_and_nothing_else(module):
    names = imported(module)
    assert third_party(names) <= {"torch"}
    assert all(name.partition(".")[0] == "losses" for name in filter(own, names))


LIGHT = ["__init__", "cli", "catalog", "listing", "completion", "flags", "errors", "naming", "console"]
LIGHT += ["commands", "commands.usage"]


@pytest.mark.parametrize("module", LIGHT)
def test_what_the_light_commands_import_is_light(module):
    """At the top of the file, that is; OmegaConf is light, and Rich is needed to print."""
    assert third_party(imported(module, anywhere=False)) <= {"omegaconf", "rich"}


def test_help_and_list_import_neither_torch_nor_hydra():
    code = """
import sys
from lossbench.cli import main
from lossbench.commands.usage import USAGES
main(["--help"])
main(["--version"])
main(["list"])
main(["show", "trainer=default"])
main(["completion", "query", "lossbench list "])
main(["completion", "query", "lossbench evaluate --"])
for command in USAGES:
    main([command, "--help"])
print(sorted({"torch", "hydra", "numpy", "sklearn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "cross_entropy" in done.stdout
    assert done.stderr == ""
