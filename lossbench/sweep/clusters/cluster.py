"""Launchers whose jobs run elsewhere, some at a time: one that ends makes room for the next, whatever became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from hydra.plugins.launcher import Launcher

from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Task
from lossbench.sweep.lost import row_of


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

    Raises:
        KeyboardInterrupt: the sweep was asked to stop; what ran has saved its state.
    """
    running: dict[Any, Task] = {}
    try:
        while True:
            tasks = take(feed, max(0, cluster.slots - len(running)))
            for task, job in zip(tasks, cluster.submit(tasks) if tasks else (), strict=True):
                feed.started(task)
                running[job] = task
            if not running:
                return
            for job, value in cluster.ended(list(running)):
                task = running.pop(job)
                feed.ended(task, row_of(task, value))
    except BaseException:
        if running:
            cluster.stop(list(running))
        raise
    finally:
        cluster.close()


def take(feed: Feed, most: int | None) -> list[Task]:
    """The tasks that can be run now, so many at the most."""
    tasks: list[Task] = []
    while len(tasks) != most and (task := feed.next()) is not None:
        tasks.append(task)
    return tasks
