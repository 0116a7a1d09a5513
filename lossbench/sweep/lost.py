"""Jobs that failed, or whose process is gone: what their directories then say."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lossbench.errors import LossbenchError, cause, shortened
from lossbench.hydra_errors import translate
from lossbench.observe.run_dir import RunDirectory, ended, lock, read_json
from lossbench.sweep.job import Row, Task


def row_of(task: Task, value: object) -> Row:
    """The row of a job that gave this back: its row, or the error by which its launcher says that there is none."""
    if isinstance(value, dict):
        return value
    assert isinstance(value, BaseException)
    return lost(task, cause(translate(value, task.job.overrides) or value))


def lost(task: Task, error: str, *, resumable: bool = True) -> Row:
    """What the directory says of a job whose process is gone; one that had not ended has failed so, and it says that.

    Args:
        resumable: a job that was stopped and has saved is left as it is: the same sweep again goes on with it.
    """
    facts = {"config_hash": task.job.hash, "settings": dict(task.job.settings)}
    if resumable and read_json(task.path / "status.json", {}).get("status") == "interrupted":
        error = f"stopped, and saved; the same sweep.name again goes on with it ({error})"
        return {**facts, "status": "failed", "error": error, "directory": str(task.path)}
    return failed(task.path, facts, shortened(error), log=error)


def failed(
    path: Path, facts: Mapping[str, Any], error: str, *, log: str = "", config: tuple[str, list[str]] | None = None
) -> Row:
    """The row of a job that failed, which its directory from now on holds as well; one that had ended stays as it was.

    Args:
        facts: its identity.
        log: for `run.log`.
        config: the composed config and the job's overrides, for a directory that has none.
    """
    if row := ended(path, facts.get("config_hash", "")):
        return row
    earlier = read_json(path / "status.json", {})
    of_another = earlier.get("config_hash", facts.get("config_hash")) != facts.get("config_hash")
    if not of_another and earlier.get("status") not in ("completed", "diverged"):
        with suppress(LossbenchError, OSError):  # it may run still, out of the launcher's sight
            directory = RunDirectory(path, facts, resume=lock(path) if earlier else None)
            if config and not earlier:
                directory.config(*config)
            if log:
                directory.log(log)
            directory.status("failed", error=error)
            directory.release()
    return {**facts, "status": "failed", "error": error, "directory": str(path)}
