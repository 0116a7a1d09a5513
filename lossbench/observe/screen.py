"""What the user sees: a progress bar (plain lines where the output is no terminal), and the tables at the end."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lossbench.console import console
from lossbench.engine.record import Incident, Metrics, StepRow
from lossbench.errors import plural
from lossbench.observe.group_table import group_table
from lossbench.observe.recorder import Sink

LINE_EVERY = 1.0  # seconds between plain lines


class Screen(Sink):
    """The progress of one run: epoch, step, loss, rate, examples per second, and the monitored metric.

    Args:
        start: the step that it goes on from.
        brief: one of many runs: its progress bar goes away, and it prints no lines.
        hidden: it shows nothing: others may have the terminal.
    """

    def __init__(
        self,
        *,
        steps: int,
        epochs: int,
        monitor: str,
        batch_size: int,
        start: int = 0,
        brief: bool = False,
        hidden: bool = False,
    ) -> None:
        self.start = start
        self.total, self.epochs, self.monitor, self.batch_size = steps, epochs, monitor, batch_size
        self.started = self.drawn = time.perf_counter()
        self.last: StepRow | None = None
        self.value = "-"
        self.progress = self._progress(transient=brief) if console.is_terminal and not hidden else None
        self.prints = self.progress is None and not brief

    def steps(self, rows: Sequence[StepRow]) -> None:
        self.last = rows[-1]
        if self.progress is not None and time.perf_counter() - self.drawn > 0.1:
            self._draw(self.progress)

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, Metrics]) -> None:
        self.value = f"{metrics['val'][self.monitor]:.4g}"
        if self.prints and (time.perf_counter() - self.drawn > LINE_EVERY or step == self.total):
            self.drawn = time.perf_counter()
            console.print(escape(" | ".join(self._words())), soft_wrap=True)

    def incident(self, incident: Incident) -> None:
        after = {"skip": "; left out", "repeat": "; finite when it was run again"}
        if incident.action != "abort":  # that one is the run's last word
            self._say(f"step {incident.row.step}: {incident.text}{after.get(incident.action, '')}")

    def rewind(self, step: int) -> None:
        self.start, self.started, self.last = step, time.perf_counter(), None
        self._say(f"back to step {step}, at a lower rate")

    def _say(self, text: str) -> None:
        if self.prints or self.progress is not None:
            console.print(escape(text), soft_wrap=True)

    def close(self) -> None:
        if self.progress is not None:
            self._draw(self.progress)
            self.progress.stop()

    def _progress(self, *, transient: bool) -> Progress:
        # No refresh thread: it would take turns with the training for the interpreter.
        columns = (BarColumn(bar_width=20), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
        progress = Progress(*columns, console=console, auto_refresh=False, transient=transient)
        self.bar = progress.add_task("starting", total=self.total)
        progress.start()
        return progress

    def _draw(self, progress: Progress) -> None:
        self.drawn = time.perf_counter()
        done = self.last.step if self.last else 0
        progress.update(self.bar, completed=done, description=" | ".join(self._words()), refresh=True)

    def _words(self) -> list[str]:
        row = self.last
        if row is None:
            return ["starting"]
        rate = (row.step - self.start) * self.batch_size / max(time.perf_counter() - self.started, 1e-9)
        return [
            f"epoch {row.epoch}/{self.epochs}",
            f"step {row.step}/{self.total}",
            f"loss {row.loss:.4g}",
            f"lr {row.lr:.3g}",
            f"{rate:,.0f} examples/s",
            f"val {self.monitor} {self.value}",
        ]


def show_summary(summary: Mapping[str, Any], directory: str, logdir: str) -> None:
    """The table at the end of a run, its directory, and the command that opens TensorBoard."""
    console.print(escape(f"{summary['name']}: {summary['status']}"), soft_wrap=True)
    if summary["metrics"]:
        console.print(_metrics_table(summary))
    if len(summary["groups"]) > 1:
        console.print(group_table(summary["groups"]))
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in (
        *_facts(summary),
        ("directory", directory),
        ("TensorBoard", f"tensorboard --logdir {shlex.quote(logdir)}"),
    ):
        facts.add_row(name, Text(value, no_wrap=True, overflow="ignore"))
    console.print(facts, soft_wrap=True)


def _metrics_table(summary: Mapping[str, Any]) -> Table:
    """One column for each split, and for those that the averaged weights were measured on."""
    table, metrics = Table(), summary["metrics"]
    table.add_column("metric")
    for split in metrics:
        table.add_column("validation" if split == "val" else split, justify="right")
    for name in filter(_shown, metrics.get("val", {})):
        values = [_number(found.get(name)) for found in metrics.values()]
        table.add_row(name, *values, style="bold" if name == summary["best"]["metric"] else None)
    return table


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    averaged = summary["averaged"]
    early = {"max_time": "; stopped by trainer.max_time", "early_stop": "; stopped by trainer.early_stop"}
    kinds = [f"{count:,} {kind}" for kind, count in summary["skipped"].items() if count]
    why = f" ({', '.join(kinds)})" if kinds else ""
    steps = f"{summary['steps']:,} in {plural(summary['epochs'], 'epoch')}, {summary['skipped_steps']:,} skipped{why}"
    return [
        ("best", _found(summary["best"], "val")),
        *([("averaged", _found(averaged, f"val_{averaged['kind']}"))] if averaged else []),
        ("steps", steps + early.get(summary.get("reason", ""), "")),
        ("time", f"{summary['seconds']:.1f} s, {summary['examples_per_second']:,.0f} examples/s"),
        ("parameters", f"{summary['parameters']:,}"),
        ("device", f"{summary['device']}, {summary['precision']}"),
    ]


def _found(best: Mapping[str, Any], split: str) -> str:
    """When the best weights of a kind were found, and how good they are."""
    if not best["step"]:
        return "none: there was no evaluation with a number"
    return f"epoch {best['epoch']}, step {best['step']:,} ({split} {best['metric']} {_number(best['value'])})"


def _shown(metric: str) -> bool:
    """Whether a metric has a place in the tables: those of single classes (`recall/3`) are in the files."""
    return "/" not in metric


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if 0 < abs(value) < 0.001:  # an error that an optimizer has brought down is no 0
        return f"{value:.1e}"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.1f}"
