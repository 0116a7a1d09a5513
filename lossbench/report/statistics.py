"""Statistics of few runs: what a sample says of its mean, and tests of paired differences.

Nothing here warns, and nothing that comes out is infinite or not a number; every value that goes in must be finite.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtr, stdtrit

Direction = Literal["min", "max"]
Floats = NDArray[np.float64]
Interval = tuple[float, float]

LARGEST = sys.float_info.max
ROUNDING = 1e-12  # of the values: those that are not further apart are equal
RESAMPLES = 5000
BLOCK = 1_000_000  # numbers drawn at a time
EXACT = 50  # differences up to which Wilcoxon's test counts every combination of signs

# The lowest and the highest value that each metric of a task can have. Of several outputs or classes the Brier score
# sums squares (Brier 1950): 2 at the most, and 1 where the classes are yes and no.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    **dict.fromkeys(("accuracy", "error_rate", "exact_match", "balanced_accuracy"), (0.0, 1.0)),
    **dict.fromkeys(("f1", "macro_f1", "micro_f1", "recall", "worst_recall"), (0.0, 1.0)),
    **dict.fromkeys(("auroc", "average_precision", "ece", "coverage", "crossing_rate"), (0.0, 1.0)),
    "brier": (0.0, 2.0),
    "r2": (None, 1.0),
    **dict.fromkeys(("rmse", "mae", "pinball", "deviance"), (0.0, None)),
    **dict.fromkeys(("nll", "loss", "interval_width"), (None, None)),  # quantiles that cross have a negative width
}


@dataclass(frozen=True)
class Student:
    """What Student's t says of the mean of a sample (Student 1908); `sd` and what follows is None for one value.

    Attributes:
        interval: holds the mean of all such samples with the level's probability, if these are normal.
        effect: the mean in standard deviations; of paired differences this is Cohen's d_z (Lakens 2013). None where
            the standard deviation is 0.
        p: how probable a mean at least so far from 0 is if the true one is 0. None where the standard deviation is 0:
            values of a normal distribution are never equal, so the test does not apply to them.
    """

    n: int
    mean: float
    sd: float | None = None
    interval: Interval | None = None
    effect: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Spread:
    """What the runs of an arm say of it. `sd` (of n - 1) and the intervals are None for fewer than two runs.

    Attributes:
        interval: 95 %, of the mean, by Student's t.
        bootstrap: 95 %, of the mean, by `bootstrap`.
    """

    n: int
    mean: float | None
    sd: float | None
    median: float | None
    interval: Interval | None
    bootstrap: Interval | None


def spread(values: Sequence[float], seed: int = 0) -> Spread:
    """The spread of an arm's values, in any order; `seed` is of the bootstrap.

    Raises:
        ValueError: a value is not finite.
    """
    sample = finite(values)
    if not len(sample):
        return Spread(0, None, None, None, None, None)
    found = student(sample)
    return Spread(found.n, found.mean, found.sd, median(sample), found.interval, bootstrap(sample, seed))


def worst(values: Sequence[float], metric: str, direction: Direction) -> float | None:
    """What a run counts as that has no value because it diverged or failed.

    The worst value that the metric can have, where it is bounded on that side. Else further away than the worst finite
    one of `values`, by the range of all of them (by 1 where that is 0); None where none is finite.

    Args:
        values: of all runs that are compared, of every arm.
        metric: without its split: `accuracy`, `recall/0`.
    """
    lowest, highest = BOUNDS.get(metric.partition("/")[0], (None, None))
    bound = lowest if direction == "max" else highest
    if bound is not None:
        return bound
    seen = [value for value in values if math.isfinite(value)]
    if not seen:
        return None
    last = min(seen) if direction == "max" else max(seen)
    further = (max(seen) - min(seen)) or max(1.0, math.ulp(last))
    return _within(last - further if direction == "max" else last + further)


def finite(values: ArrayLike) -> Floats:  # (n,) -> (n,)
    """The values in rising order.

    Raises:
        ValueError: one is not finite.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    if not np.isfinite(sample).all():
        raise ValueError("a value is not finite; give a run without a value the one of `worst`")
    return sample


def median(sample: Floats) -> float:  # (n,), rising
    """The middle value, or the mean of the two in the middle."""
    low, high = sample[(len(sample) - 1) // 2], sample[len(sample) // 2]
    return float(low / 2 + high / 2) if low != high else float(low)


def student(sample: Floats, level: float = 0.95) -> Student:  # (n,), n > 0
    """The mean, its interval, and the test of a mean of 0, by Student's t."""
    n = len(sample)
    if n == 1:
        return Student(1, float(sample[0]))
    if sample.min() == sample.max():
        value = float(sample[0])
        return Student(n, value, 0.0, (value, value))
    scaled, exponent = _scaled(sample)
    mean, sd = float(scaled.mean()), float(scaled.std(ddof=1))
    error = sd / math.sqrt(n)
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * error
    p = 2 * float(stdtr(n - 1, -abs(mean / error)))
    lo, hi = _restored(mean - reach, exponent), _restored(mean + reach, exponent)
    return Student(n, _restored(mean, exponent), _restored(sd, exponent), (lo, hi), mean / sd, p)


def bootstrap(sample: Floats, seed: int = 0, level: float = 0.95) -> Interval | None:  # (n,)
    """The expanded percentile interval of the mean (Hesterberg 2015, "What Teachers Should Know About the Bootstrap").

    Percentiles of the means of resamples. Those of 2.5 and 97.5 % are too near each other for few values, as resamples
    vary by n and not n - 1, and as a normal and not a t distribution: here they are taken so much further out as this
    comes to. Of 5 values of a normal distribution it holds the mean in 93 % of samples, without this in 84 %; BCa
    (Efron 1987), which corrects for skewness but not for this, in 80 %. It never leaves the range of the values: of 3,
    where it is all of the range, it holds the mean in 75 % only (t's in 95 %). None for fewer than two values.
    """
    n = len(sample)
    if n < 2:
        return None
    scaled, exponent = _scaled(sample)
    generator = np.random.default_rng(seed)
    size = max(1, BLOCK // n)
    blocks = [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]
    means = np.concatenate([scaled[generator.integers(n, size=(n, block))].mean(0) for block in blocks])
    tail = expanded_tail(n, level)
    ends = np.clip(np.quantile(means, [tail, 1 - tail]), scaled.min(), scaled.max())  # a mean is rounded
    return _restored(float(ends[0]), exponent), _restored(float(ends[1]), exponent)


def expanded_tail(n: int, level: float = 0.95) -> float:
    """The share of resamples beyond each end of the expanded percentile interval."""
    return float(ndtr(-math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 + level) / 2)))


@dataclass(frozen=True)
class SignedRank:
    """What Wilcoxon's signed-rank test says.

    Attributes:
        p: how probable sums of ranks so far apart are if every sign is by chance.
        balance: the sum of the positive ranks less that of the negative ones, as a share of all: from -1 to 1, 0
            where there are none (the rank-biserial correlation of Kerby 2014).
    """

    p: float
    balance: float


def wilcoxon(differences: Floats) -> SignedRank:  # (n,)
    """Wilcoxon's signed-rank test (1945) of differences that are as likely positive as negative.

    Differences of 0 are ranked and then left out (Pratt 1959). Up to 50 others, every combination of signs is counted,
    equal differences sharing their ranks; of more, the sum is taken as normal, with the variance that these ranks
    have. The smallest p with m differences other than 0 is 2 / 2^m.
    """
    _, place, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    twice = (2 * np.cumsum(counts) - counts + 1)[place]  # twice the mean rank: whole numbers
    there = differences != 0
    ranks, positive = twice[there], int(twice[differences > 0].sum())
    total = int(ranks.sum())
    less = min(positive, total - positive)
    if len(ranks) > EXACT:
        tail = float(ndtr((less - total / 2) / math.sqrt(np.square(ranks, dtype=np.float64).sum() / 4)))
    else:
        tail = float(_by_signs(tuple(sorted(ranks.tolist())))[less])
    return SignedRank(min(1.0, 2 * tail), (2 * positive - total) / total if total else 0.0)


@lru_cache(maxsize=128)
def _by_signs(ranks: tuple[int, ...]) -> Floats:
    """How probable each sum of ranks, or a smaller one, is when each of them counts or not with equal chance."""
    chance = np.zeros(sum(ranks) + 1)
    chance[0] = 1.0
    for rank in ranks:
        taken = np.zeros_like(chance)
        taken[rank:] = chance[: len(chance) - rank]
        chance = (chance + taken) / 2
    return np.cumsum(chance)


def holm(p: Sequence[float]) -> list[float]:
    """Each p corrected for being one of several (Holm 1979): the smallest times m, the next times m - 1, and so on.

    None is smaller than one before it, or more than 1. Below alpha, they let one false alarm or more through with a
    probability of alpha at the most, whatever the tests have to do with each other.
    """
    corrected, reached = [0.0] * len(p), 0.0
    for place, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        reached = max(reached, min(1.0, (len(p) - place) * p[index]))
        corrected[index] = reached
    return corrected


def improvement(first: Floats, second: Floats, direction: Direction) -> float:  # (n,), (m,) -> ()
    """The probability that a run of `first` is better than one of `second`, over all n x m pairs; equal ones half.

    Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"; it is Mann and
    Whitney's U as a share. 0.5 says that neither tends to be better.
    """
    ordered = np.sort(second)
    with np.errstate(over="ignore"):
        noise = ROUNDING * np.abs(first)
        below = np.searchsorted(ordered, first - noise, "left") + np.searchsorted(ordered, first + noise, "right")
    share = float(below.sum()) / (2 * len(first) * len(second))
    return share if direction == "max" else 1 - share


def _scaled(sample: Floats) -> tuple[Floats, int]:
    """The values times a power of two, so that squares neither overflow nor vanish, and its exponent."""
    exponent = math.frexp(float(np.abs(sample).max()))[1]
    return np.ldexp(sample, -exponent), exponent


def _restored(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.copysign(LARGEST, value)


def _within(value: float) -> float:
    return min(max(value, -LARGEST), LARGEST)
