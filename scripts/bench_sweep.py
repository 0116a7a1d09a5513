"""Seconds per job of a sweep: the pool against Hydra's basic launcher, the joblib launcher and separate processes.

    python scripts/bench_sweep.py [--rounds 3] [--jobs 24] [--epochs 5] [--workers 2]

So many short runs on the digits: losses x rates x seeds, every way with the same jobs and one thread for each process.
Each round runs every way once, in turn, so that a machine that slows down slows them all; quote the median of the
ratios. A sweep has a process of its own, and is timed from the first job that begins to the last one that ended. What
comes before is told apart: its start, with the imports that every run needs, and that of the pool's workers (until the
first one is at work). The separate processes are whole `lossbench train` commands, as many at a time as there are
workers, and their start is in each of them. The overhead of a job is what is spent on it beyond the training itself:
the wall time of all workers, shared out over the jobs, less the `seconds` that the run recorded. Where a launcher tells
of each job by itself, a worker's time is that from its first job to the end of its last one; and the median over the
jobs of the time from beginning to end, less the same, is told as well.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

# A sweep as its own process runs it; on its last line are the moments at which the first job was handed out, and at
# which each began and ended, in seconds since the process had its imports.
TIMED = """
import json, sys, time
import sklearn.model_selection, torch
torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])  # which makes torch import its compiler
from lossbench.sweep.feed import Feed
begun = time.perf_counter()
moments = {'started': {}, 'ended': {}, 'where': {}}

def noted(name):
    method = getattr(Feed, name)
    def call(self, task, *given):
        moments[name].setdefault(str(task.path), time.perf_counter() - begun)
        if name == 'started':
            moments['where'][str(task.path)] = given[0] if given else ''
        return method(self, task, *given)
    setattr(Feed, name, call)

def first_noted():
    method = Feed.next
    def call(self):
        moments.setdefault('next', time.perf_counter() - begun)
        return method(self)
    Feed.next = call

noted('started'); noted('ended'); first_noted()
from lossbench.cli import main
main(sys.argv[1:])
print(json.dumps(moments))
"""


class Took(NamedTuple):
    """What a way of running the jobs took, in seconds.

    Attributes:
        job: wall time for each job, from the first that begins on.
        overhead: of a job, beyond the training itself; the mean.
        typical: the same, the median; NaN where nothing tells of each job.
        start: of the sweep, without imports.
        workers: until the first worker was at work.
    """

    job: float
    overhead: float
    typical: float = math.nan
    start: float = math.nan
    workers: float = math.nan


WORDS = {
    "job": "a job",
    "overhead": "overhead",
    "typical": "of the median job",
    "start": "start",
    "workers": "start of workers",
}


def settings(jobs: int, epochs: int) -> tuple[list[str], list[list[str]]]:
    """The jobs as one sweep's words, and one by one."""
    losses, rates = ("cross_entropy", "focal"), ("0.001", "0.003")
    seeds = [str(seed) for seed in range(jobs // (len(losses) * len(rates)))]
    fixed = [f"trainer.epochs={epochs}", "trainer.device=cpu"]
    swept = {"loss": losses, "optim.lr": rates, "seed": seeds}
    words = [f"{key}={','.join(values)}" for key, values in swept.items()]
    each = [[f"{k}={v}" for k, v in zip(swept, values, strict=True)] for values in product(*swept.values())]
    return [*fixed, *words], [[*fixed, *job] for job in each]


def recorded(folder: Path) -> dict[str, float]:
    """The seconds of training that each run wrote down, by its directory."""
    return {str(path.parent): json.loads(path.read_text())["seconds"] for path in folder.rglob("summary.json")}


def sweep(launcher: Sequence[str], words: Sequence[str], jobs: int, workers: int, tells: bool) -> Took:
    """A sweep with one of the launchers, which has so many workers.

    Args:
        tells: whether the launcher tells when each job begins and ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", "-m", *words, *launcher, f"output_root={folder}"]
        done = subprocess.run(
            [sys.executable, "-c", TIMED, *command], stdout=subprocess.PIPE, check=True, text=True, env=one_thread()
        )
        moments, seconds = json.loads(done.stdout.splitlines()[-1]), recorded(Path(folder))
    started, ended = moments["started"], moments["ended"]
    assert len(seconds) == len(ended) == jobs
    first = min(started.values())
    wall = max(ended.values()) - first
    each = [ended[path] - started[path] - seconds[path] for path in seconds] if tells else [math.nan]
    spent = at_work(moments) if tells else wall * workers
    overhead = (spent - sum(seconds.values())) / jobs
    return Took(wall / jobs, overhead, statistics.median(each), moments["next"], first - moments["next"])


def at_work(moments: dict[str, dict[str, Any]]) -> float:
    """The seconds of all workers, each from its first job to the end of its last one."""
    jobs: dict[str, list[str]] = {}
    for path, where in moments["where"].items():
        jobs.setdefault(where, []).append(path)
    started, ended = moments["started"], moments["ended"]
    return sum(max(ended[p] for p in paths) - min(started[p] for p in paths) for paths in jobs.values())


def separately(each: Sequence[Sequence[str]], workers: int) -> Took:
    """A command for each job, as many at a time as there are workers."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as threads:

        def run(words: Sequence[str]) -> None:
            command = [sys.executable, "-m", "lossbench", "train", *words, f"output_root={folder}"]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=one_thread())

        begun = time.perf_counter()
        list(threads.map(run, each))
        wall, seconds = time.perf_counter() - begun, recorded(Path(folder))
    assert len(seconds) == len(each)
    return Took(wall / len(each), (wall * workers - sum(seconds.values())) / len(each))


def one_thread() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=24, help="a multiple of 4")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    words, each = settings(options.jobs, options.epochs)
    n = options.workers
    launchers = {
        "pool": (["hydra/launcher=pool", f"hydra.launcher.n_workers={n}", "hydra.launcher.threads=1"], n),
        "basic": (["hydra/launcher=basic"], 1),
        "joblib": (["hydra/launcher=joblib", f"hydra.launcher.n_jobs={n}"], n),
    }
    if find_spec("hydra_plugins.hydra_joblib_launcher") is None:
        del launchers["joblib"]
    times: dict[str, list[Took]] = {name: [] for name in (*launchers, "separate")}
    for _ in range(options.rounds):
        for name, (launcher, workers) in launchers.items():
            times[name].append(sweep(launcher, words, len(each), workers, tells=name != "joblib"))
        times["separate"].append(separately(each, n))
    print(f"{len(each)} jobs of {options.epochs} epochs, {n} workers, {os.cpu_count()} cores, {options.rounds} rounds")
    for name, took in times.items():
        found = {field: statistics.median(getattr(t, field) for t in took) for field in Took._fields}
        said = [f"{words} {found[field]:.3f} s" for field, words in WORDS.items() if not math.isnan(found[field])]
        print(f"{name:9} {', '.join(said)}")
    wanted = {"basic": "; wanted at most 0.6", "separate": "; wanted at most 0.2"}
    for name in times.keys() - {"pool"}:
        ratios = sorted(ours.job / theirs.job for ours, theirs in zip(times["pool"], times[name], strict=True))
        print(
            f"pool / {name}: median {statistics.median(ratios):.3f} "
            f"(min {ratios[0]:.3f}, max {ratios[-1]:.3f}{wanted.get(name, '')})"
        )
    print("wanted of the pool: an overhead of less than 0.1 s")


if __name__ == "__main__":
    main()
