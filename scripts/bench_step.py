"""Cost of a training step: lossbench with everything on, against a tutorial loop and a bare loop, in one process.

    python scripts/bench_step.py [--rounds 9] [--steps 1000] [--threads 1] [--device cpu] [--memory] [--checkpoints]
                                 [--optimizers [NAME ...]]

Digits, MLP 64-128-10, batch 64, AdamW, gradient clipping. Every loop gets the same work in turn, round after round, so
that a machine that slows down slows them all; quote the median of the ratios. Also measures whether memory grows, and,
with --optimizers, the engine's step with each optimizer in ratio to a bare step with the same one.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from lossbench.build import Run, build
from lossbench.catalog import names
from lossbench.compose import compose
from lossbench.engine import Checkpoints, train
from lossbench.observe.csv_files import CsvFiles
from lossbench.observe.recorder import DeviceRecorder
from lossbench.observe.tensorboard import TensorBoard
from lossbench.run import execute
from lossbench.summary import hparams

BATCH, CLIP = 64, 1.0


def fresh(steps: int, device: str, *overrides: str) -> Run:
    """A run of the benchmark's problem, built and ready."""
    fixed = (
        f"trainer.steps={steps}",
        f"trainer.device={device}",
        f"trainer.clip_norm={CLIP}",
        "trainer.precision=fp32",
        "model.hidden=[128]",
    )
    return build(compose(*fixed, f"trainer.eval_every={steps}", *overrides))


def tutorial(run: Run, steps: int, folder: Path) -> None:
    """What a tutorial shows: a DataLoader, loss.item() and add_scalar at every step."""
    inputs, target, model = run.data.train.inputs, run.data.train.target, run.player.model
    loader = DataLoader(TensorDataset(inputs.cpu(), target.cpu()), batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    writer = SummaryWriter(str(folder))
    step = 0
    while step < steps:
        for x, y in loader:
            x, y = x.to(run.device), y.to(run.device)
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            writer.add_scalar("train/loss", loss.item(), step)
            step += 1
            if step == steps:
                break
    writer.close()


def bare(run: Run, steps: int, folder: Path) -> None:
    """The least that trains: tensors indexed in memory, clipping, the run's own optimizer; no records, no guard."""
    inputs, target, model = run.data.train.inputs, run.data.train.target, run.player.model
    optimizers, parameters = run.player.optimizers, list(model.parameters())
    searches = optimizers[0].step if isinstance(optimizers[0], torch.optim.LBFGS) else None
    step = 0
    while step < steps:
        for index in torch.randperm(len(target), device=run.device).split(BATCH):

            def closure(index: torch.Tensor = index) -> torch.Tensor:
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss = F.cross_entropy(model(inputs[index]), target[index])
                loss.backward()
                return loss

            if searches:
                searches(closure)
            else:
                closure()
                nn.utils.clip_grad_norm_(parameters, CLIP)
                for optimizer in optimizers:
                    optimizer.step()
            step += 1
            if step == steps:
                break


def engine(run: Run, steps: int, folder: Path) -> None:
    """lossbench: every loss, rate and norm to TensorBoard and CSV, the guard, clipping, an evaluation at the end."""
    sinks = [CsvFiles(folder), TensorBoard(folder, hparams(run.config), [])]
    recorder = DeviceRecorder(sinks, device=run.device)
    train(run.player, run.batches, run.length, run.evaluation, recorder, run.best)
    recorder.close()


def microseconds(loop: Callable[[Run, int, Path], None], steps: int, device: str, *overrides: str) -> float:
    """Per step, without building the run."""
    run = fresh(steps, device, *overrides)
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()
        start = time.perf_counter()
        loop(run, steps, Path(folder))
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / steps * 1e6


def checkpoints(rounds: int, device: str) -> None:
    """A whole digits run, 30 epochs, from the built run to its summary: with checkpoints, in ratio to one without."""
    kinds = {
        "none": ("null", False),
        "auto (the default)": ("auto", True),
        "every epoch": ("epoch", True),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    save = Checkpoints.save
    for round_ in range(rounds + 1):
        for kind, (every, saves) in kinds.items():
            Checkpoints.save = save if saves else lambda *_: None  # type: ignore[method-assign]
            run = build(compose(f"trainer.device={device}", f"trainer.checkpoint.every={every}"))
            with tempfile.TemporaryDirectory() as folder:
                gc.collect()
                start = time.perf_counter()
                execute(run, Path(folder) / "run", [], brief=True)
                if round_:
                    times[kind].append(time.perf_counter() - start)
    Checkpoints.save = save  # type: ignore[method-assign]
    for kind, values in times.items():
        ratios = sorted(a / b for a, b in zip(values, times["none"], strict=True))
        print(f"checkpoints {kind}: {statistics.median(values):.3f} s, ratio {statistics.median(ratios):.3f}")


def optimizers(names: Sequence[str], rounds: int, steps: int, device: str) -> None:
    """Of each optimizer, the engine's step in ratio to a bare step."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for round_ in range(rounds + 1):
        for name in names:
            searches = name == "lbfgs"  # it evaluates up to 25 times in a step, and does not go with clipping
            words = [f"optim={name}", *(["trainer.clip_norm=null"] if searches else [])]
            n = max(1, steps // 20) if searches else steps
            took = microseconds(bare, n, device, *words), microseconds(engine, n, device, *words)
            if round_:
                found[name].append(took)
    for name, pairs in found.items():
        ratios = sorted(ours / theirs for theirs, ours in pairs)
        theirs, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{name:12} bare {theirs:8.0f} us, engine {ours:8.0f} us, ratio {statistics.median(ratios):.3f} "
            f"(min {ratios[0]:.3f}, max {ratios[-1]:.3f}; wanted at most 1.15)"
        )


def resident() -> float:
    """This process's memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory(device: str) -> None:
    """Memory after 1,000 and after 100,000 steps of one run, from inside the run."""
    seen: dict[int, float] = {}

    class Watch:
        def steps(self, rows: object) -> None:
            step = rows[-1].step  # type: ignore[index]
            if step in (1_000, 10_000, 100_000):
                gc.collect()
                seen[step] = resident()

        def evaluated(self, *_: object) -> None: ...
        def close(self) -> None: ...

    run = fresh(100_000, device)
    with tempfile.TemporaryDirectory() as folder:
        sinks = [CsvFiles(Path(folder)), TensorBoard(Path(folder), hparams(run.config), []), Watch()]
        recorder = DeviceRecorder(sinks, device=run.device)
        train(run.player, run.batches, run.length, run.evaluation, recorder, run.best)
        recorder.close()
    print("memory in MiB after steps: " + ", ".join(f"{step:,}: {mib:.1f}" for step, mib in seen.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="also train 100,000 steps and watch the memory")
    parser.add_argument("--checkpoints", action="store_true", help="also time a whole run with and without them")
    parser.add_argument("--optimizers", nargs="*", metavar="NAME", help="only these; without names, every one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), {options.rounds} rounds")
    if options.optimizers is not None:
        optimizers(options.optimizers or names("optim"), options.rounds, options.steps, options.device)
        return
    loops: dict[str, tuple[Callable[[Run, int, Path], None], tuple[str, ...]]] = {
        "tutorial": (tutorial, ()),
        "bare": (bare, ()),
        "engine": (engine, ()),
        "engine, no guard": (engine, ("trainer.nonfinite=off",)),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(options.rounds + 1):  # the first warms up
        for name, (loop, overrides) in loops.items():
            took = microseconds(loop, options.steps, options.device, *overrides)
            if round_:
                times[name].append(took)
    for name, values in times.items():
        print(f"{name:18} {statistics.median(values):8.0f} us a step")
    for name, base, limit in (
        ("engine", "tutorial", 0.65),
        ("engine", "bare", 1.15),
        ("engine", "engine, no guard", 1.03),
    ):
        ratios = sorted(a / b for a, b in zip(times[name], times[base], strict=True))
        print(
            f"{name} / {base}: median {statistics.median(ratios):.3f} "
            f"(min {ratios[0]:.3f}, max {ratios[-1]:.3f}; wanted at most {limit})"
        )
    if options.checkpoints:
        checkpoints(options.rounds, options.device)
    if options.memory:
        memory(options.device)


if __name__ == "__main__":
    main()
