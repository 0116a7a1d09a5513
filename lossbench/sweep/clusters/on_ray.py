"""`hydra/launcher=ray`: jobs as tasks of a Ray cluster, of this machine alone or of many."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from hydra.core.singleton import Singleton
from hydra.core.utils import setup_globals
from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray
from omegaconf import DictConfig, OmegaConf

from lossbench.errors import ResourceError, first_line
from lossbench.sweep.job import Task
from lossbench.sweep.placed import place

SAVING = 60  # seconds that jobs have to save their state when the sweep is stopped


class OnRay:
    """A cluster for `lossbench.sweep.clusters.cluster`.

    Args:
        launcher: the plugin's, which holds the settings and the job's function.

    Raises:
        ResourceError: there is no cluster at that address, or none that could ever run such a job.
    """

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher
        setup_globals()
        settings: Any = OmegaConf.to_container(self.launcher.ray_cfg, resolve=True)
        _connect(settings["init"])
        self.remote = _with_gpu(settings["remote"], _resources())
        if self.slots == 0:
            needs = ", ".join(f"num_{kind}s={n:g}" for kind, n in _needs(self.remote).items())
            raise ResourceError(f"the Ray cluster has not what one job needs: hydra.launcher.ray.remote has {needs}")

    @property
    def slots(self) -> int:
        """How many jobs its machines, which come and go, can run at a time."""
        has = _resources()
        return int(min(has.get(kind.upper(), 0.0) // n for kind, n in _needs(self.remote).items()))

    def submit(self, tasks: Sequence[Task]) -> list[Any]:
        return [self._submit(task) for task in tasks]

    def _submit(self, task: Task) -> Any:
        config = task.job.config.copy()
        place(config, task.number, task.path)
        function = partial(_in_directory, os.getcwd(), self.launcher.task_function)
        remote, state = OmegaConf.create(self.remote), Singleton.get_state()
        return launch_job_on_ray(self.launcher.hydra_context, remote, config, function, state)

    def ended(self, running: Sequence[Any]) -> list[tuple[Any, Any]]:
        found, _ = ray.wait(list(running), timeout=None)
        return [(job, _value(job)) for job in found]

    def stop(self, running: Sequence[Any]) -> None:
        for again in (False, True):  # the second time, or at a second Ctrl-C, they leave at once
            for job in running:
                ray.cancel(job, force=again)  # at first as Ctrl-C to its process
            with suppress(KeyboardInterrupt):
                ray.wait(list(running), num_returns=len(running), timeout=SAVING)

    def close(self) -> None:
        ray.shutdown()


def _connect(init: dict[str, Any]) -> None:
    """Start a cluster on this machine, or connect to the one that the settings name."""
    if init.get("address") != "local":  # what else they say is of a new cluster
        kept = ("address", "namespace", "runtime_env", "log_to_driver", "logging_level")
        init = {key: value for key, value in init.items() if key in kept}
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**init)
    except ConnectionError as error:
        raise ResourceError(
            f"there is no Ray cluster at hydra.launcher.ray.init.address={init['address']} ({first_line(error)}); "
            "`ray start --head` starts one"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, terminated)  # Ray's own would end the sweep before its jobs have saved


def _resources() -> dict[str, float]:
    """What the cluster has in all, of each kind."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _with_gpu(remote: dict[str, Any], has: dict[str, float]) -> dict[str, Any]:
    """What a job needs: one GPU where the cluster has any and the settings do not say how many."""
    return remote if remote.get("num_gpus") is not None else {**remote, "num_gpus": float(has.get("GPU", 0) > 0)}


def _needs(remote: dict[str, Any]) -> dict[str, float]:
    """CPUs and GPUs of one job; Ray takes a job that says nothing, or 0, to need a CPU."""
    found = {"cpu": remote.get("num_cpus") or 0, "gpu": remote["num_gpus"]}
    return {kind: n for kind, n in found.items() if n} or {"cpu": 1}


def _in_directory(path: str, function: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """The job in the directory of the sweep's command, from which relative paths count; Ray's workers have another."""
    if Path(path).is_dir():
        os.chdir(path)
    return function(config)


def _value(job: Any) -> Any:
    try:
        return ray.get(job)._return_value
    except ray.exceptions.WorkerCrashedError:
        return ResourceError("its process was killed, or ended by itself")
    except Exception as error:
        return error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
