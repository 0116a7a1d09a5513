"""From a source to splits on the device: split, spoil, learn, encode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from lossbench.data.encoding import learn
from lossbench.data.fitted import Fitted
from lossbench.data.options import DatasetOptions, SplitShares, refuse_misfits
from lossbench.data.roles import example_weights, group_ids
from lossbench.data.source import Source
from lossbench.data.split import Ready, Split, split_rows
from lossbench.data.spoil import spoiled, thinned
from lossbench.data.table import Table
from lossbench.data.target import as_task, check_target, learn_task
from lossbench.errors import DataError
from lossbench.tasks import Task


@dataclass(frozen=True)
class Data:
    """A data set ready to train on; `fitted` is what goes with the trained weights.

    Attributes:
        groups: the names of the groups that `dataset.group` told apart, by their ids.
    """

    fitted: Fitted
    train: Split
    val: Split
    test: Split
    groups: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def task(self) -> Task:
        return self.fitted.task

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.fitted.input_shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.fitted.classes


def prepare(source: Source, options: DatasetOptions, shares: SplitShares, seed: int, device: torch.device) -> Data:
    """Split a source, spoil its training rows as asked, scale it by them, and put it on the device.

    The same seed gives the same rows in each split, whatever is trained on them. What thins or spoils the training
    rows leaves the others alone; what is learned, the scale of a target with outliers included, is learned from the
    rows that are trained on, as it would be from data that came so.

    Raises:
        ConfigError: options that this data set cannot have, or targets of the wrong kind or shape.
        DataError: values that are not finite, a class too small to split, or impossible weights.
    """
    features, weight, group = source.features, None, None
    groups: tuple[str, ...] = ()
    if options.weight is not None:
        features, weight = example_weights(features, options.weight)
    if options.group is not None:
        features, group, groups = group_ids(features, options.group)
    check_target(source)
    refuse_misfits(options, source)

    train, val, test = split_rows(source, shares, seed)
    train = thinned(source, train, options, shares, seed)
    source = replace(source, target=spoiled(source, train, options, seed))
    if weight is not None and not weight[train].any():
        raise DataError(f"dataset.weight={options.weight} is 0 for every training row: nothing would be learned")

    task = learn_task(source, train, options.standardize_target)
    encoding = learn(features, train, options.standardize)
    fitted = Fitted(task, encoding.input_shape, tuple(map(str, source.classes)), encoding)

    inputs = encoding.apply(features)
    if isinstance(features, Table) and not np.ptp(inputs[train], axis=0).any():
        raise DataError("no column varies in the training rows: nothing can be learned")
    ready = Ready(inputs, as_task(source.target, task), weight, encoding.input_shape, options.timeout, group)
    parts = ready.splits(device, train, val, test)
    return Data(fitted, parts[0], parts[1], parts[2], groups, source.notes)
