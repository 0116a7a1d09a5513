"""Hydra's basic sweep, with every job checked before the first one runs and one table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class LossbenchSweeper(BasicSweeper):
    """The product of all swept values, run by any launcher."""

    def sweep(self, arguments: list[str]) -> Any:
        from lossbench.console import say
        from lossbench.errors import SweepFailed, plural
        from lossbench.observe.screen import show_sweep

        assert self.config is not None
        assert self.launcher is not None
        jobs = self._jobs(arguments)
        self._check(jobs)
        directory = str(self.config.hydra.sweep.dir)
        say(f"sweep of {plural(len(jobs), 'job')} in {directory}")
        try:
            returns = self.launcher.launch(jobs, initial_job_idx=0)
        except KeyboardInterrupt:
            say(f"interrupted; the jobs that ended are in {directory}")
            raise
        rows = [r.return_value for r in returns]
        swept = [k for k in rows[0]["settings"] if len({str(row["settings"].get(k)) for row in rows}) > 1]
        show_sweep(rows, swept, directory)
        failed = [row for row in rows if row["status"] == "failed"]
        if failed:
            raise SweepFailed(f"{len(failed)} of {plural(len(rows), 'job')} failed; the first: {failed[0]['error']}")
        return [returns]

    def _jobs(self, arguments: Sequence[str]) -> list[list[str]]:
        """Each job's overrides, equal ones once."""
        from lossbench.app import held_back
        from lossbench.console import say
        from lossbench.errors import plural
        from lossbench.sweep import jobs, unique

        assert self.hydra_context is not None
        found = jobs([*self._parse_config(), *arguments, *held_back], self.hydra_context.config_loader)
        kept = unique(found)
        if len(kept) < len(found):
            say(f"{plural(len(found) - len(kept), 'job')} equal to another: run once")
        return kept

    def _check(self, jobs: Sequence[Sequence[str]]) -> None:
        """Compose and check every job, so that the last one's mistake is known before the first one runs."""
        from lossbench.app import config_flags
        from lossbench.compose import check_composed
        from lossbench.errors import ConfigError
        from lossbench.hydra_errors import translate

        assert self.hydra_context is not None
        assert self.config is not None
        for number, job in enumerate(jobs):
            try:
                check_composed(self.hydra_context.config_loader.load_sweep_config(self.config, list(job)))
            except Exception as error:
                found = translate(error, [*config_flags, *job])
                if not isinstance(found, ConfigError):
                    raise
                raise ConfigError(f"job {number} ({' '.join(job)}): {found}") from error
