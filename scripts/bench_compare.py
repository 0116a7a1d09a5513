"""How long `lossbench compare` takes for a sweep of 10,000 runs.

    python scripts/bench_compare.py [--runs 10000] [--arms 20] [--rounds 3]

Trains one short run, and writes its records again and again with other settings, seeds and metrics: a sweep of that
many runs over so many arms, which is then read as a sweep and as a folder of runs. Times are wall seconds of fresh
processes, medians over rounds, with the records in the disk's cache.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "from lossbench.cli import main; main()"]


def one_run(path: Path) -> None:
    """A real run's directory."""
    words = ["train", "trainer.epochs=2", "loss=focal", f"hydra.run.dir={path}"]
    subprocess.run([*COMMAND, *words], stdout=subprocess.DEVNULL, check=True)


def many(real: Path, sweep: Path, runs: int, arms: int) -> None:
    """A sweep of runs like the real one: rates are its arms, each with its own seeds."""
    summary, status = (json.loads((real / name).read_text()) for name in ("summary.json", "status.json"))
    noise, jobs = random.Random(0), []
    for number in range(runs):
        settings = {**summary["settings"], "optim.lr": 1e-3 * (1 + number % arms), "seed": number // arms}
        facts = {"settings": settings, "config_hash": f"{number:064x}"}
        value = 0.9 + 0.01 * noise.random() + 0.0001 * (number % arms)
        metrics = {split: {**found, "accuracy": value} for split, found in summary["metrics"].items()}
        path = sweep / f"{number}-job"
        path.mkdir(parents=True)
        (path / "summary.json").write_text(json.dumps({**summary, **facts, "metrics": metrics}, indent=2))
        (path / "status.json").write_text(json.dumps({**status, **facts}, indent=2))
        (path / "evals.csv").write_bytes((real / "evals.csv").read_bytes())
        jobs.append(
            {"hash": facts["config_hash"], "number": number, "name": "job", "phase": "", "directory": path.name}
        )
    (sweep / "sweep.json").write_text(json.dumps({"version": 1, "jobs": jobs}))


def seconds(*words: str) -> float:
    start = time.perf_counter()
    subprocess.run([*COMMAND, "compare", *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--arms", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        real, sweep = Path(folder) / "real", Path(folder) / "many" / "sweep"
        one_run(real)
        many(real, sweep, asked.runs, asked.arms)
        cases = {"one run": [str(real)], "a sweep": [str(sweep)], "with a target": [str(sweep), "--target", "0.9"]}
        for name, words in cases.items():
            times = [seconds(*words) for _ in range(asked.rounds + 1)][1:]  # the first warms the disk's cache
            print(f"{name:24} {statistics.median(times):6.2f} s")
        (sweep / "sweep.json").unlink()
        times = [seconds(str(sweep.parent)) for _ in range(asked.rounds + 1)][1:]
        print(f"{'a folder of runs':24} {statistics.median(times):6.2f} s")


if __name__ == "__main__":
    main()
