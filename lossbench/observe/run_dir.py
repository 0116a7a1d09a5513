"""A run's directory: what the run is, how it stands, and how it ended."""

from __future__ import annotations

import json
import math
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lossbench.engine.record import Metrics, StepRow
from lossbench.errors import ResourceError

HEARTBEAT = 10.0  # seconds between heartbeats in status.json

Status = Literal["running", "completed", "failed", "diverged", "interrupted"]


class RunDirectory:
    """Writes `config.yaml`, `status.json` and `summary.json`; each write is whole or not there.

    Raises:
        ResourceError: the directory holds another run, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.time()
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "status.json").open("x").close()  # of two processes one gets it
            self.status("running")
        except FileExistsError as error:
            raise ResourceError(f"{path} already holds a run; choose another hydra.run.dir or output_root") from error
        except OSError as error:
            raise ResourceError(f"cannot write to {path}: {error.strerror}") from error

    def config(self, text: str, overrides: list[str]) -> None:
        """The composed config, and how it was asked for."""
        asked = shlex.join(["lossbench", "train", *overrides]).replace("\n", "\n# ")
        _replace(self.path / "config.yaml", f"# {asked}\n{text}")

    def status(self, status: Status, **more: object) -> None:
        """How the run stands; `heartbeat` is when this was last written, in seconds since 1970."""
        self.beat = time.time()
        state = {"status": status, "started": self.started, "heartbeat": self.beat, "pid": os.getpid(), **more}
        _replace(self.path / "status.json", json.dumps(state, indent=2) + "\n")

    def steps(self, rows: Sequence[StepRow]) -> None:
        """As a sink: a heartbeat now and then."""
        if time.time() - self.beat > HEARTBEAT:
            self.status("running", step=rows[-1].step)

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        """As a sink: evaluations are for others to write."""

    def close(self) -> None:
        """As a sink: nothing is held open."""

    def summary(self, summary: Mapping[str, Any]) -> None:
        _replace(self.path / "summary.json", json.dumps(_finite(summary), indent=2, default=str) + "\n")

    def log(self, text: str) -> None:
        """Append to `run.log`."""
        with (self.path / "run.log").open("a") as file:
            file.write(text.rstrip("\n") + "\n")


def _finite(value: Any) -> Any:
    """NaN and infinities as null: JSON has no others."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, never half of it."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
