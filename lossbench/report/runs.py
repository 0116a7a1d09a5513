"""Runs as their directories record them: of a sweep, of a folder of runs, or one. Torch is not needed."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossbench.errors import ConfigError, plural, printable

GROUPS = ("loss", "optim", "scheduler", "model", "dataset")  # what is chosen there is a setting of the group's name
_ENDED = ("completed", "diverged", "failed")
_STALE = 60.0  # seconds after which a heartbeat says nothing; a run that goes on has one about every 10
_LEFT_OUT = {
    "running": "left out, still running: {}",
    "interrupted": "left out, interrupted: {}",
    "waiting": "left out, not begun yet: {}",
    "pruned": "left out, ended early by a search: {}",
    "former": "left out, not of the sweep's last call: {}",
    "unknown": "left out, with no record of their settings: {}",
    "older": "left out, of an older version that recorded choices and the seed alone: {}",
}
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Run:
    """How a run ended.

    Attributes:
        status: completed, diverged or failed.
        hash: equal for runs that must give equal results; empty where it is not recorded.
        settings: by key.
        complete: whether all settings are there; of runs of older versions only choices and the seed are.
        metrics: of each split, by name; None for what is not finite.
        monitor: the metric that chose the best weights, if one was measured.
        directions: each metric's better direction, `max` or `min`.
        seconds: of training, in which `steps` were made; None where that is not recorded, as of a failed run.
        ended: when, in seconds since 1970.
    """

    path: Path
    status: str
    hash: str
    settings: Mapping[str, Any]
    complete: bool
    metrics: Mapping[str, Mapping[str, float | None]]
    monitor: str | None
    directions: Mapping[str, str]
    seconds: float | None
    steps: int
    ended: float


@dataclass(frozen=True)
class Found:
    """The runs that have ended, and what is to be said of those that are left out.

    Attributes:
        arms: the keys by which the fair sweeps among them set arms apart, whatever else was tuned.
        metric: the one that is compared, where all are of sweeps that name the same one.
        is_fair: whether all are of fair sweeps.
        is_search: whether some are trials of a search.
    """

    runs: list[Run]
    notes: list[str]
    arms: Sequence[str] = ()
    metric: str | None = None
    is_fair: bool = False
    is_search: bool = False


@dataclass(frozen=True)
class _Sweep:
    """What `sweep.json` says of all its runs; that of a run by itself says nothing."""

    arms: Sequence[str] | None = None
    metric: str | None = None
    is_search: bool = False


def read_runs(paths: Sequence[Path]) -> Found:
    """The runs of sweeps, of folders and by themselves, each once.

    Of a sweep, those that `sweep.json` names; of one in phases only those of the phase `final`. Left out are trials
    that a search ended early, and, beside others, runs of older versions, of which not all settings are known.

    Raises:
        ConfigError: a path is no directory, or nothing in the paths has ended.
    """
    runs: dict[tuple[int, int], Run] = {}
    left: Counter[str] = Counter()
    damaged: list[Path] = []
    for path in paths:
        if not path.is_dir():
            what = f"'{path}' is no directory" if path.exists() else f"there is no directory '{path}'"
            raise ConfigError(f"{what}; name that of a sweep or a run")
        for directory, kind in _directories(path):
            found = _read(directory) if kind == "run" else kind
            if isinstance(found, Run):
                place = directory.stat()
                runs.setdefault((place.st_dev, place.st_ino), found)
            elif found == "damaged":
                damaged.append(directory)
            else:
                left[found] += 1
    kept = [run for run in runs.values() if run.complete] or list(runs.values())
    left["older"] = len(runs) - len(kept)
    notes = [text.format(plural(left[kind], "run")) for kind, text in _LEFT_OUT.items() if left[kind]]
    if left["tune"]:
        notes.append(f"{plural(left['tune'], 'tuning run')} {'is' if left['tune'] == 1 else 'are'} not counted")
    if damaged:
        others = f" and {plural(len(damaged) - 1, 'other')}" if damaged[1:] else ""
        notes.append(printable(f"left out, what it records cannot be read: {damaged[0]}{others}"))
    if not kept:
        why = "; ".join(notes) or "there is no run; a run's directory holds summary.json, a sweep's holds sweep.json"
        raise ConfigError(f"nothing to compare in {', '.join(map(str, paths[:3]))}: {why}")
    return _with_sweeps(kept, notes)


def is_sweep(path: Path) -> bool:
    """Whether a directory is that of a sweep."""
    return (path / "sweep.json").is_file()


def _directories(path: Path) -> Iterator[tuple[Path, str]]:
    """Directories of runs at and below the path, with `run`, or why they are left out."""
    if is_sweep(path):
        try:
            jobs = _jobs(path)
        except _UNREADABLE:
            yield path / "sweep.json", "damaged"
            return
        phases = any(phase for _, phase in jobs)
        for name, phase in jobs:
            directory = path / name
            kind = "run" if (directory / "status.json").exists() else "waiting"
            yield directory, (phase or "former") if phases and phase != "final" else kind
        return
    try:
        found = list(os.scandir(path))
    except OSError:
        yield path, "damaged"
        return
    if any(entry.name in ("summary.json", "status.json") for entry in found):
        yield path, "run"
        return
    for entry in sorted(found, key=lambda entry: entry.name):
        hidden = entry.name.startswith(".") or entry.name == "checkpoints"
        if not hidden and entry.is_dir(follow_symlinks=False):
            yield from _directories(path / entry.name)


def _with_sweeps(runs: list[Run], notes: list[str]) -> Found:
    """The runs with what the sweeps say that they are of."""
    sweeps = [_sweep(path) for path in dict.fromkeys(run.path.parent for run in runs)]
    arms = dict.fromkeys(key for sweep in sweeps for key in sweep.arms or ())
    metrics = {sweep.metric for sweep in sweeps}
    return Found(
        runs,
        notes,
        arms=list(arms),
        metric=metrics.pop() if len(metrics) == 1 else None,
        is_fair=all(sweep.arms is not None for sweep in sweeps),
        is_search=any(sweep.is_search for sweep in sweeps),
    )


def _sweep(path: Path) -> _Sweep:
    """What the `sweep.json` in a directory says of all runs in it, if there is one."""
    try:
        found = json.loads((path / "sweep.json").read_bytes())
        arms, metric = found.get("arms"), found.get("metric")
        sweepers = found.get("settings", {}).get("hydra/sweeper", [])
        has_journal = (path / "optuna.journal").exists() and not any(job.get("phase") for job in found["jobs"])
        return _Sweep(
            arms=None if arms is None else [str(key) for key in arms],
            metric=None if metric is None else str(metric),
            is_search=arms is None and ("optuna" in sweepers or has_journal),
        )
    except _UNREADABLE:
        return _Sweep()


def _jobs(path: Path) -> list[tuple[str, str]]:
    """The directories of a sweep's jobs and their phases; none lies elsewhere than right below the sweep's."""
    found = json.loads((path / "sweep.json").read_bytes())["jobs"]
    return [(os.path.basename(job["directory"]), job.get("phase", "")) for job in found]


def _read(path: Path) -> Run | str:
    """The run in a directory, or why it is left out."""
    try:
        record = path / "summary.json"
        if not record.exists():
            record = path / "status.json"
        found = json.loads(record.read_bytes())
        if found["status"] == "running":
            return "running" if _goes_on(path, found) else "interrupted"
        if found["status"] not in _ENDED or (found["status"] == "completed" and "metrics" not in found):
            return "interrupted" if found["status"] == "interrupted" else "damaged"
        return "pruned" if found.get("reason") == "pruned" else _run(path, found, record.stat().st_mtime)
    except _UNREADABLE:
        return "damaged"


def _run(path: Path, found: Mapping[str, Any], ended: float) -> Run | str:
    settings = found.get("settings")
    if settings is None and "choices" not in found:
        return "unknown"
    choices = found.get("choices", {})
    best, seconds = found.get("best") or {}, found.get("seconds")
    return Run(
        path=path,
        status=found["status"],
        hash=found.get("config_hash") or "",
        settings={key: choices[key] for key in GROUPS if key in choices} | {"seed": found.get("seed")}
        if settings is None
        else dict(settings),
        complete=settings is not None,
        metrics={
            split: {name: _finite(value) for name, value in values.items()}
            for split, values in found.get("metrics", {}).items()
        },
        monitor=best.get("metric"),
        directions=dict(found.get("directions", {})),
        seconds=None if seconds is None else _finite(seconds),
        steps=int(found.get("steps", 0)),
        ended=ended,
    )


def _goes_on(path: Path, found: Mapping[str, Any]) -> bool:
    """Whether a run that says so is running: one that was killed has a stale heartbeat and holds no lock."""
    if time.time() - float(found["heartbeat"]) < _STALE:
        return True
    try:
        with (path / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
