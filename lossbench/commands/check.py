"""`lossbench check`: all that can be known without training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from lossbench.app import with_recorded
from lossbench.build import Run, build
from lossbench.commands.load import composed
from lossbench.commands.usage import Asked
from lossbench.console import console
from lossbench.engine import Part
from lossbench.engine.course import standing
from lossbench.errors import plural
from lossbench.observe.group_table import group_table
from lossbench.resume import resume


def run(asked: Asked) -> None:
    """Compose, check and build as `train` does, try a few examples, and say what would be trained.

    Raises:
        LossbenchError: what `train` would raise before it begins.
    """
    config = composed(with_recorded([], asked.overrides), asked.config_dirs)
    earlier = resume(config)
    with earlier.lock if earlier else nullcontext():
        built = build(config)
        if earlier:
            earlier.load(built)
    notes = list(built.notes)
    if earlier:
        notes += [f"goes on after step {earlier.step:,} of {earlier.path}", *earlier.notes]
    table = Table(title=Text(config.name), title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in (*facts(built), *(("note", note) for note in notes)):
        table.add_row(name, Text(value))
    console.print(table)
    if len(built.groups) > 1:
        console.print(group_table([asdict(group) for group in built.groups]))
    console.print("ok")


def facts(built: Run) -> list[tuple[str, str]]:
    """What would be trained, by name."""
    config, data, length = built.config, built.data, built.length
    splits = (("training", data.train), ("validation", data.val), ("test", data.test))
    rows = ", ".join(f"{len(split):,} {name}" for name, split in splits)
    epochs = -(-length.steps // built.batches.steps_per_epoch)
    limit = f", at most {length.max_time:g} s" if length.max_time else ""
    schedule = built.player.schedules[0]
    losses = [part for piece in built.player.objective.parts for part in piece.leaves()]
    warmup = f", {plural(schedule.warmup, 'step')} of warm-up" if schedule.warmup else ""
    return [
        ("dataset", f"{config.dataset.name} ({data.task.name}): {rows} rows"),
        ("inputs", f"shape {data.input_shape}"),
        *([("classes", _listed(data.classes))] if data.classes else []),
        ("model", f"{config.model.name}: {sum(p.numel() for p in built.player.parameters):,} parameters"),
        *(("loss", _called(part)) for part in losses),
        ("optimizer", f"{config.optim.name}, lr {'auto' if config.lr_auto else f'{schedule.rates[0]:g}'}"),
        ("schedule", f"{config.scheduler.name}{warmup}"),
        ("device", f"{built.device}, {built.precision}"),
        ("steps", f"{length.steps:,} in {plural(epochs, 'epoch')} of {built.batches.steps_per_epoch:,}{limit}"),
    ]


def _listed(names: tuple[str, ...], n: int = 12) -> str:
    more = f", ... {len(names) - n:,} more" if len(names) > n else ""
    return f"{len(names):,}: {', '.join(names[:n])}{more}"


def _called(part: Part) -> str:
    """A loss as it is called, after its option's name where that is another."""
    function = standing(part.function)
    function = getattr(function, "func", function)
    name = getattr(function, "__name__", type(function).__name__)
    return f"{'' if name == part.name else f'{part.name}: '}{name}({', '.join(part.needs)})"
