"""What every test has: one thread, and a command line that is called in this process."""

import logging
import os
import sys

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads it when it is imported, and tensors this small gain nothing from more
os.environ["LOSSBENCH_LAUNCHER"] = "basic"  # workers start slowly; tests of the pool ask for it


@pytest.fixture
def cli(capsys, monkeypatch, tmp_path):
    """Calls `lossbench WORDS` in an empty directory; returns the exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # the command sets these three; put them back afterwards
    monkeypatch.setattr(sys, "argv", ["lossbench"])
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*words):
        from lossbench.cli import main

        try:
            main(words)
            code = 0
        except SystemExit as left:
            code = left.code or 0
        return code, *capsys.readouterr()

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield run
    root.handlers[:] = handlers  # `--info` adds one that writes to what is stdout now
    root.setLevel(level)
    own = f"{tmp_path}{os.sep}"
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(own):
            del sys.modules[name]


@pytest.fixture(scope="session")
def wanted(tmp_path_factory):
    """The directory of a run's records that was never interrupted; it is only read."""
    from recorded import whole_run

    return whole_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="session")
def killed(tmp_path_factory):
    """The same, killed a few steps after its last checkpoint."""
    from recorded import killed_run

    return killed_run(tmp_path_factory.mktemp("killed") / "run")


@pytest.fixture
def g():
    """A generator of random numbers for a test's own data."""
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def logits(g):  # (40, 5)
    import torch

    return 3 * torch.randn(40, 5, generator=g, dtype=torch.float64)


@pytest.fixture
def labels(g):  # (40,)
    import torch

    return torch.randint(5, (40,), generator=g)
