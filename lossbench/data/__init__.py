"""Data sets, their splits, and batches from them."""

from lossbench.data.batches import Batches, gather
from lossbench.data.fitted import Fitted
from lossbench.data.prepare import Data, DatasetOptions, SplitShares, prepare
from lossbench.data.source import Source
from lossbench.data.split import Split
from lossbench.data.table import Table

__all__ = [
    "Batches",
    "Data",
    "DatasetOptions",
    "Fitted",
    "Source",
    "Split",
    "SplitShares",
    "Table",
    "gather",
    "prepare",
]
