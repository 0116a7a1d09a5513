"""Training rows made harder on purpose: fewer of them, wrong labels, outliers.

Each option has a random stream of its own. Label noise and outliers are drawn for every row of the data set, so that
what a spoiled row becomes depends on the seed and the row alone; a larger share spoils the same rows and more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lossbench.data.options import DatasetOptions, SplitShares, strata
from lossbench.data.source import Source
from lossbench.data.table import Rows
from lossbench.data.target import id_count
from lossbench.seeds import derive


def thinned(source: Source, train: Rows, options: DatasetOptions, shares: SplitShares, seed: int) -> Rows:
    """The training rows that `imbalance` and then `subset`, which keeps the tail's shape, leave."""
    if options.imbalance is not None:
        train = long_tail(train, source.target, options.imbalance, seed)
    if options.subset is not None:
        train = subset(train, strata(source, shares), options.subset, seed)
    return train


def spoiled(source: Source, train: Rows, options: DatasetOptions, seed: int) -> NDArray[Any]:
    """Every row's target, those of the training rows with `label_noise` or `outliers`."""
    if options.label_noise is not None:
        if source.task == "multilabel":
            return flipped(source.target, train, options.label_noise, seed)
        return label_noise(source.target, train, options.label_noise, id_count(source), seed)
    if options.outliers is not None:
        return outliers(source.target, train, options.outliers, options.outlier_size, seed)
    return source.target


def long_tail(train: Rows, target: NDArray[Any], ratio: float, seed: int) -> Rows:
    """Of class k at most ratio^(k / (C - 1)) times the largest class's rows (Cui et al. 2019), and at least one."""
    classes, counts = np.unique(target[train], return_counts=True)
    generator = np.random.default_rng(derive(seed, "imbalance"))
    kept = []
    for k, label in enumerate(classes):
        rows = train[target[train] == label]
        size = round(counts.max() * ratio ** (k / max(1, len(classes) - 1)))
        kept.append(generator.permutation(rows)[: max(1, size)])
    return np.sort(np.concatenate(kept))


def subset(train: Rows, classes: NDArray[Any] | None, size: int, seed: int) -> Rows:
    """At most `size` rows; where there are classes, they keep their shares and each has one row while that can be."""
    order = np.random.default_rng(derive(seed, "subset")).permutation(train)
    if classes is None:
        return np.sort(order[:size])
    depth = np.empty(len(order))  # how far down its class a row is, from 0: the first rows of all come first
    for label in np.unique(classes[order]):
        members = np.flatnonzero(classes[order] == label)
        depth[members] = np.arange(len(members)) / len(members)
    return np.sort(order[np.argsort(depth, kind="stable")[:size]])


def label_noise(target: NDArray[Any], train: Rows, share: float, classes: int, seed: int) -> NDArray[np.int64]:
    """A share of the training labels replaced by another class, each of the others as likely: symmetric noise."""
    generator = np.random.default_rng(derive(seed, "label_noise"))
    rows, spoiled = _chosen(len(target), train, share, generator), target.astype(np.int64)
    step = generator.integers(1, max(2, classes), len(target))  # a single class is refused later, in better words
    spoiled[rows] = (spoiled[rows] + step[rows]) % classes
    return spoiled


def flipped(target: NDArray[Any], train: Rows, share: float, seed: int) -> NDArray[np.int64]:
    """Labels 0 and 1 (N, K), each of the training rows' flipped with probability `share`."""
    wrong = np.random.default_rng(derive(seed, "label_noise")).random(target.shape) < share
    spoiled = target.astype(np.int64)
    spoiled[train] ^= wrong[train]
    return spoiled


def outliers(target: NDArray[Any], train: Rows, share: float, size: float, seed: int) -> NDArray[np.float64]:
    """A share of the training targets moved up or down by `size` standard deviations of the training targets."""
    generator = np.random.default_rng(derive(seed, "outliers"))
    rows, spoiled = _chosen(len(target), train, share, generator), target.astype(np.float64)
    sign = generator.choice([-1.0, 1.0], len(target))
    spoiled[rows] += sign[rows] * size * spoiled[train].std()
    return spoiled


def _chosen(n: int, train: Rows, share: float, generator: Generator) -> Rows:
    """A share of the training rows, out of the n rows of the data set."""
    return train[np.argsort(generator.random(n)[train])[: round(share * len(train))]]
