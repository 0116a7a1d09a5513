"""Data sets that are composed of scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np

from lossbench.data.bundled import digits
from lossbench.data.source import Source

PLACES = 3
SEED = 0  # of the compositions: they are the same in every run


def digits_multilabel() -> Source:
    """899 strips (1, 8, 24) of one to three handwritten digits; the labels say which of the ten are there.

    Each of the 1,797 digits is in one strip only, so that no split holds a digit of another; empty places are black.
    From the images of `digits` (UCI, Alpaydin 1998).
    """
    source = digits()
    images, labels = source.features, source.target
    assert isinstance(images, np.ndarray)
    generator = np.random.default_rng(SEED)
    order = generator.permutation(len(images))
    ends = np.cumsum(np.resize(np.arange(1, PLACES + 1), len(order)))  # 1, 2 and 3 digits in turn
    groups = np.split(order, ends[ends < len(order)])
    strips = np.zeros((len(groups), 1, 8, 8 * PLACES), dtype=np.float32)
    present = np.zeros((len(groups), 10), dtype=np.int64)
    for strip, row, group in zip(strips, present, groups, strict=True):
        places = generator.permutation(PLACES)[: len(group)]
        for place, digit in zip(places.tolist(), group.tolist(), strict=True):
            strip[:, :, 8 * place : 8 * place + 8] = images[digit]
            row[labels[digit]] = 1
    return Source(strips, present, "multilabel", source.classes)
