"""A search over settings with Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from hydra_plugins.lossbench.sweeper import LossbenchSweeper

if TYPE_CHECKING:
    from lossbench.sweep.compose import Composer
    from lossbench.sweep.job import Source
    from lossbench.sweep.options import SweepOptions


class OptunaSweeper(LossbenchSweeper):
    """Trials whose settings are chosen by what became of earlier ones."""

    used: ClassVar[tuple[str, ...]] = ("trials", "sampler", "pruner", "metric")

    def source(self, words: Sequence[str], composer: Composer, options: SweepOptions) -> Source:
        from lossbench.console import say
        from lossbench.errors import ConfigError

        if find_spec("optuna") is None:
            raise ConfigError('hydra/sweeper=optuna needs Optuna: pip install "lossbench[optuna]"')
        from lossbench.sweep.drive import tells_of_evaluations
        from lossbench.sweep.search.study import study

        assert self.config is not None
        assert self.launcher is not None
        if options.pruner and not tells_of_evaluations(self.launcher):
            say("this launcher tells of its jobs when they have ended: sweep.pruner ends none of them early")
        return study(words, composer, options, self.directory, seed=int(self.config.seed))

    def conclude(self, source: Source) -> None:
        from lossbench.app import config_flags
        from lossbench.sweep.search.best import show_best
        from lossbench.sweep.search.study import Study

        assert isinstance(source, Study)
        show_best(source.trials, source.fixed, config_flags)
