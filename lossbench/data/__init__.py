"""Data sets, their splits, and batches from them."""

from lossbench.data.batches import Batches, gather
from lossbench.data.prepare import Data, DatasetOptions, Split, SplitShares, prepare
from lossbench.data.source import Source
from lossbench.data.table import Table

__all__ = [
    "Batches",
    "Data",
    "DatasetOptions",
    "Source",
    "Split",
    "SplitShares",
    "Table",
    "gather",
    "prepare",
]
