"""A comparison as files: CSV for a spreadsheet, Markdown to paste, JSON with everything."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lossbench.errors import ResourceError
from lossbench.observe.replacing import replacing
from lossbench.report.arms import SEED
from lossbench.report.comparison import Comparison, Standing
from lossbench.report.layout import Column, arm_columns, headline, pair_columns, verdicts
from lossbench.report.pairs import Pair
from lossbench.report.statistics import Interval

KIND = "lossbench leaderboard"
NAMES = ("leaderboard.csv", "leaderboard-pairs.csv", "leaderboard.md", "leaderboard.json")


def save(comparison: Comparison, directory: Path) -> None:
    """Write all files, each in the place of an earlier one.

    Raises:
        ResourceError: the directory cannot be written to.
    """
    texts = (
        as_csv([_arm_row(arm, comparison) for arm in comparison.arms]),
        as_csv([_pair_row(pair) for pair in comparison.pairs]),
        as_markdown(comparison),
        json.dumps(as_json(comparison), indent=1, allow_nan=False) + "\n",
    )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in zip(NAMES, texts, strict=True):
            with replacing(directory / name) as file:
                file.write(text.encode())
    except OSError as error:
        raise ResourceError(f"cannot write to '{directory}': {error.strerror or error}") from error


def there(directory: Path) -> list[Path]:
    """The files in a directory that `save` would overwrite."""
    return [directory / name for name in NAMES if (directory / name).exists()]


def foreign(directory: Path) -> list[Path]:
    """Those of them that are no leaderboard of ours: it is by the JSON file that the others are known."""
    found = there(directory)
    try:
        kind = json.loads((directory / "leaderboard.json").read_bytes())["kind"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return found
    return [] if kind == KIND else found


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, in the types of JSON."""
    return {
        "kind": KIND,
        "version": 1,
        "metric": asdict(comparison.metric),
        "target": asdict(comparison.target) if comparison.target else None,
        "keys": list(comparison.keys),
        "averaged": list(comparison.averaged),
        "arms": [_arm(arm) for arm in comparison.arms],
        "pairs": [asdict(pair) for pair in comparison.pairs],
        "notes": list(comparison.notes),
    }


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line of the rows' keys, and a line a row; nothing where there is no row."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def as_markdown(comparison: Comparison) -> str:
    """The tables, the verdicts and the notes."""
    parts = [_escaped(headline(comparison)), _markdown_table(arm_columns(comparison))]
    if comparison.pairs:
        parts.append(_markdown_table(pair_columns(comparison)))
    lines = [*(line for line, _ in verdicts(comparison.pairs)), *(f"note: {note}" for note in comparison.notes)]
    parts += ["\n".join(f"- {_escaped(line)}" for line in lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[Column]) -> str:
    rows = [
        [_escaped(column.head.replace("\n", " ")) for column in columns],
        [":--" if column.is_name else "--:" for column in columns],
        *zip(*([_escaped(cell) for cell in column.cells] for column in columns), strict=True),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _escaped(text: str) -> str:
    """As it is, where Markdown is read."""
    return re.sub(r"([\\`*\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def _arm(arm: Standing) -> dict[str, Any]:
    return asdict(arm) | {"values": [{SEED: _number(seed), "value": value} for seed, value in arm.values.items()]}


def _number(text: str | None) -> int | str | None:
    """A whole number where the text is one."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def _arm_row(arm: Standing, comparison: Comparison) -> dict[str, Any]:
    spread, reached = arm.spread, arm.reached
    return {
        "arm": arm.name,
        **{key: arm.settings.get(key) for key in comparison.keys},
        "metric": f"{comparison.metric.split}/{comparison.metric.name}",
        "n": spread.n,
        "runs": arm.runs,
        "mean": spread.mean,
        "sd": spread.sd,
        **_ends("t", spread.interval),
        **_ends("bootstrap", spread.bootstrap),
        "median": spread.median,
        "best": arm.best,
        "seconds": arm.seconds,
        **(
            {"target": str(comparison.target), **{f"target_{k}": v for k, v in asdict(reached).items()}}
            if reached
            else {}
        ),
        "diverged": arm.diverged,
        "failed": arm.failed,
        "no_number": arm.empty,
    }


def _pair_row(pair: Pair) -> dict[str, Any]:
    facts = asdict(pair)
    return {
        key: value
        for name, found in facts.items()
        for key, value in (_ends("difference", found) if name == "interval" else {name: found}).items()
    }


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}
