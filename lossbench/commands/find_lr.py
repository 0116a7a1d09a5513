"""`lossbench find-lr`: a learning-rate range test, as a picture, a table and a rate to train with."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from rich.text import Text

from lossbench.commands.combinations import combinations, said_of
from lossbench.commands.files import check_place, replaced
from lossbench.commands.load import composed
from lossbench.commands.usage import Asked
from lossbench.console import console, say
from lossbench.engine.range_rule import RangeTest
from lossbench.engine.range_test import START, STEPS, STOP
from lossbench.errors import ConfigError, printable
from lossbench.observe.run_dir import finite
from lossbench.rates import find_rate
from lossbench.report.figure import Curve, Panel, Picture
from lossbench.report.picture import check_kind, save
from lossbench.report.terminal import WIDEST, draw
from lossbench.saved import key_of
from lossbench.signatures import convert

RANGE = {  # flag: what it takes, and what it is without
    "--start": (Annotated[float, "(0, inf)"], START),
    "--stop": (Annotated[float, "(0, inf)"], STOP),
    "--steps": (Annotated[int, "[20, 100000]"], STEPS),
}


def run(asked: Asked) -> None:
    """Test each combination, and show what was found.

    Raises:
        LossbenchError: what `train` would raise before it begins, a range that is none, or a file that cannot be
            written.
    """
    limits = _limits(asked.values)
    output, target = asked.values.get("--output"), asked.values.get("--json")
    if output:
        check_kind(Path(output), "--output")
        check_place(Path(output), force="--force" in asked.switches)
    if target not in (None, "-"):
        check_place(Path(str(target)), force=True, dash=True)
    found = _found(asked, limits)
    if output:
        save(pictured(found), Path(output))
    if target is not None:
        text = as_json(found)
        if target == "-":
            print(text)
            return
        with replaced(Path(target)) as part:
            part.write_text(f"{text}\n")
    console.print(draw(pictured(found), min(console.width, WIDEST)))
    console.print()
    console.print(_table(found))
    _say_how(found, asked)
    if output:
        say(f"picture in {output}")


Found = Sequence[tuple[str, Sequence[str], RangeTest]]  # a combination's name, its settings, and its test


def pictured(found: Found) -> Picture:
    """The smoothed losses over the rate; of one combination also the loss of each step and the rates that matter."""
    if len(found) > 1:
        curves = [Curve(printable(label), test.rates, test.smoothed) for label, _, test in found]
        return Picture("range test", "learning rate", [Panel("loss, smoothed", curves)], log_x=True)
    label, _, test = found[0]
    top = max(test.smoothed)
    losses = [loss if loss <= top else math.nan for loss in test.losses]  # an explosion would flatten all else
    curves = [Curve("loss", test.rates, losses), Curve("smoothed", test.rates, test.smoothed)]
    named = ((test.suggested, "suggested"), (test.diverged_at, "diverges"))
    marks = [(rate, name) for rate, name in named if rate is not None]
    return Picture(f"range test{label and f': {label}'}", "learning rate", [Panel("loss", curves)], True, marks)


def as_json(found: Found) -> str:
    """A list with an object for each combination; NaN and infinities are null."""
    made = [{"name": label, "settings": list(words), **asdict(test)} for label, words, test in found]
    return json.dumps([_finite(one) for one in made], indent=2)


def _finite(one: Mapping[str, Any]) -> Any:
    return {k: [finite(v) for v in value] if isinstance(value, (list, tuple)) else value for k, value in one.items()}


def _limits(values: Mapping[str, str]) -> dict[str, Any]:
    """The range, as the flags have it.

    Raises:
        ConfigError: no numbers, or not in order.
    """
    found: dict[str, Any] = {}
    for flag, (hint, default) in RANGE.items():
        found[flag.removeprefix("--")] = convert(flag, _number(values[flag]), hint) if flag in values else default
    if found["start"] >= found["stop"]:
        raise ConfigError(f"--start={found['start']:g} must be less than --stop={found['stop']:g}")
    return found


def _number(word: str) -> Any:
    """The number that a word is, or the word, which is then refused."""
    try:
        return float(word)
    except ValueError:
        return word


def _found(asked: Asked, limits: Mapping[str, Any]) -> Found:
    if any(key_of(word) == "resume" for word in asked.overrides):
        raise ConfigError("find-lr looks for the rate that a new run begins with; leave resume away")
    found = []
    for label, words in combinations(asked):
        with said_of(label, words):
            found.append((label, words, find_rate(composed(words, asked.config_dirs), **limits)))
    return found


def _table(found: Found) -> Table:
    several = len(found) > 1
    table = Table()
    for name in [""] * several + ["steepest", "diverges at", "suggested"]:
        table.add_column(name, justify="right" if name else "left")
    table.add_column("reason")
    for label, _, test in found:
        rates = (test.steepest, test.diverged_at, test.suggested)
        shown = ["-" if rate is None else f"{rate:.2g}" for rate in rates]
        reason = f"{test.reason}{test.advice and f'; {test.advice}'}"
        table.add_row(*[Text(printable(label))] * several, *shown, Text(reason))
    return table


def _say_how(found: Found, asked: Asked) -> None:
    """The command that trains with what was found."""
    flags = [word for directory in asked.config_dirs for word in ("--config-dir", str(directory))]
    for _, words, test in found:
        if test.suggested is not None:
            kept = [word for word in words if key_of(word) != "optim.lr"]
            say("train with: " + shlex.join(["lossbench", "train", *flags, *kept, f"optim.lr={test.suggested:g}"]))
