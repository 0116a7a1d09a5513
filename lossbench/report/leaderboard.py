"""The leaderboard: arms, the best one first, then pairs of them with a verdict in words; on the screen and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from lossbench.console import console, say
from lossbench.errors import ConfigError, LossbenchError, printable
from lossbench.report.comparison import Comparison, compare
from lossbench.report.layout import Column, arm_columns, headline, pair_columns, verdicts
from lossbench.report.leaderboard_files import foreign, save
from lossbench.report.runs import read_runs


def conclude(directory: Path) -> None:
    """Show the leaderboard of a sweep, and keep it in the sweep's directory; where there is none, say why."""
    try:
        comparison = compare(read_runs([directory]))
    except ConfigError as error:
        say(f"no leaderboard: {error}")
        return
    show(comparison)
    keep(comparison, directory)


def keep(comparison: Comparison, directory: Path, *, force: bool = False) -> None:
    """Save the leaderboard of a sweep in its directory, in the place of an earlier one; or say why that cannot be.

    Args:
        force: whether files that are no leaderboard of ours are overwritten as well.
    """
    others = [] if force else foreign(directory)
    if others:
        say(f"not saved: {others[0]} is not a leaderboard of ours; lossbench compare --force overwrites it")
        return
    try:
        save(comparison, directory)
    except LossbenchError as error:
        say(f"not saved: {error}")
        return
    say(f"saved as {directory / 'leaderboard'}.csv, .md, .json and -pairs.csv")


def show(comparison: Comparison) -> None:
    """Print tables that the console has room for, the verdicts and the notes.

    The arm of the best mean is bold where it is found better than some other, and a pair where one arm is better.
    """
    best, better = comparison.arms[0].spread.mean, {pair.better for pair in comparison.pairs}
    strong = [arm.spread.mean == best and arm.name in better for arm in comparison.arms]
    console.print(Text(headline(comparison)), soft_wrap=True)
    console.print(fitted(arm_columns(comparison), strong))
    if comparison.pairs:
        console.print(fitted(pair_columns(comparison), [pair.better is not None for pair in comparison.pairs]))
    for line, is_better in verdicts(comparison.pairs):
        console.print(Text(line, style="bold" if is_better else ""), soft_wrap=True)
    for note in comparison.notes:
        console.print(Text(f"note: {printable(note)}", style="yellow"), soft_wrap=True)


def fitted(columns: Sequence[Column], bold: Sequence[bool]) -> Table:
    """The table, without the columns of the highest ranks as far as the console is too narrow for them."""
    kept = list(columns)
    unlimited = console.options.update(width=10_000)
    while True:
        table = _table(kept, bold)
        spare = [column for column in kept if column.rank]
        if not spare or console.measure(table, options=unlimited).maximum <= console.width:
            return table
        kept.remove(max(spare, key=lambda column: column.rank))


def _table(columns: Sequence[Column], bold: Sequence[bool]) -> Table:
    table, names = Table(), sum(column.is_name for column in columns)
    for column in columns:
        if column.is_name:
            table.add_column(Text(column.head), overflow="fold", max_width=max(12, console.width // (2 + names)))
        else:
            table.add_column(Text(column.head), justify="right", no_wrap=True)
    for row, strong in zip(zip(*(column.cells for column in columns), strict=True), bold, strict=True):
        table.add_row(*map(Text, row), style="bold" if strong else None)
    return table
