"""A launcher's work: our own take tasks one by one, Hydra's and those of its plugins take lists of overrides."""

from __future__ import annotations

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.plugins.launcher import Launcher

from lossbench.hydra_errors import translate
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Row, Task
from lossbench.sweep.run_job import reported


def drive(launcher: Launcher, feed: Feed) -> None:
    """Run all tasks of the feed.

    Raises:
        KeyboardInterrupt: the sweep was asked to stop; what ran has saved its state.
    """
    if hasattr(launcher, "stream"):
        launcher.stream(feed)
        return
    size = 1 if isinstance(launcher, BasicLauncher) else None
    while tasks := _batch(feed, size):
        for task in tasks:
            feed.started(task)
        token = reported.set(lambda *evaluation: feed.evaluated(tasks[0], *evaluation)) if size == 1 else None
        try:
            returns = launcher.launch([_words(task) for task in tasks], initial_job_idx=tasks[0].number)
        finally:
            if token:
                reported.reset(token)
        for task, found in zip(tasks, returns, strict=True):
            feed.ended(task, _row(task, found._return_value))


def _batch(feed: Feed, size: int | None) -> list[Task]:
    tasks: list[Task] = []
    while len(tasks) != size and (task := feed.next()) is not None:
        tasks.append(task)
    return tasks


def _words(task: Task) -> list[str]:
    """The job's overrides, and where Hydra should put it."""

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    directory = [f"hydra.sweep.dir={quoted(str(task.path.parent))}", f"hydra.sweep.subdir={quoted(task.path.name)}"]
    return [*task.job.overrides, *directory]


def _row(task: Task, value: object) -> Row:
    """What a job gave back; an exception where the launcher could not run it."""
    if isinstance(value, dict):
        return value
    assert isinstance(value, BaseException)
    said = translate(value, task.job.overrides) or f"{type(value).__name__}: {value}"
    return {"status": "failed", "error": " ".join(str(said).split()), "directory": str(task.path)}
