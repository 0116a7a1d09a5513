"""`hydra/launcher=submitit_slurm` and `submitit_local`: jobs that Slurm queues, or processes of this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from typing import Any

import submitit
from hydra.core.singleton import Singleton
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from submitit.core.utils import UncompletedJobError

from lossbench.errors import ConfigError, ResourceError, first_line
from lossbench.stopping import Terminated, terminate
from lossbench.sweep.job import Task
from lossbench.sweep.placed import words
from lossbench.sweep.pool.hardware import usable_cores

SAVING = 60  # seconds that jobs have to save their state when the sweep is stopped
PAUSE = 0.2  # seconds between looks at what has ended


class OnSubmitit:
    """A cluster for `lossbench.sweep.clusters.cluster`.

    Args:
        launcher: the plugin's, which holds the settings and the job's function.

    Raises:
        ConfigError: submitit does not take the settings, or there is no Slurm here.
    """

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher
        self.local = self.launcher._EXECUTOR == "local"
        try:
            self.executor = _executor(self.launcher._EXECUTOR, dict(self.launcher.params))
        except (RuntimeError, ValueError, TypeError) as error:
            raise ConfigError(f"hydra.launcher: {first_line(error)}") from error
        cpus = self.launcher.params.get("cpus_per_task") or 1
        self.slots = max(1, usable_cores() // cpus) if self.local else self.launcher.params["array_parallelism"]

    def submit(self, tasks: Sequence[Task]) -> list[Any]:
        state = Singleton.get_state()
        given = [(words(task), "hydra.sweep.dir", task.number, str(task.number), state) for task in tasks]
        with _deaf_to_ctrl_c():
            jobs: list[Any] = self.executor.map_array(QueuedAgain(self.launcher), *zip(*given, strict=True))
        return jobs

    def ended(self, running: Sequence[Any]) -> list[tuple[Any, Any]]:
        while not (found := [job for job in running if job.done()]):
            time.sleep(PAUSE)
        return [(job, _value(job, local=self.local)) for job in found]

    def stop(self, running: Sequence[Any]) -> None:
        if not self.local:
            for job in running:
                job.cancel(check=False)  # Slurm sends SIGTERM, and kills what is there half a minute later
            return
        for _ in range(2):  # the second time, or at a second Ctrl-C, they leave at once
            for job in running:
                _terminate(job)
            with suppress(KeyboardInterrupt):
                _wait(running, SAVING)

    def close(self) -> None:
        """Nothing of ours stays."""


class QueuedAgain:
    """The plugin's job, which Slurm queues again when it takes the machine back before the job has ended.

    Our run saves its state on the signal that submitit listens for; submitit's own handler is called only then.
    """

    def __init__(self, launcher: Any) -> None:
        self.launcher = launcher

    def __call__(self, *given: Any) -> Any:
        signal.signal(signal.SIGTERM, terminate)  # submitit would pass over it
        try:
            return self.launcher(*given)
        except Terminated as stop:
            if stop.signal == signal.SIGUSR2:
                signal.raise_signal(signal.SIGUSR2)
            raise

    def checkpoint(self, *given: Any) -> Any:
        """What is queued again: the same job, which goes on from what it has saved."""
        return submitit.helpers.DelayedSubmission(self, *given)


def _executor(kind: str, settings: dict[str, Any]) -> Any:
    """What takes the jobs, set up as the plugin does it."""
    folder, retries = settings.pop("submitit_folder"), settings.pop("max_num_timeout", None)
    own = {} if retries is None else {f"{kind}_max_num_timeout": retries}
    executor = submitit.AutoExecutor(folder, cluster=kind, **own)
    common = {field.name for field in fields(BaseQueueConf)}
    executor.update_parameters(**{k if k in common else f"{kind}_{k}": v for k, v in settings.items()})
    return executor


def _terminate(job: Any) -> None:
    if not job.done():
        with suppress(ProcessLookupError):
            os.kill(int(job.job_id), signal.SIGTERM)


def _wait(running: Sequence[Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not all(job.done() for job in running):
        time.sleep(PAUSE)


def _value(job: Any, *, local: bool) -> Any:
    """What the job gave back; an error where it gave nothing."""
    printed = f"see {os.path.relpath(job.paths.stderr)}"
    if local and not job.paths.result_pickle.exists():  # of Slurm's jobs submitit waits for it: files can be late
        return ResourceError(f"its process was killed, or ended by itself; {printed}")
    try:
        return job.result()._return_value
    except UncompletedJobError:
        return ResourceError(f"its process ended without a result ({job.state}); {printed}")
    except Exception:
        return ResourceError(f"it could not be run; {printed}")


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """What is started meanwhile leaves Ctrl-C, which a terminal sends to all, to the sweep's own process."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
