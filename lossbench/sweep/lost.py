"""Jobs whose process is gone, or never was."""

from __future__ import annotations

from contextlib import suppress

from lossbench.errors import LossbenchError, first_line
from lossbench.hydra_errors import translate
from lossbench.observe.run_dir import RunDirectory, lock, read_json
from lossbench.sweep.job import Row, Task


def row_of(task: Task, value: object) -> Row:
    """The row of a job that gave this back: its row, or the error by which its launcher says that there is none."""
    if isinstance(value, dict):
        return value
    assert isinstance(value, BaseException)
    said = translate(value, task.job.overrides) or f"{type(value).__name__}: {first_line(value)}"
    return lost(task, " ".join(str(said).split()))


def lost(task: Task, error: str, *, resumable: bool = True) -> Row:
    """What the directory says of a job whose process is gone; one that had not ended has failed so, and it says that.

    Args:
        resumable: a job that was stopped and has saved is left as it is: the same sweep again goes on with it.
    """
    summary, status = read_json(task.path / "summary.json", {}), read_json(task.path / "status.json", {})
    if summary and summary.get("status") == status.get("status"):
        return {**summary, "directory": str(task.path)}
    facts = {"config_hash": task.job.hash, "settings": dict(task.job.settings)}
    row = {**facts, "status": "failed", "error": error, "directory": str(task.path)}
    if resumable and status.get("status") == "interrupted":
        return {**row, "error": f"stopped, and saved; the same sweep.name again goes on with it ({error})"}
    with suppress(LossbenchError, OSError):  # it may run still, out of the launcher's sight
        directory = RunDirectory(task.path, facts, resume=lock(task.path) if status else None)
        directory.log(error)
        directory.status("failed", error=error)
        directory.release()
    return row
