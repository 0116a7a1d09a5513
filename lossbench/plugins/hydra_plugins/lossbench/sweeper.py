"""The product of all swept values, run by any launcher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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
    """Every combination once, each checked before the first one runs. Others differ in where their jobs come from.

    Attributes:
        used: the `sweep.*` options that it takes beyond those that all sweepers take.
    """

    used: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @property
    def directory(self) -> Path:
        """The sweep's own."""
        assert self.config is not None
        return Path(str(self.config.hydra.sweep.dir))

    def sweep(self, arguments: list[str]) -> Any:
        from lossbench import app
        from lossbench.sweep import command
        from lossbench.sweep.compose import Composer
        from lossbench.sweep.drive import refuse_devices
        from lossbench.sweep.options import of_the_sweep, read_options, refuse_several, refuse_unused
        from lossbench.sweep.session import Asked, conduct

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        refuse_several(arguments)
        refuse_unused(arguments, self.used)
        options = read_options(self.config.sweep)
        own = of_the_sweep(arguments)
        words = [word for word in (*arguments, *app.held_back) if word not in own]
        composer = Composer(self.hydra_context.config_loader, self.config, app.config_flags)
        source = self.source(words, composer, options)
        if hasattr(self.launcher, "check"):
            self.launcher.check(source.known)
        refuse_devices(self.launcher, source.known)
        asked = Asked(
            directory=self.directory,
            command=command.recordable(app.settings),
            sweeper=str(self.config.hydra.runtime.choices["hydra/sweeper"]),
            again=command.resuming(self.directory, str(self.config.output_root), app.config_flags),
        )
        return conduct(self.launcher, source, asked, options, lambda: self.conclude(source))

    def source(self, words: Sequence[str], composer: Composer, options: SweepOptions) -> Source:
        """Where the jobs come from.

        Args:
            words: the overrides of the command line, without those of `sweep.*`.
        """
        from lossbench.console import say
        from lossbench.errors import plural
        from lossbench.sweep.expand import jobs, names, unique
        from lossbench.sweep.job import Listed, different

        found = jobs(words, composer.loader, limit=options.max_jobs)
        kept = unique(found)
        composed = [composer.job(job, name) for job, name in zip(kept, names(kept), strict=True)]
        once = different(composed)  # 1e-3 is 0.001
        if len(once) < len(found):
            say(f"{plural(len(found) - len(once), 'job')} equal to another: run once")
        return Listed(once)

    def conclude(self, source: Source) -> None:
        """Print what the results say, and save it."""
        from lossbench.report.leaderboard import conclude

        conclude(self.directory)
