"""`lr_finder.csv`: the range test that found a run's rate."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lossbench.observe.replacing import replacing

NAME = "lr_finder.csv"
COLUMNS = ("rate", "loss", "smoothed")


def write_range_test(
    directory: Path, rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float]
) -> None:
    """Write a row a step; numbers can be read back to the last bit."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    rows.writerows(zip(rates, losses, smoothed, strict=True))
    with replacing(directory / NAME) as file:
        file.write(text.getvalue().encode())
