"""One run from start to end: train, measure the best weights, write down what happened."""

from __future__ import annotations

import platform
import subprocess
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lossbench import __version__
from lossbench.build import Run
from lossbench.config import Config
from lossbench.engine import Metrics, train
from lossbench.errors import Diverged
from lossbench.observe.csv_files import CsvFiles
from lossbench.observe.recorder import DeviceRecorder
from lossbench.observe.run_dir import RunDirectory, Status
from lossbench.observe.screen import Screen
from lossbench.observe.tensorboard import TensorBoard


def execute(run: Run, path: Path, overrides: Sequence[str], *, brief: bool = False) -> dict[str, Any]:
    """Train in the directory `path` and leave there all that the README's table of files names.

    Args:
        overrides: how the config was asked for, for the record.
        brief: one of many runs: its progress bar goes away, and it prints no lines.

    Returns:
        The summary, as in `summary.json`. A diverged run has one too, of its best weights before.

    Raises:
        ResourceError: the directory cannot be written.
    """
    config, p = run.config, run.player
    directory = RunDirectory(path)
    directory.config(config.text, list(overrides))
    compared = [f"{kind}/{name}" for kind in ("best", "test") for name in p.task.directions]
    board = TensorBoard(path, hparams(config), compared, scaled=p.scale.enabled)
    steps = run.length.steps
    per_epoch = run.batches.steps_per_epoch
    examples = config.trainer.batch_size * config.trainer.accumulate
    screen = Screen(
        steps=steps,
        epochs=-(-steps // per_epoch),
        monitor=run.best.metric,
        batch_size=examples,
        brief=brief,
    )
    recorder = DeviceRecorder(
        [CsvFiles(path), board, directory, screen], device=run.device, flush_every=config.trainer.flush_every
    )
    status: Status = "failed"
    summary = None
    ended: dict[str, object] = {}
    try:
        try:
            outcome = train(p, run.batches, run.length, run.evaluation, recorder, run.best)
            status, ended = "completed", {"reason": outcome.reason}
        except Diverged as error:
            status, ended = "diverged", {"error": str(error)}
        recorder.flush()
        metrics = final_metrics(run)
        summary = summarise(run, recorder, status, metrics) | ended
        if metrics:  # both of the best weights: `val/...` is a curve, and its last point is not the best one
            board.evaluated(summary["steps"], summary["epochs"], {"best": metrics["val"], "test": metrics["test"]})
        directory.summary(summary)
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except Exception as error:
        status, ended = "failed", {"error": str(error)}
        directory.log(traceback.format_exc())
        raise
    finally:
        board.finish(status)
        recorder.close()
        directory.status(status, **ended)
    return summary


def final_metrics(run: Run) -> dict[str, Metrics]:
    """Each split's metrics with the best weights; none where no evaluation came to pass."""
    if not run.best.weights:
        return {}
    run.best.restore()
    splits = {"train": run.data.train, "val": run.data.val, "test": run.data.test}
    return {name: run.evaluate(split) for name, split in splits.items()}


def summarise(run: Run, recorder: DeviceRecorder, status: Status, metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    """What `summary.json` holds."""
    config, best, last = run.config, run.best, recorder.last
    steps = last.step if last else 0
    examples = steps / run.batches.steps_per_epoch * run.batches.examples_per_epoch
    return {
        "name": config.name,
        "status": status,
        "metrics": metrics,
        "best": {"step": best.step, "epoch": best.epoch, "metric": best.metric, "value": best.value},
        "steps": steps,
        "epochs": last.epoch if last else 0,
        "seconds": recorder.seconds,
        "examples_per_second": examples / recorder.seconds,
        "skipped_steps": recorder.skipped,
        "parameters": sum(p.numel() for p in run.player.parameters),
        "device": _device_name(run.device),
        "precision": run.precision,
        "seed": config.root.seed,
        "choices": config.choices,
        "config_hash": config.hash,
        "versions": {"lossbench": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def hparams(config: Config) -> dict[str, Any]:
    """What the HPARAMS tab shows: choices, seed and rate first, then the settings of each, under their config keys."""
    named = ("loss", "optim", "scheduler", "model", "dataset")
    found: dict[str, Any] = {name: config.choices.get(name, name) for name in named}
    found["seed"] = config.root.seed
    found["optim.lr"] = config.plain["optim"].get("lr")
    for group in ("loss", "optim", "scheduler", "model", "trainer"):
        for key, value in config.plain[group].items():
            if key != "_target_":
                found[f"{group}.{key}"] = value
    return found


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def _git_commit() -> str | None:
    """The commit of the current directory's checkout, if it is one."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
