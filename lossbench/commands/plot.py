"""`lossbench plot`: how the learning rate, and the momentum, would move over a run, without training."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lossbench.build import Run, build
from lossbench.commands.combinations import combinations, said_of
from lossbench.commands.files import check_place
from lossbench.commands.load import composed
from lossbench.commands.usage import Asked
from lossbench.console import console, say
from lossbench.errors import ConfigError, plural, printable
from lossbench.rates import settled
from lossbench.report.figure import Curve, Panel, Picture, number, thinned
from lossbench.report.picture import check_kind, save
from lossbench.report.terminal import WIDEST, draw


@dataclass(frozen=True)
class Course:
    """What a parameter group's rate and momentum are at each step of a run.

    Attributes:
        name: what tells it from the other courses.
        rates: one for each step, as `steps.csv` would have it.
        momenta: likewise; none where the optimizer has no momentum.
        schedule: what is said of the schedule: its warm-up in steps, and what a move of it is.
    """

    name: str
    rates: Sequence[float]
    momenta: Sequence[float]
    steps_per_epoch: int
    warmup: int
    interval: str


def run(asked: Asked) -> None:
    """Build each combination as `train` would, follow its schedule to the end, and draw.

    Raises:
        LossbenchError: what `train` would raise before it begins, or a picture that cannot be written.
    """
    _check_words(asked.overrides)
    output = Path(asked.values["--output"]) if "--output" in asked.values else None
    if output:
        check_kind(output, "--output")
        check_place(output, force="--force" in asked.switches)
    courses, notes = _courses(asked)
    by_epoch, log = asked.values.get("--by") == "epoch", "--log" in asked.switches
    picture = pictured(courses, by_epoch=by_epoch, log=log)
    console.print(draw(picture, min(console.width, WIDEST)))
    console.print()
    for fact in _facts(courses):
        console.print(fact)
    for note in notes:
        say(note)
    if output:
        save(picture, output)
        say(f"picture in {output}")


def followed(built: Run, name: str = "") -> list[Course]:
    """The course of each parameter group of a run, with the run's own schedules: no step is taken.

    A schedule that follows a metric is told at each evaluation that it has not got better.
    """
    schedules, length = built.player.schedules, built.length
    groups = [(schedule, group) for schedule in schedules for group in schedule.optimizer.param_groups]
    rates: list[list[float]] = [[] for _ in groups]
    momenta: list[list[float]] = [[] for _ in groups]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch wants an optimizer step before each
        for step in range(1, length.steps + 1):
            for k, (_, group) in enumerate(groups):
                rates[k].append(float(group["lr"]))
                momenta[k] += _momentum(group)
            for schedule in schedules:
                schedule.step()
                if step % length.eval_every == 0:
                    schedule.evaluated({schedule.metric: 0.0})
    return [
        Course(
            _join(name, str(group["name"])) if len(groups) > 1 else name or built.config.scheduler.name,
            rates[k],
            momenta[k],
            built.batches.steps_per_epoch,
            schedule.warmup,
            schedule.interval,
        )
        for k, (schedule, group) in enumerate(groups)
    ]


def pictured(courses: Sequence[Course], *, by_epoch: bool = False, log: bool = False) -> Picture:
    """The courses' rates, over steps or epochs, and below them their momenta where one moves."""
    momenta = [course for course in courses if course.momenta]
    panels = [Panel("learning rate", _curves(courses, lambda course: course.rates, by_epoch), log)]
    if any(len(set(course.momenta)) > 1 for course in momenta):
        panels.append(Panel("momentum", _curves(momenta, lambda course: course.momenta, by_epoch)))
    lengths = {(len(course.rates), course.steps_per_epoch) for course in courses}
    what = courses[0].name if len(courses) == 1 else f"{len(courses)} schedules"
    title = f"{what} over {_length(*lengths.pop())}" if len(lengths) == 1 else what
    return Picture(title, "epoch" if by_epoch else "step", panels)


def _courses(asked: Asked) -> tuple[list[Course], list[str]]:
    """The courses of all combinations, and what is to be said of them."""
    courses: list[Course] = []
    notes: dict[str, None] = {}
    for label, words in combinations(asked):
        with said_of(label, words):
            # Rates are the same on any device.
            built = build(settled(composed(["trainer.device=cpu", *words], asked.config_dirs)))
        courses += followed(built, label)
        notes |= dict.fromkeys(_notes(built))
    return courses, list(notes)


def _notes(built: Run) -> list[str]:
    """On what assumptions a run's courses are drawn."""
    return [
        f"{built.config.scheduler.name} follows val {schedule.metric}: drawn as if that never got better"
        for schedule in built.player.schedules
        if isinstance(schedule.main, ReduceLROnPlateau)
    ]


def _facts(courses: Sequence[Course]) -> Iterator[RenderableType]:
    """In words what the picture shows: a table, or lines where the console is too narrow for it."""
    heads = ("schedule", "start", "peak", "at step", "end", "warm-up", "moves per", "length")
    rows = [_words(course) for course in courses]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in heads:
        table.add_column(name, justify="right" if name in ("start", "peak", "at step", "end") else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    if console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width:
        yield table
        return
    for name, *values in rows:
        said = ", ".join(f"{head} {value}" for head, value in zip(heads[1:], values, strict=True))
        yield Text(f"{name}: {said}")


def _words(course: Course) -> list[str]:
    rates, peak = course.rates, max(course.rates)
    return [
        printable(course.name),
        number(rates[0]),
        number(peak),
        f"{rates.index(peak) + 1:,}",
        number(rates[-1]),
        plural(course.warmup, "step") if course.warmup else "-",
        course.interval,
        _length(len(rates), course.steps_per_epoch),
    ]


def _length(steps: int, per_epoch: int) -> str:
    return f"{plural(steps, 'step')} in {plural(-(-steps // per_epoch), 'epoch')}"


def _curves(courses: Sequence[Course], values: Callable[[Course], Sequence[float]], by_epoch: bool) -> list[Curve]:
    found = []
    for course in courses:
        steps = range(1, len(course.rates) + 1)
        across = [step / course.steps_per_epoch for step in steps] if by_epoch else steps
        found.append(thinned(Curve(course.name, across, values(course))))
    return found


def _momentum(group: Mapping[str, Any]) -> list[float]:
    """A parameter group's momentum, or that of Adam and the like: their first beta."""
    if "momentum" in group:
        return [float(group["momentum"])]
    return [float(group["betas"][0])] if "betas" in group else []


def _join(name: str, group: str) -> str:
    return f"{name}: {group}" if name else group


def _check_words(words: Sequence[str]) -> None:
    """Refuse words that are no settings.

    Raises:
        ConfigError: there is none, or one is a path.
    """
    if not words:
        raise ConfigError("plot what? for example: lossbench plot scheduler=cosine (lossbench plot --help)")
    for word in words:
        if (os.sep in word or "=" not in word) and Path(word).exists():
            raise ConfigError(f"plot draws the schedule of settings, such as scheduler=cosine, and '{word}' is a path")
