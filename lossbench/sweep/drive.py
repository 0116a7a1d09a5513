"""A launcher's work: our own take tasks one by one, Hydra's and those of its plugins take lists of overrides."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from hydra.plugins.launcher import Launcher

from lossbench.device import pick_device
from lossbench.errors import ConfigError, LossbenchError, cause
from lossbench.hydra_errors import translate
from lossbench.observe.run_dir import read_json
from lossbench.sweep.clusters.cluster import cluster_of, run, take
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Job, Task
from lossbench.sweep.lost import row_of
from lossbench.sweep.placed import words
from lossbench.sweep.pool.hardware import usable_cores
from lossbench.sweep.run_job import reported

OF_THIS_MACHINE = ("BasicLauncher", "JoblibLauncher", "LocalLauncher")


@runtime_checkable
class Streaming(Protocol):
    """A launcher of our own, as the pool is one: it takes tasks one by one as workers come free."""

    def stream(self, feed: Feed) -> None: ...


def drive(launcher: Launcher, feed: Feed) -> None:
    """Run all tasks of the feed.

    Raises:
        KeyboardInterrupt: the sweep was asked to stop; what ran has saved its state.
    """
    if isinstance(launcher, Streaming):
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
        sizes = [feed.source.batch, _at_once(launcher) if feed.options.on_failure == "stop" else None]
        while tasks := take(feed, min(filter(None, sizes), default=None)):
            _launch(launcher, tasks, feed)


def refuse_devices(launcher: Launcher, jobs: Sequence[Job]) -> None:
    """Refuse jobs for a device that is not there, where it is this machine that runs them.

    Raises:
        ResourceError: names the device.
    """
    if isinstance(launcher, Streaming) or type(launcher).__name__ in OF_THIS_MACHINE:
        for name in sorted({str(job.config.trainer.device) for job in jobs} - {"auto", "cpu"}):
            pick_device(name)


def is_hydras_own(launcher: Launcher) -> bool:
    """Whether jobs run one by one in this process. Hydra may load the class anew, so it is known by its name."""
    return type(launcher).__name__ == "BasicLauncher"


def tells_of_evaluations(launcher: Launcher) -> bool:
    """Whether jobs can be ended early: other launchers tell of a job at its end alone."""
    return isinstance(launcher, Streaming) or is_hydras_own(launcher)


def _at_once(launcher: Launcher) -> int:
    """How many jobs of a list run at the same time, as far as the launcher says."""
    count = getattr(launcher, "joblib", {}).get("n_jobs") or 1
    return count if count > 0 else max(1, usable_cores() + 1 + count)


def _launch(launcher: Launcher, tasks: Sequence[Task], feed: Feed) -> None:
    """Run these tasks. Where the launcher loses them all with one, those that had not begun are launched again.

    Raises:
        ConfigError: none has begun, so it is not about a job.
    """
    for task in tasks:
        feed.started(task)
    before = [_reached(task) for task in tasks]
    try:
        returns = launcher.launch([words(task) for task in tasks], initial_job_idx=tasks[0].number)
    except Exception as error:
        rest = [task for task, reached in zip(tasks, before, strict=True) if _reached(task) == reached]
        if len(rest) == len(tasks):
            if isinstance(error, (LossbenchError, OSError)):
                raise
            raise translate(error, ()) or ConfigError(f"hydra.launcher: {cause(error)}") from error
        for task in tasks:
            if task not in rest:
                feed.ended(task, row_of(task, error))
        if rest and not feed.stopped:
            _launch(launcher, rest, feed)
        return
    for task, found in zip(tasks, returns, strict=True):
        feed.ended(task, row_of(task, found._return_value))


def _reached(task: Task) -> tuple[bool, dict[str, object]]:
    """How far the task has come, as its directory shows: Hydra makes it before a job begins."""
    return task.path.exists(), read_json(task.path / "status.json", {})
