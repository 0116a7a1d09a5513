"""A sweep from its first line to its last."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hydra.plugins.launcher import Launcher
from rich.markup import escape
from rich.table import Table

from lossbench.console import console, say
from lossbench.errors import ConfigError, SweepFailed, plural, printable
from lossbench.observe.run_dir import lock
from lossbench.sweep.drive import drive, is_hydras_own
from lossbench.sweep.feed import Feed
from lossbench.sweep.job import Row, Source
from lossbench.sweep.ledger import Ledger
from lossbench.sweep.options import SweepOptions
from lossbench.sweep.screen import Screen


@dataclass(frozen=True)
class Asked:
    """A sweep as it was asked for.

    Attributes:
        command: its settings, for `sweep.json`.
        sweeper: the choice of `hydra/sweeper`.
        again: the command that goes on with it.
    """

    directory: Path
    command: Sequence[str]
    sweeper: str
    again: str


def conduct(
    launcher: Launcher, source: Source, asked: Asked, options: SweepOptions, conclude: Callable[[], None]
) -> list[Row]:
    """Run a sweep in its directory, or what is missing of it, and show what came of it.

    Args:
        conclude: prints what the results say.

    Raises:
        ConfigError: the directory holds another experiment, or the sweep is going on in another process.
        SweepFailed: some jobs failed.
        KeyboardInterrupt: it was asked to stop; what ran has saved its state.
    """
    with _held(asked.directory):
        ledger = Ledger(asked.directory, retry_failed=options.retry_failed)
        ledger.plan(source, asked.command, asked.sweeper)
        earlier = ledger.rows(source)
        say(_size(source, ledger.path, earlier))
        if others := ledger.left_behind(source):
            say(f"{plural(others, 'job')} of earlier calls not ended, and not of this one: type those settings again")
        if source.total is None or len(earlier) < source.total:
            say(f"should it be interrupted, go on with: {asked.again}")
        screen = Screen(source, alone=not is_hydras_own(launcher), earlier=len(earlier) if source.listed else 0)
        feed = Feed(source, ledger, screen, options)
        try:
            with screen:
                drive(launcher, feed)
        except KeyboardInterrupt:
            saved = f", {feed.saved} saved half-way" if feed.saved else ""
            say(f"interrupted; {plural(len(feed.rows), 'job')} ended{saved}; go on with: {asked.again}")
            raise
        rows = list(feed.rows.values())
        if any(row["status"] != "failed" for row in rows):
            conclude()
        _show_end(rows, feed, asked)
        return rows


def _size(source: Source, directory: Path, ended: Sequence[Row]) -> str:
    """What is to be done, and how much of it was done in earlier calls."""
    failed = sum(row["status"] == "failed" for row in ended)
    done = f"; {len(ended)} {'has' if len(ended) == 1 else 'have'} ended already" if ended else ""
    of_these = f", {failed} of them failed (sweep.retry_failed=true runs those again)" if failed else ""
    size = f"of {plural(source.total, 'job')} " if source.total else ""
    return f"sweep {size}in {directory}{done}{of_these}"


def _show_end(rows: Sequence[Row], feed: Feed, asked: Asked) -> None:
    """Every failure, where everything is, and what is left to do.

    Raises:
        SweepFailed: some jobs failed, or were not run though nothing had stopped the sweep.
    """
    failed = [row for row in rows if row["status"] == "failed"]
    total = feed.source.total or len(rows)
    missing = plural(total - len(rows), "job") if total > len(rows) else "some jobs"
    left = "" if feed.is_over else f"{missing} {'left out' if feed.stopped else 'not run'}"
    if failed:
        console.print(_failures(failed))
    if left:
        say(f"{left}: {'sweep.on_failure=stop' if feed.stopped else 'the launcher ended before'}")
    facts = {
        "directory": str(asked.directory),
        "TensorBoard": f"tensorboard --logdir {shlex.quote(str(asked.directory))}",
        **({"go on": asked.again} if left else {}),
        **({"try again": f"{asked.again} sweep.retry_failed=true"} if failed else {}),
        **({} if left or failed else {"show again": asked.again}),
    }
    for name, value in facts.items():
        console.print(f"{name:<11}  {escape(printable(value))}", soft_wrap=True)
    if failed:
        share = f"{len(failed)} of {plural(total, 'job')} failed{f', {left}' if left else ''}"
        raise SweepFailed(f"{share}; the first: {failed[0]['error']}")
    if left:
        raise SweepFailed(f"{left}, as the launcher ended before; go on with: {asked.again}")


def _failures(failed: Sequence[Row]) -> Table:
    """Each job that failed, and why."""
    table = Table(title=f"{plural(len(failed), 'job')} failed", title_justify="left")
    table.add_column("job", overflow="fold")
    table.add_column("cause", overflow="fold", style="red")
    for row in failed:
        table.add_row(escape(Path(row["directory"]).name), escape(printable(str(row["error"]))))
    return table


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """The sweep's directory, which no other process can have meanwhile.

    Raises:
        ConfigError: it is a run's directory, or another process has it.
    """
    if (directory / "status.json").exists():
        raise ConfigError(f"{directory} holds a run; a sweep needs a directory of its own, such as sweep.name=NAME")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        held = lock(directory)
    except ConfigError as error:
        raise ConfigError(f"{directory} is in use: its sweep is still going on in another process") from error
    with held:
        yield
