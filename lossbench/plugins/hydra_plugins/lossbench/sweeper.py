"""The product of all swept values, run by any launcher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from lossbench.sweep.compose import Composer
    from lossbench.sweep.job import Source
    from lossbench.sweep.options import SweepOptions


class LossbenchSweeper(Sweeper):
    """Every combination once, each checked before the first one runs. Others differ in where their jobs come from."""

    def __init__(self) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from lossbench.app import config_flags, held_back
        from lossbench.sweep.compose import Composer
        from lossbench.sweep.options import of_the_sweep, read_options
        from lossbench.sweep.session import conduct

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        options = read_options(self.config.sweep)
        own = of_the_sweep(arguments)
        words = [word for word in (*arguments, *held_back) if word not in own]
        composer = Composer(self.hydra_context.config_loader, self.config, config_flags)
        source = self.source(words, composer, options)
        return conduct(self.launcher, source, Path(str(self.config.hydra.sweep.dir)), options)

    def source(self, words: Sequence[str], composer: Composer, options: SweepOptions) -> Source:
        """Where the jobs come from.

        Args:
            words: the overrides of the command line, without those of `sweep.*`.
        """
        from lossbench.console import say
        from lossbench.errors import plural
        from lossbench.sweep.expand import jobs, swept, unique
        from lossbench.sweep.job import Listed

        found = jobs(words, composer.loader, limit=options.max_jobs)
        kept = unique(found)
        if len(kept) < len(found):
            say(f"{plural(len(found) - len(kept), 'job')} equal to another: run once")
        return Listed([composer.job(job, ",".join(swept(job, kept)) or "defaults") for job in kept])
