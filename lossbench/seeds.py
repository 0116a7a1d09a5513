"""Random streams that do not disturb one another: each purpose has a seed of its own, derived from the run's."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed from the run's seed and a purpose, the same on every machine: `derive(0, "order", epoch)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
