"""Time to the first training step of `lossbench train`, against the imports that no such program can do without.

    python scripts/bench_start.py [--rounds 7]

Each round starts fresh processes in turn: the imports alone (torch, hydra, sklearn.datasets), the imports with the
first optimizer (which makes torch import its compiler), `lossbench train` until its first step begins, and
`lossbench --help` and `lossbench list losses` whole. Times are wall seconds since the process was asked for.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time

IMPORTS = "import torch, hydra, sklearn.datasets"
OPTIMIZER = f"{IMPORTS}; torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])"
FIRST_STEP = """
import os, sys
from lossbench.cli import main
import importlib.abc, importlib.machinery

class Stop(importlib.abc.MetaPathFinder):
    '''Leaves at the first step, without importing the engine any earlier than the program itself does.'''
    def find_spec(self, name, path, target=None):
        if name != 'lossbench.engine.step':
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            module.Player.step = lambda *_: os._exit(0)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Stop())
main(['train', 'loss=focal', 'optim=adamw', f'output_root={sys.argv[1]}'])
"""


def seconds(*arguments: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments, folder], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    commands = {
        "imports": ("-c", IMPORTS),
        "imports and an optimizer": ("-c", OPTIMIZER),
        "lossbench train, first step": ("-c", FIRST_STEP),
        "lossbench --help": ("-c", "from lossbench.cli import main; main(['--help'])"),
        "lossbench list losses": ("-c", "from lossbench.cli import main; main(['list', 'losses'])"),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(rounds + 1):  # the first warms the disk's cache
        for name, arguments in commands.items():
            took = seconds(*arguments)
            if round_:
                times[name].append(took)
    for name, values in times.items():
        print(f"{name:28} {statistics.median(values):6.2f} s")
    for base in ("imports", "imports and an optimizer"):
        extra = [a - b for a, b in zip(times["lossbench train, first step"], times[base], strict=True)]
        print(f"first step after {base}: + {statistics.median(extra):.2f} s")


if __name__ == "__main__":
    main()
