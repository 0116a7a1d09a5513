"""What is recorded of a whole run: `summary.json`, and the settings of TensorBoard's HPARAMS tab."""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from lossbench import __version__
from lossbench.build import Run
from lossbench.config import Config, no_matter
from lossbench.engine import Averaged, Best, Metrics
from lossbench.engine.range_rule import RangeTest
from lossbench.group_facts import at_the_end
from lossbench.monitor import directions_of
from lossbench.observe.recorder import DeviceRecorder
from lossbench.observe.run_dir import Status
from lossbench.rates import facts_of
from lossbench.report.runs import GROUPS


def summarise(run: Run, recorder: DeviceRecorder, status: Status, metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    """What `summary.json` holds."""
    config, last = run.config, recorder.last
    steps = last.step if last else 0
    examples = steps / run.batches.steps_per_epoch * run.batches.examples_per_epoch
    return {
        "name": config.name,
        "status": status,
        "metrics": metrics,
        "best": _of_best(run.best),
        "averaged": _of_average(run.averaged) if run.averaged else None,
        "steps": steps,
        "epochs": last.epoch if last else 0,
        "seconds": recorder.seconds,
        "examples_per_second": examples / recorder.seconds,
        "skipped_steps": sum(recorder.skipped.values()),
        "skipped": dict(recorder.skipped),
        "rollbacks": run.player.guard.rollbacks,
        "groups": at_the_end(run.groups, run.player.columns, last),
        **found_lr(config.found_lr),
        "parameters": sum(p.numel() for p in run.player.parameters),
        "device": _device_name(run.device),
        "precision": run.precision,
        "seed": config.root.seed,
        "choices": config.choices,
        **identity(config),
        "directions": directions_of(config, run.player.task),
        "versions": {"lossbench": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
        "git_commit": _git_commit(),
    }


def _of_best(best: Best) -> dict[str, Any]:
    return {"step": best.step, "epoch": best.epoch, "metric": best.metric, "value": best.value}


def _of_average(averaged: Averaged) -> dict[str, Any]:
    """An average's best evaluation, and how often it moved in the run."""
    average = averaged.average
    return {"kind": average.kind, **_of_best(averaged.best), "updates": average.updates}


def found_lr(found: RangeTest | None) -> dict[str, Any]:
    """How `optim.lr=auto` was found, for the record; nothing where it was a number."""
    return {} if found is None else {"found_lr": facts_of(found)}


def identity(config: Config) -> dict[str, Any]:
    """By what a run is known again and told from others, whatever becomes of it."""
    found = settings_of(config).items()
    settings = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in found}  # not null
    return {"config_hash": config.hash, "settings": settings}


def settings_of(config: Config) -> dict[str, Any]:
    """Every setting that can change a result by its key, and by each group's name what is chosen there.

    Interpolations are as they were typed: what they stand for may be a secret of the environment.
    """
    found: dict[str, Any] = {name: config.choices.get(name, name) for name in GROUPS}
    for key, value in config.typed.items():
        found |= _flat(key, value) if isinstance(value, Mapping) else {key: value}
    return {key: value for key, value in found.items() if not no_matter(key)}


def hparams(config: Config) -> dict[str, Any]:
    """What the HPARAMS tab shows: the settings, with the rate that was found, and the name of each loss in the loss."""
    rate = {} if config.found_lr is None else {"optim.lr": config.found_lr.suggested}
    return settings_of(config) | rate | {loss.path: loss.name for loss in config.loss.inner()}


def _flat(path: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their config keys, those of a loss's terms too; what they call goes without saying."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(f"{path}.{key}", value)
        elif key != "_target_":
            found[f"{path}.{key}"] = value
    return found


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


@cache
def _git_commit() -> str | None:
    """The commit of the current directory's checkout, if it is one, when the process first asks."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
