"""The table of a run's parameter groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text


def group_table(groups: Sequence[Mapping[str, Any]]) -> Table:
    """Name, size, rates, weight decay and when each group is trained; the rate at the end where it is known."""
    ended = any("lr_end" in group for group in groups)
    table = Table()
    rates = ("lr at\nthe start", "lr at\nthe end") if ended else ("lr",)
    table.add_column("group", overflow="fold")
    for name in ("parameters", *rates, "weight\ndecay"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("trained", no_wrap=True)
    for group in groups:
        found = [_number(group[key]) for key in ("lr", "lr_end") if key in group]
        row = (group["name"], f"{group['parameters']:,}", *found, _number(group["weight_decay"]), _when(group))
        table.add_row(*map(Text, row), style="dim" if group["frozen"] else None)
    return table


def _when(group: Mapping[str, Any]) -> str:
    if group["frozen"]:
        return "never (frozen)"
    return f"from epoch {group['unfreeze']} on" if group["unfreeze"] else "always"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
