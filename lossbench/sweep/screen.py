"""What a user sees while a sweep runs: a line for each job that ended, and in a terminal a table of how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Group
from rich.constrain import Constrain
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lossbench.console import console, say
from lossbench.errors import printable
from lossbench.sweep.job import Row, Source, Task
from lossbench.sweep.standing import Best, Running, Standing, duration

PER_SECOND = 2  # times that the table is drawn
SHOWN = 12  # running jobs
MEDIUM, WIDE = 60, 100  # columns of a terminal that has room for where a job runs, and for words


class Screen:
    """Shows how a sweep stands; as a context manager it has the terminal's last lines meanwhile.

    Args:
        source: knows how many jobs there will be.
        alone: whether nothing else draws in the terminal, as runs in the sweep's own process do: only then is there a
            table.
        earlier: how many jobs are known to have ended in earlier calls.
    """

    def __init__(self, source: Source, *, alone: bool, earlier: int = 0) -> None:
        self.source, self.standing = source, Standing(earlier=earlier)
        draws = alone and console.is_terminal and not console.is_dumb_terminal
        self.live = self._live() if draws else None

    def __enter__(self) -> Screen:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def started(self, task: Task, where: str) -> None:
        self.standing.begin(task, where)

    def evaluated(self, task: Task, step: int, epoch: int, metrics: Mapping[str, Mapping[str, float]]) -> None:
        self.standing.evaluate(task, step, epoch, metrics)

    def ended(self, task: Task, row: Row, *, earlier: bool) -> None:
        self.standing.end(task, row, earlier=earlier)
        if not earlier:
            total = "" if self.source.total is None else f"/{self.source.total}"
            left = f" ({self._time_left()})" if self.live is None and console.is_terminal else ""
            say(f"{self.standing.count}{total} {printable(task.job.name)}: {outcome(row)}{left}")

    def _live(self) -> Live:
        # Drawn by a thread: nothing in this process computes while the jobs run elsewhere.
        return Live(
            get_renderable=self.table,
            console=console,
            refresh_per_second=PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )

    def table(self) -> Constrain:
        """How the sweep stands now."""
        running = list(self.standing.running.values())
        now, room = self.standing.clock(), max(1, min(SHOWN, console.height - 6))
        jobs = Table(box=None, show_header=False, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
        jobs.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for job in running[:room]:
            where = [printable(job.where), duration(now - job.began)] if console.width >= MEDIUM else []
            cells = [printable(job.task.job.name), _reached(job, wide=console.width >= WIDE), *where]
            jobs.add_row(*(Text(cell, no_wrap=True) for cell in cells))
        one_line: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis"}
        more = [Text(f"and {len(running) - room} more", style="dim")] if len(running) > room else []
        best = [Text(_rated(best), style="bold", **one_line) for best in list(self.standing.best.values())]
        begins = [] if self.standing.has_begun else [Text("starting", style="dim")]
        shown = Group(Text(self._counts()), *best, jobs, *more, *begins)
        return Constrain(shown, max(1, console.width - len("^C ")))  # which a terminal writes behind the last line

    def _counts(self) -> str:
        standing, total = self.standing, self.source.total
        ended = standing.ended
        left = "?" if total is None else max(0, total - standing.count - len(standing.running))
        counts = [
            f"{ended['completed']} done",
            f"{len(standing.running)} running",
            f"{ended['failed']} failed",
            f"{ended['diverged']} diverged",
            f"{left} left",
            *([f"{standing.skipped} from before"] if standing.skipped else []),
        ]
        return f"{', '.join(counts)}; {self._time_left()}"

    def _time_left(self) -> str:
        seconds = self.standing.seconds_left(self.source.total)
        return "time left: not known yet" if seconds is None else f"time left: about {duration(seconds)}"


def outcome(row: Row) -> str:
    """How a job ended, in words: its status, why it ended so, what it reached, and its seconds."""
    best = row.get("best") or {}
    value = f"val {best['metric']} {best['value']:.4g}" if best.get("value") is not None else ""
    seconds = f"{row['seconds']:.1f} s" if "seconds" in row else ""
    status = "pruned" if row.get("reason") == "pruned" else row["status"]
    said = [str(row["error"])] if row.get("error") else [words for words in (value, seconds) if words]
    return "; ".join([status, *([", ".join(said)] if said else [])])


def _rated(best: Best) -> str:
    return f"best so far: val {best.metric} {best.value:.4g}, {printable(best.name)}"


def _reached(job: Running, *, wide: bool) -> str:
    """How far a job has come by its last evaluation, and the metric that it is judged by."""
    if not job.epoch:
        return ""
    monitor = job.task.job.settings.get("trainer.monitor")
    metric = monitor or next((name for name in job.metrics if name != "loss"), "loss")
    value = f"{job.metrics[metric]:.4g}" if metric in job.metrics else ""
    return f"epoch {job.epoch}, step {job.step}, val {metric} {value}" if wide else f"epoch {job.epoch} {value}"
