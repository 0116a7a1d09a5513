"""`lossbench list` and `lossbench show`."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lossbench import catalog
from lossbench.errors import ConfigError, did_you_mean
from lossbench.signatures import describe, hints, intervals, noted, parameters, required, show

if TYPE_CHECKING:
    from rich.table import Table

Row = tuple[str, str, str, str]  # a key, what it takes, its default, what it does

_TARGET = re.compile(r"lossbench(?:\.\w+)+|(?<=_target_: )torch(?:\.\w+)+")
_TABLED = ("loss", "optim", "scheduler")  # the groups whose keys are shown as a table


def show_list(words: Sequence[str]) -> None:
    """Print the options of one kind, or of every kind: name, task, one line."""
    from lossbench.console import console

    for word in words:
        if word not in catalog.LISTS:
            near = did_you_mean(word, catalog.LISTS)
            raise ConfigError(f"there is no list of '{word}'{near} (lists: {', '.join(catalog.LISTS)})")
    for kind in words or catalog.LISTS:
        group = catalog.LISTS[kind]
        rows = [(card.name, card.tasks, card.summary) for card in catalog.cards(group)]
        console.print(_table(("name", "tasks", "what it is"), rows, title=f"{kind} ({group}=NAME)"))
        console.print()


def show_card(words: Sequence[str]) -> None:
    """Print the card of `GROUP=NAME`: summary, formula and shapes, every key with its default, a command to try.

    The keys are a table where a signature says what they take, else the file itself.
    """
    from rich.padding import Padding

    from lossbench.console import console

    if not words:
        raise ConfigError("show what? for example: lossbench show loss=focal")
    for word in words:
        group, equals, name = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"'{word}' is not GROUP=NAME; for example: lossbench show loss=focal")
        card = catalog.card(group, name)
        _print(f"{group}={name} (tasks: {card.tasks})\n\n{card.summary}")
        targets = {path: _located(path) for path in _TARGET.findall(card.body)}
        docs = {path: _docstring(path, target).partition("\nSource: ") for path, target in targets.items()}
        explained = {"_target_"}
        for path, target in targets.items():
            _print(_heading(path, target, card))
            _print(docs[path][0], indent=2)
            keys = _keys(target, card)
            if keys:
                explained.update(key for key, *_ in keys)
                console.print(Padding.indent(_table(("option", "what it takes", "default", "what it does"), keys), 2))
                console.print()
        _print(card.text)
        _print("\n".join(dict.fromkeys(f"Source: {source}" for _, _, source in docs.values() if source)))
        if group not in _TABLED or not targets or not card.comments.keys() <= explained:
            console.print("Config:")
            _verbatim(card.body)
            console.print()
        console.print("Try:")
        measures = any(hasattr(target, "not_differentiable") for target in targets.values())
        _verbatim(f"lossbench train experiment={card.preset}" if measures else _command(card))


def _located(path: str) -> Callable[..., Any]:
    """A function or class, of ours or of torch."""
    module, _, attribute = path.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


def _docstring(path: str, target: Callable[..., Any]) -> str:
    """Without what it raises, which is for programmers; none of torch's, whose card says all."""
    if not path.startswith("lossbench."):
        return ""
    return re.sub(r"\n+Raises:\n.*", "", inspect.getdoc(target) or "", flags=re.DOTALL)


def _heading(path: str, target: Callable[..., Any], card: catalog.Card) -> str:
    """The target, and for a loss the fields that it takes."""
    if card.group != "loss":
        return path
    called = getattr(target, "forward", target)
    return f"{path}({', '.join(name for name in required(called) if name != 'self')})"


def _keys(target: Callable[..., Any], card: catalog.Card) -> list[Row]:
    """What is known of the target's options, where there is a table of them."""
    if card.group not in _TABLED:
        return []
    return _keys_of_signature(target, card) if card.group == "loss" else _keys_of_file(target, card)


def _keys_of_signature(target: Callable[..., Any], card: catalog.Card) -> list[Row]:
    """A loss's hyperparameters; the defaults are its own, since several functions under one name may differ in them."""
    types, comments = hints(target), card.comments
    return [
        (name, _takes(types.get(name, Any)), show(parameter.default), comments[name])
        for name, parameter in parameters(target).items()
        if name in comments and parameter.default is not parameter.empty
    ]


def _keys_of_file(target: Callable[..., Any], card: catalog.Card) -> list[Row]:
    """An optimizer's or a schedule's options with the file's defaults, and below them what all of its group take."""
    import yaml

    from lossbench.optim import OptimOptions, SchedulerOptions
    from lossbench.optim.ranges import RANGES

    options = {"optim": OptimOptions, "scheduler": SchedulerOptions}[card.group]
    common, own = catalog.common(card.group), yaml.safe_load(card.body)
    values = {**own, **yaml.safe_load(common.body), **own}
    comments = common.comments | {key: comment for key, comment in card.comments.items() if comment}
    types = hints(options) | noted(target, RANGES[card.group])
    return [
        (key, _takes(types.get(key, Any), value), show(value), comments.get(key, ""))
        for key, value in values.items()
        if key != "_target_"
    ]


def _takes(hint: Any, default: Any = ...) -> str:
    """A type with its intervals in words; where null is the default, null is taken too."""
    kinds, ranges = "anything" if hint is Any else describe(hint), " and ".join(intervals(hint))
    if default is None and not kinds.endswith("null"):
        kinds += " or null"
    join = ", in " if " or " in kinds else " in "
    return kinds + (join + ranges if ranges else "")


def _command(card: catalog.Card) -> str:
    """A command that trains with it, on data that it fits."""
    if card.group == "dataset" and "???" in card.body:
        words = {"path": "FILE", "root": "DIRECTORY", "target": "COLUMN"}
        keys = re.findall(r"(\w+): \?\?\?", card.body)
        return " ".join([f"lossbench train dataset={card.name}", *(f"dataset.{key}={words[key]}" for key in keys)])
    setting = f"{card.group}={card.name}"
    if card.preset:
        return f"lossbench train experiment={card.preset} {setting}"
    if card.group == "loss" and "multiclass" not in card.fits and card.fits:
        dataset = next(c.name for c in catalog.cards("dataset") if c.fits == card.fits[:1])
        return f"lossbench train dataset={dataset} {setting}"
    return f"lossbench train {setting}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """A table without lines, whose first column is never broken."""
    from rich.markup import escape
    from rich.table import Table

    from lossbench.console import console

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for i, name in enumerate(head):
        wide = console.width // 5 if name == "tasks" else None
        table.add_column(name, style=None if i else "bold", no_wrap=i == 0, max_width=wide)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _print(text: str, indent: int = 0) -> None:
    """Paragraphs, broken into lines of the console's width; each `Label:` and `- ` and indented line starts one."""
    from rich.padding import Padding
    from rich.text import Text

    from lossbench.console import console

    for block in filter(None, text.strip().split("\n\n")):
        for paragraph in re.split(r"\n(?=\s|- |[A-Z][\w ]*:)", block):
            start = len(paragraph) - len(paragraph.lstrip())
            words = Text(" ".join(paragraph.split()))
            console.print(Padding.indent(words, indent + start))
        console.print()


def _verbatim(text: str) -> None:
    """Lines to copy, which are never broken."""
    from lossbench.console import console

    lines = (f"  {line}" if line else "" for line in text.strip().splitlines())
    console.print("\n".join(lines), markup=False, soft_wrap=True)
