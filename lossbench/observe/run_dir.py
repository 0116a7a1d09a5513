"""A run's directory: what the run is, how it stands, and how it ended."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO
from weakref import WeakSet

from lossbench.engine.record import FIELDS, Incident, StepRow
from lossbench.errors import ConfigError, ResourceError
from lossbench.observe.recorder import Sink
from lossbench.observe.replacing import replacing

HEARTBEAT = 10.0  # seconds between heartbeats in status.json

Status = Literal["running", "completed", "failed", "diverged", "interrupted"]


class RunDirectory(Sink):
    """Writes `config.yaml`, `status.json`, `summary.json` and `nonfinite.json`; each write is whole or not there.

    A lock on `.lock`, which the system takes back however the process ends, keeps a second one out.

    Args:
        facts: what status.json says of the run throughout.
        resume: the lock on the directory, which holds an earlier part of this run; `reopen` changes the first thing.

    Raises:
        ConfigError: the directory holds another run, or this one is still running.
        ResourceError: the directory cannot be written.
    """

    def __init__(self, path: Path, facts: Mapping[str, object] | None = None, *, resume: TextIO | None = None) -> None:
        self.path, self.facts = path, dict(facts or {})
        self.started = self.beat = time.time()
        self.incidents: list[Any] = []
        if resume is not None:
            self._lock = resume
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "status.json").open("x").close()  # of two processes one gets it
            self._lock = lock(path)
            self.status("running")
        except FileExistsError as error:
            raise ConfigError(
                f"{path} already holds a run; resume={path} goes on with it, output_root=DIRECTORY writes elsewhere"
            ) from error
        except OSError as error:
            raise ResourceError(f"cannot write to {path}: {error.strerror}") from error

    def config(self, text: str, overrides: list[str]) -> None:
        """The composed config, and how it was asked for."""
        asked = shlex.join(["lossbench", "train", *overrides]).replace("\n", "\n# ")
        _replace(self.path / "config.yaml", f"# {asked}\n{text}")

    def status(self, status: Status, **more: object) -> None:
        """How the run stands; `heartbeat` is when this was last written, in seconds since 1970."""
        self.beat = time.time()
        state = {"status": status, "started": self.started, "heartbeat": self.beat, "pid": os.getpid()}
        _replace(self.path / "status.json", json.dumps({**state, **self.facts, **more}, indent=2) + "\n")

    def steps(self, rows: Sequence[StepRow]) -> None:
        """As a sink: a heartbeat now and then."""
        if time.time() - self.beat > HEARTBEAT:
            self.status("running", step=rows[-1].step)

    def incident(self, incident: Incident) -> None:
        """As a sink: the report of a step that was not finite."""
        row = dict(zip(FIELDS, incident.row, strict=False))
        found = {**row, **{k: v for k, v in vars(incident).items() if k != "row"}}
        self.incidents.append(
            {k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in found.items()}
        )
        self._write_incidents()
        self.log(f"step {incident.row.step}: {incident.action}: {incident.text}")

    def _write_incidents(self) -> None:
        lines = ",\n".join(map(json.dumps, self.incidents))
        _replace(self.path / "nonfinite.json", f"[\n{lines}\n]\n")

    def release(self) -> None:
        """Let another process have the directory."""
        self._lock.close()

    def reopen(self, step: int) -> None:
        """The run goes on after `step`: what summed it up is no longer true, and what came later never was."""
        self.started = read_json(self.path / "status.json", {}).get("started", self.started)
        noted = read_json(self.path / "nonfinite.json", [])
        self.incidents = [i for i in noted if isinstance(i, dict) and i.get("step", math.inf) <= step]
        if noted:
            self._write_incidents()
        (self.path / "summary.json").unlink(missing_ok=True)
        self.status("running")
        self.log(f"resumed after step {step}")

    def summary(self, summary: Mapping[str, Any]) -> None:
        _replace(self.path / "summary.json", json.dumps(finite(summary), indent=2, default=str) + "\n")

    def log(self, text: str) -> None:
        """Append to `run.log`."""
        with (self.path / "run.log").open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text.rstrip("\n") + "\n")


def lock(path: Path) -> TextIO:
    """Hold a run's directory until the file that is returned is closed, or the process ends.

    Raises:
        ConfigError: another process holds it.
    """
    file = (path / ".lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConfigError(f"{path} is in use: its run is still going on (status.json has the pid)") from error
    _HELD.add(file)
    return file


# A lock lasts until the last process that has its file ends, and loader processes may outlive a run that is killed.
_HELD: WeakSet[TextIO] = WeakSet()
os.register_at_fork(after_in_child=lambda: [file.close() for file in list(_HELD)])


def read_json(path: Path, missing: Any) -> Any:
    """What the file holds; `missing` where there is none, or it is not JSON of the same type."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return missing
    return found if isinstance(found, type(missing)) else missing


def ended(path: Path, config_hash: str) -> dict[str, Any] | None:
    """The summary of the run of this hash that ended in the directory, with its `directory`; of one that failed its
    status. None where it did not end there, or its summary is damaged.

    The status is written last: a summary beside another status is of a run that was killed on its last lines.
    """
    found = read_json(path / "status.json", {})
    status = found.get("status")
    if found.get("config_hash") != config_hash or status not in ("completed", "diverged", "failed"):
        return None
    if status != "failed":
        found = read_json(path / "summary.json", {})
        if found.get("status") != status or not _is_summary(found):
            return None
    return {**found, "directory": str(path)}


def _is_summary(found: Mapping[str, Any]) -> bool:
    """Whether what others reckon with is of its kind, as far as it is there."""
    best, splits, directions = found.get("best") or {}, found.get("metrics", {}), found.get("directions", {})
    return (
        all(isinstance(part, dict) for part in (best, splits, directions))
        and all(isinstance(split, dict) and all(map(_is_number, split.values())) for split in splits.values())
        and (not best or (isinstance(best.get("metric"), str) and _is_number(best.get("value"))))
        and _is_number(found.get("seconds"))
    )


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (int, float))


def finite(value: Any) -> Any:
    """NaN and infinities as null: JSON has no others."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))
