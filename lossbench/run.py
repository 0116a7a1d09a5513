"""One run from start to end: train, measure the best weights, write down what happened."""

from __future__ import annotations

import platform
import subprocess
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch

from lossbench import __version__
from lossbench.build import Run
from lossbench.config import Config
from lossbench.engine import Metrics, train
from lossbench.errors import Diverged, LossbenchError, first_line
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
    directory = RunDirectory(path)
    flush_every = run.config.trainer.flush_every
    status: Status = "failed"
    ended: dict[str, object] = {}
    try:
        directory.config(run.config.text, list(overrides))
        with closing(DeviceRecorder([directory], device=run.device, flush_every=flush_every)) as recorder:
            board = recorder.add(_board(run, path))
            recorder.add(CsvFiles(path))
            recorder.add(_screen(run, brief))
            try:
                reason = train(run.player, run.batches, run.length, run.evaluation, recorder, run.best)
                status, ended = "completed", {"reason": reason}
            except Diverged as error:
                status, ended = "diverged", {"error": str(error)}
            board.status = status
            metrics = final_metrics(run)
            summary = summarise(run, recorder, status, metrics) | ended
            if metrics:  # both of the best weights: `val/...` is a curve, and its last point is not the best one
                board.evaluated(summary["steps"], summary["epochs"], {"best": metrics["val"], "test": metrics["test"]})
            directory.summary(summary)
        return summary
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    except LossbenchError as error:
        status, ended = "failed", {"error": first_line(error)}
        raise
    except BaseException as error:
        status, ended = "failed", {"error": first_line(error)}
        with suppress(OSError):
            directory.log(traceback.format_exc())
        raise
    finally:
        with suppress(OSError):
            directory.status(status, **ended)


def _board(run: Run, path: Path) -> TensorBoard:
    task, scaled = run.player.task, run.player.scale.enabled
    compared = [f"{kind}/{name}" for kind in ("best", "test") for name in task.directions]
    return TensorBoard(path, hparams(run.config), compared, scaled=scaled)


def _screen(run: Run, brief: bool) -> Screen:
    trainer = run.config.trainer
    return Screen(
        steps=run.length.steps,
        epochs=-(-run.length.steps // run.batches.steps_per_epoch),
        monitor=run.best.metric,
        batch_size=trainer.batch_size * trainer.accumulate,
        brief=brief,
    )


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
    """What the HPARAMS tab shows: choices, seed and rate, and the settings of each, under their config keys.

    Interpolations are shown as they were typed: what they stand for may be a secret of the environment.
    """
    named = ("loss", "optim", "scheduler", "model", "dataset")
    found: dict[str, Any] = {name: config.choices.get(name, name) for name in named}
    found["seed"] = config.root.seed
    found["optim.lr"] = config.typed["optim"].get("lr")
    for group in ("loss", "optim", "scheduler", "model", "trainer"):
        for key, value in config.typed[group].items():
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
