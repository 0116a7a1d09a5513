"""Random streams that do not disturb one another: each purpose has its own seed, derived from the run's."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for a purpose of a run, the same on every machine: `derive(seed, "order", epoch)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
