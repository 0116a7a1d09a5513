"""Where lossbench writes for people: standard output, through Rich."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.markup import escape

from lossbench.errors import printable


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """A reader that has gone (`| head`) is no reason to stop a training: print no more."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Where the output is no terminal there is no edge to wrap at.
console = _Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def say(text: str) -> None:
    """A line, with nothing in it read as markup."""
    console.print(escape(printable(text)), soft_wrap=True)
