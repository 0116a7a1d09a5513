"""`lossbench repair`: a run's TensorBoard file, made again from its CSV files."""

from __future__ import annotations

from lossbench.commands.usage import Asked
from lossbench.console import say
from lossbench.observe.repair import repair


def run(asked: Asked) -> None:
    """Make it again, and say so."""
    say(repair(asked.path))
