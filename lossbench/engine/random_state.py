"""The random streams of Python and NumPy, which a user's own code may draw from; torch's are functions of the step."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Where they stand, as tensors, because these load fast."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, torch.from_numpy(np.asarray(numbers, np.int64)), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Go on from there."""
    version, numbers, gauss = state["python"]
    kind, keys, *rest = state["numpy"]
    with contextlib.suppress(ValueError, TypeError):  # another Python's or NumPy's: not worth a refusal
        random.setstate((version, tuple(numbers.tolist()), gauss))
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """What is drawn inside is not missed afterwards."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
