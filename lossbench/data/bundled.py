"""Real data sets that come with scikit-learn: no download."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from lossbench.data.source import Source
from lossbench.data.table import numeric_table


def digits() -> Source:
    """1,797 handwritten digits, images (1, 8, 8) of grey levels 0 to 1, ten classes (UCI, Alpaydin 1998)."""
    data = _digits()
    images = (data.images / 16).astype(np.float32)[:, None]
    return Source(images, data.target.copy(), "multiclass", tuple(map(str, data.target_names)))


@cache
def _digits() -> Any:
    """As they are read from text, which takes longer than an epoch: a sweep's runs would do so one by one."""
    from sklearn.datasets import load_digits

    return load_digits()


def wine() -> Source:
    """178 wines of three growers, 13 measurements (UCI, Aeberhard and Forina 1991)."""
    from sklearn.datasets import load_wine

    data = load_wine()
    table = numeric_table(data.data, data.feature_names)
    return Source(table, data.target, "multiclass", tuple(map(str, data.target_names)))


def breast_cancer() -> Source:
    """569 tumours, 30 measurements, malignant (0) or benign (1) (Wisconsin, Wolberg et al. 1995)."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    table = numeric_table(data.data, data.feature_names)
    return Source(table, data.target, "binary", tuple(map(str, data.target_names)))


def diabetes() -> Source:
    """442 patients, 10 measurements, the progress of diabetes after a year, 25 to 346 (Efron et al. 2004)."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    return Source(numeric_table(data.data, data.feature_names), data.target, "regression")
