"""A sweep from its first line to its last."""

from __future__ import annotations

from pathlib import Path

from hydra.plugins.launcher import Launcher

from lossbench.console import say
from lossbench.errors import SweepFailed, plural
from lossbench.sweep.drive import drive
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Listed, Row, Source
from lossbench.sweep.ledger import Ledger
from lossbench.sweep.options import SweepOptions
from lossbench.sweep.screen import Screen


def conduct(launcher: Launcher, source: Source, directory: Path, options: SweepOptions) -> list[Row]:
    """Run a sweep in its directory, and show what came of it.

    Raises:
        SweepFailed: some jobs failed.
        KeyboardInterrupt: it was asked to stop; what ran has saved its state.
    """
    ledger = Ledger(directory)
    if isinstance(source, Listed):
        ledger.register(source.known)
    say(f"sweep of {plural(source.total, 'job') if source.total else 'jobs'} in {directory}")
    feed = Feed(source, ledger, Screen(source.total), options)
    try:
        drive(launcher, feed)
    except KeyboardInterrupt:
        say(f"interrupted; the jobs that ended are in {directory}")
        raise
    failed = [row for row in feed.rows if row["status"] == "failed"]
    if failed:
        raise SweepFailed(f"{len(failed)} of {plural(len(feed.rows), 'job')} failed; the first: {failed[0]['error']}")
    return feed.rows
