"""`hydra/launcher=pool`: worker processes that live through the whole sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from lossbench.sweep.feed import Feed
    from lossbench.sweep.job import Job
    from lossbench.sweep.pool.slots import Slot


class PoolLauncher(Launcher):
    """Takes jobs one by one from a feed, as its workers come free. The options are those of `PoolOptions`."""

    def __init__(self, **options: Any) -> None:
        self.given = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from lossbench.errors import ConfigError
        from lossbench.signatures import bind
        from lossbench.sweep.pool.slots import PoolOptions

        self.options = PoolOptions(**bind("hydra.launcher", PoolOptions, self.given, owner="pool"))
        if self.options.devices == []:
            raise ConfigError("hydra.launcher.devices names no device; trainer.device=cpu uses none, null uses all")

    def check(self, jobs: Sequence[Job]) -> None:
        """Refuse jobs that no worker could run, before anything is written.

        Raises:
            ConfigError: `trainer.device=cuda:N`.
            ResourceError: `hydra.launcher.devices` names one that is not there.
        """
        from lossbench.sweep.pool.slots import refuse_numbered

        refuse_numbered(str(job.config.trainer.device) for job in jobs)
        self._slots(jobs, len(jobs))

    def stream(self, feed: Feed) -> None:
        """Run all tasks of the feed.

        Raises:
            ResourceError: a device is asked for that is not there.
            KeyboardInterrupt: the sweep was asked to stop; what ran has saved its state.
        """
        from lossbench.sweep.pool.pool import Pool

        Pool(feed, self._slots(feed.source.known, feed.source.total), self.options.timeout).run()

    def _slots(self, jobs: Sequence[Job], total: int | None) -> list[Slot]:
        from lossbench.sweep.pool.hardware import hardware
        from lossbench.sweep.pool.slots import slots

        wanted = {str(job.config.trainer.device) for job in jobs}
        return slots(wanted, total, hardware(cuda=wanted != {"cpu"}), self.options)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from lossbench.errors import ConfigError

        raise ConfigError("hydra/launcher=pool takes jobs from lossbench's own sweepers; leave hydra/sweeper away")
