"""`lossbench list` and `lossbench show`."""

from __future__ import annotations

from collections.abc import Sequence

from lossbench import catalog
from lossbench.errors import ConfigError, did_you_mean


def show_list(words: Sequence[str]) -> None:
    """Print the options of one kind, or of every kind: name, task, one line."""
    from rich.markup import escape
    from rich.table import Table

    from lossbench.console import console

    for word in words:
        if word not in catalog.LISTS:
            near = did_you_mean(word, catalog.LISTS)
            raise ConfigError(f"there is no list of '{word}'{near} (lists: {', '.join(catalog.LISTS)})")
    for kind in words or catalog.LISTS:
        group = catalog.LISTS[kind]
        table = Table(title=f"{kind} ({group}=NAME)", title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.add_column("name", style="bold", no_wrap=True)
        table.add_column("tasks")
        table.add_column("what it is")
        for card in catalog.cards(group):
            table.add_row(card.name, escape(card.tasks), escape(card.summary))
        console.print(table)
        console.print()


def show_card(words: Sequence[str]) -> None:
    """Print the card of `GROUP=NAME`: summary, formula and shapes, every key with its default, a command to try."""
    from lossbench.console import console

    if not words:
        raise ConfigError("show what? for example: lossbench show loss=focal")
    for word in words:
        group, equals, name = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"'{word}' is not GROUP=NAME; for example: lossbench show loss=focal")
        card = catalog.card(group, name)
        parts = [f"{group}={name}   (tasks: {card.tasks})", card.summary, card.text]
        parts += [_docstrings(card.body), "Config:\n" + _indent(card.body), f"Try:\n  {_command(card)}"]
        console.print("\n\n".join(part for part in parts if part), markup=False, soft_wrap=True)


def _docstrings(body: str) -> str:
    """The docstrings of our own functions that the file names."""
    import importlib
    import inspect
    import re

    found = []
    for path in re.findall(r"lossbench(?:\.\w+)+", body):
        module, _, attribute = path.rpartition(".")
        target = getattr(importlib.import_module(module), attribute)
        found.append(f"{path}\n{_indent(inspect.getdoc(target) or '')}")
    return "\n\n".join(found)


def _command(card: catalog.Card) -> str:
    """A command that trains with it, on data that it fits."""
    if card.group == "dataset" and "???" in card.body:
        return f"lossbench train dataset={card.name} dataset.path=FILE dataset.target=COLUMN"
    setting = f"{card.group}={card.name}"
    if card.group == "loss" and "multiclass" not in card.fits and card.fits:
        dataset = next(c.name for c in catalog.cards("dataset") if c.fits == card.fits[:1])
        return f"lossbench train dataset={dataset} {setting}"
    return f"lossbench train {setting}"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.strip().splitlines())
