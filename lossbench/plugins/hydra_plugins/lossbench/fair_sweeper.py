"""Arms that are tuned with equal budgets and compared on fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from hydra_plugins.lossbench.sweeper import LossbenchSweeper

if TYPE_CHECKING:
    from lossbench.sweep.compose import Composer
    from lossbench.sweep.job import Source
    from lossbench.sweep.options import SweepOptions


class FairSweeper(LossbenchSweeper):
    """Tunes each combination of the swept values, and measures what the best settings give."""

    used: ClassVar[tuple[str, ...]] = ("trials", "sampler", "pruner", "metric", "tune", "seeds")  # says why no pruner

    def source(self, words: Sequence[str], composer: Composer, options: SweepOptions) -> Source:
        from lossbench.sweep.fair.fair import fair

        return fair(words, composer, options, self.directory)

    def conclude(self, source: Source) -> None:
        from lossbench.console import say
        from lossbench.observe.replacing import replacing
        from lossbench.sweep.fair.fair import Fair
        from lossbench.sweep.fair.report import report

        assert isinstance(source, Fair)
        lines = report(source)
        for line in lines:
            say(line)
        with replacing(self.directory / "tuning.txt") as file:
            file.write("".join(f"{line}\n" for line in lines).encode())
        super().conclude(source)
