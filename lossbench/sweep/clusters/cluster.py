"""Launchers whose jobs run elsewhere, some at a time: one that ends makes room for the next, whatever became of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from hydra.plugins.launcher import Launcher

from lossbench.console import say
from lossbench.errors import ResourceError, plural
from lossbench.observe.run_dir import read_json
from lossbench.sweep.again import Again
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Task
from lossbench.sweep.lost import row_of

WAIT = 1800.0  # seconds to wait for a machine when there is none
PAUSE = 1.0  # seconds between looks for one


class Cluster(Protocol):
    """Runs a sweep's jobs, each in a process of its own, here or on other machines."""

    @property
    def slots(self) -> int:
        """How many jobs it is given at a time."""
        ...

    def submit(self, tasks: Sequence[Task]) -> Sequence[Any]:
        """Start the tasks, or queue them; something to know each by."""
        ...

    def ended(self, running: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Wait until one of these has ended; all that have, each with what its job gave back, or the error."""
        ...

    def stop(self, running: Sequence[Any]) -> None:
        """Have these save their state and end."""
        ...

    def close(self) -> None:
        """No job is to come."""
        ...


def cluster_of(launcher: Launcher) -> Cluster | None:
    """What runs the jobs of a plugin's launcher one by one; None where it takes lists alone.

    Raises:
        ConfigError: the launcher's settings are wrong.
        ResourceError: the cluster is not there.
    """
    if type(launcher).__module__ == "hydra_plugins.hydra_submitit_launcher.submitit_launcher":
        from lossbench.sweep.clusters.on_submitit import OnSubmitit

        return OnSubmitit(launcher)
    if type(launcher).__module__ == "hydra_plugins.hydra_ray_launcher.ray_launcher":
        from lossbench.sweep.clusters.on_ray import OnRay

        return OnRay(launcher)
    return None


def run(cluster: Cluster, feed: Feed) -> None:
    """Run all tasks of the feed.

    A job that somebody has stopped, and that has saved its state, is submitted once more.

    Raises:
        ResourceError: the machines are gone, and do not come back.
        KeyboardInterrupt: the sweep was asked to stop; what ran has saved its state.
    """
    running: dict[Any, Task] = {}
    stopped: list[Task] = []
    again = Again()
    try:
        while running or stopped or not feed.exhausted:
            room = max(0, _room(cluster, feed, waits=not running) - len(running))
            tasks, stopped = stopped[:room], stopped[room:]
            tasks += take(feed, room - len(tasks))
            for task, job in zip(tasks, cluster.submit(tasks) if tasks else (), strict=True):
                feed.started(task)
                running[job] = task
            if not running:
                return
            for job, value in cluster.ended(list(running)):
                task = running.pop(job)
                if _was_stopped(task, value) and again.goes_on(task):
                    stopped.append(task)
                else:
                    feed.ended(task, row_of(task, value))
    except BaseException:
        if running:
            cluster.stop(list(running))
        raise
    finally:
        cluster.close()


def _room(cluster: Cluster, feed: Feed, *, waits: bool) -> int:
    """How many jobs can be there at a time; where nothing else is to do, machines that are to come are waited for.

    Raises:
        ResourceError: none comes.
    """
    end = time.monotonic() + WAIT
    if waits and cluster.slots == 0:
        say("the cluster has no machine that could run a job; waiting for one")
    while (slots := cluster.slots) == 0 and waits:
        if time.monotonic() > end:
            left = plural(feed.source.total - len(feed.rows), "job") if feed.source.total else "jobs"
            raise ResourceError(f"the cluster has no machine that could run a job, for {WAIT:g} s; {left} left to do")
        time.sleep(PAUSE)
    return slots if feed.source.batch is None else min(slots, feed.source.batch)


def _was_stopped(task: Task, value: object) -> bool:
    """Whether what the job gave back is the word that it was told to end, and has saved its state."""
    return not isinstance(value, dict) and read_json(task.path / "status.json", {}).get("status") == "interrupted"


def take(feed: Feed, most: int | None) -> list[Task]:
    """The tasks that can be run now, so many at the most."""
    tasks: list[Task] = []
    while len(tasks) != most and (task := feed.next()) is not None:
        tasks.append(task)
    return tasks
