"""A launcher's work: our own take tasks one by one, Hydra's and those of its plugins take lists of overrides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hydra.plugins.launcher import Launcher

from lossbench.errors import first_line
from lossbench.observe.run_dir import read_json
from lossbench.sweep.clusters.cluster import cluster_of, run, take
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Task
from lossbench.sweep.lost import lost, row_of
from lossbench.sweep.run_job import reported


def drive(launcher: Launcher, feed: Feed) -> None:
    """Run all tasks of the feed.

    Raises:
        KeyboardInterrupt: the sweep was asked to stop; what ran has saved its state.
    """
    if hasattr(launcher, "stream"):
        launcher.stream(feed)
    elif is_hydras_own(launcher):
        while tasks := take(feed, 1):
            token = reported.set(partial(feed.evaluated, tasks[0]))
            try:
                _launch(launcher, tasks, feed)
            finally:
                reported.reset(token)
    elif cluster := cluster_of(launcher):
        run(cluster, feed)
    else:
        while tasks := take(feed, feed.source.batch):
            _launch(launcher, tasks, feed)


def is_hydras_own(launcher: Launcher) -> bool:
    """Whether jobs run one by one in this process. Hydra may load the class anew, so it is known by its name."""
    return type(launcher).__name__ == "BasicLauncher"


def _launch(launcher: Launcher, tasks: Sequence[Task], feed: Feed) -> None:
    """Run these tasks. Where the launcher loses them all with one, those that had not begun are launched again."""
    for task in tasks:
        feed.started(task)
    before = [_reached(task) for task in tasks]
    try:
        returns = launcher.launch([words(task) for task in tasks], initial_job_idx=tasks[0].number)
    except Exception as error:
        begun = [task for task, reached in zip(tasks, before, strict=True) if _reached(task) != reached]
        if not any(task.path.exists() for task in tasks):  # it is not about a job
            raise
        for task in tasks if len(tasks) == 1 else begun:
            feed.ended(task, lost(task, f"{type(error).__name__}: {first_line(error)}"))
        rest = [task for task in tasks if task not in begun] if len(tasks) > 1 else []
        for batch in [rest] if begun and rest else [[task] for task in rest]:
            _launch(launcher, batch, feed)
        return
    for task, found in zip(tasks, returns, strict=True):
        feed.ended(task, row_of(task, found._return_value))


def _reached(task: Task) -> tuple[bool, dict[str, object]]:
    """How far the task has come, as its directory shows: Hydra makes it before a job begins."""
    return task.path.exists(), read_json(task.path / "status.json", {})


def words(task: Task) -> list[str]:
    """The job's overrides, and where Hydra should put it."""

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    directory = [
        f"hydra.sweep.dir={quoted(str(task.path.parent.absolute()))}",
        f"hydra.sweep.subdir={quoted(task.path.name)}",
    ]
    return [*task.job.overrides, *directory]
