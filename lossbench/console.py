"""Where lossbench writes for people: standard output, through Rich."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape

# Where the output is no terminal there is no edge to wrap at.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def say(text: str) -> None:
    """A line, with nothing in it read as markup."""
    console.print(escape(text), soft_wrap=True)
