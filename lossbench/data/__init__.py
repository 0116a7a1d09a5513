"""Data sets, their splits, and batches from them."""

from lossbench.data.augment import AugmentOptions, augment_for
from lossbench.data.batches import Batches, gather
from lossbench.data.fitted import Fitted
from lossbench.data.options import DatasetOptions, SplitShares
from lossbench.data.prepare import Data, prepare
from lossbench.data.source import Source
from lossbench.data.split import Split
from lossbench.data.table import Table

__all__ = [
    "AugmentOptions",
    "Batches",
    "Data",
    "DatasetOptions",
    "Fitted",
    "Source",
    "Split",
    "SplitShares",
    "Table",
    "augment_for",
    "gather",
    "prepare",
]
