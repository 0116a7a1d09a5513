"""Arms against each other, paired by seed, and what this says in words."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, count
from typing import Literal

import numpy as np

from lossbench.errors import ConfigError, did_you_mean
from lossbench.report.statistics import (
    LARGEST,
    ROUNDING,
    Direction,
    Floats,
    Interval,
    SignedRank,
    Student,
    finite,
    holm,
    improvement,
    student,
    wilcoxon,
)

Arm = Mapping[Hashable, float]
Test = Literal["wilcoxon", "t"]

FEWEST = 3  # seeds from which on a pair is tested


@dataclass(frozen=True)
class Pair:
    """Two arms, and what can be said of their difference.

    Attributes:
        first, second: the arms' names.
        n: how many seeds both have.
        difference: the mean over these of first - second, whichever way is better; None for no seed.
        interval: of the difference by Student's t, with probability 1 - alpha, not corrected for several pairs; None
            for fewer than two seeds.
        t_p, wilcoxon_p: of the paired tests; None for fewer than three seeds, t's where all differences are equal too.
        t_p_holm, wilcoxon_p_holm: corrected for the number of pairs that are tested.
        effect: Cohen's d_z, the difference in standard deviations of the differences (Lakens 2013); None where these
            are all equal.
        improvement: the probability that a run of `first` is better than one of `second`, over all runs of both.
        test: the one that decides; None for fewer than three seeds.
        p_holm: of the tests that decide, corrected.
        verdict: in words.
        better: the arm that is better, where one is.
    """

    first: str
    second: str
    n: int
    difference: float | None
    interval: Interval | None
    t_p: float | None
    wilcoxon_p: float | None
    t_p_holm: float | None
    wilcoxon_p_holm: float | None
    effect: float | None
    improvement: float | None
    test: Test | None
    p_holm: float | None
    verdict: str
    better: str | None


def compare_pairs(
    arms: Mapping[str, Arm],
    direction: Direction,
    baseline: str | None = None,
    alpha: float = 0.05,
    *,
    chosen_by_values: bool = False,
) -> list[Pair]:
    """Every arm against every other, or against the baseline.

    Wilcoxon's test decides where there are seeds enough for it to find anything: where its smallest p, 2 / 2^n,
    corrected for the number of pairs, is below alpha. Else the paired t test does, which finds more in few seeds, if
    the differences are normal. Which one it is does not depend on the values, but that t's needs differences that are
    not all equal: three equal ones are likely where an accuracy moves in whole rows, and prove little.

    Arms whose values have one distribution, whatever it is, are found different with a probability of about alpha at
    the most. The tests do not compare means of different shapes: an arm whose values are skewed, beside one of the
    same mean that hardly varies, is found different more often (exponential beside constant values, 3 to 5 seeds:
    12 % at 5 %).

    Args:
        arms: of each, a finite value for each seed, or whatever pairs its runs with those of the others.
        direction: whether larger (`max`) or smaller (`min`) values are better.
        baseline: compare each other arm with this one only; it is then `second`.
        alpha: the probability with which a difference may be found, among all pairs, where there is none.
        chosen_by_values: whether the baseline is what it is because of these values, as the best arm is. It is then
            corrected for the pairs of all arms, from which these were chosen: of 20 equal arms with 8 seeds, the best
            is found better than some other in 16 % of cases without this.

    Raises:
        ConfigError: there is no such baseline.
        ValueError: a value is not finite.
    """
    if baseline is not None and baseline not in arms:
        raise ConfigError(f"no arm is called '{baseline}'{did_you_mean(baseline, arms)}")
    names = combinations(arms, 2) if baseline is None else ((name, baseline) for name in arms if name != baseline)
    seen = [_Seen.of(first, second, arms, direction, 1 - alpha) for first, second in names]
    family = sum(pair.n >= FEWEST for pair in seen)
    if chosen_by_values:
        family = max(family, math.comb(sum(len(arm) >= FEWEST for arm in arms.values()), 2))
    tests = [pair.deciding(family, alpha) for pair in seen]
    of_t = _corrected([pair.p_of("t") for pair in seen], family)
    of_wilcoxon = _corrected([pair.p_of("wilcoxon") for pair in seen], family)
    of_deciding = _corrected([pair.p_of(test) for pair, test in zip(seen, tests, strict=True)], family)
    found = []
    for pair, test, t_p, wilcoxon_p, p in zip(seen, tests, of_t, of_wilcoxon, of_deciding, strict=True):
        verdict, better = _verdict(pair, p, family or len(seen), direction, alpha)
        found.append(
            Pair(
                first=pair.first,
                second=pair.second,
                n=pair.n,
                difference=pair.t.mean if pair.t else None,
                interval=pair.t.interval if pair.t else None,
                t_p=pair.p_of("t"),
                wilcoxon_p=pair.p_of("wilcoxon"),
                t_p_holm=t_p,
                wilcoxon_p_holm=wilcoxon_p,
                effect=pair.t.effect if pair.t else None,
                improvement=pair.improvement,
                test=test,
                p_holm=p,
                verdict=verdict,
                better=better,
            )
        )
    return found


@dataclass(frozen=True)
class _Seen:
    """A pair before it is judged beside the others."""

    first: str
    second: str
    differences: Floats
    t: Student | None
    signs: SignedRank
    improvement: float | None
    runs: int  # of the arm with fewer

    @classmethod
    def of(cls, first: str, second: str, arms: Mapping[str, Arm], direction: Direction, level: float) -> _Seen:
        one, other = arms[first], arms[second]
        found = differences([one[key] for key in one if key in other], [other[key] for key in one if key in other])
        ones, others = finite(list(one.values())), finite(list(other.values()))
        return cls(
            first,
            second,
            found,
            student(found, level) if len(found) else None,
            wilcoxon(found),
            improvement(ones, others, direction) if len(ones) and len(others) else None,
            min(len(ones), len(others)),
        )

    @property
    def n(self) -> int:
        return len(self.differences)

    def p_of(self, test: Test | None) -> float | None:
        """The p of a test, where it can be made."""
        if test is None or self.t is None or self.n < FEWEST:
            return None
        return self.t.p if test == "t" else self.signs.p

    def deciding(self, family: int, alpha: float) -> Test | None:
        """The test that decides, of so many pairs that are tested."""
        if self.n < FEWEST:
            return None
        return "wilcoxon" if self.p_of("t") is None or self.n >= enough(family, alpha) else "t"


def differences(first: Sequence[float], second: Sequence[float]) -> Floats:  # (n,), (n,) -> (n,)
    """first - second in rising order, those equal that differ by rounding only.

    An accuracy moves in whole rows: 0.9 - 0.8 and 0.8 - 0.7 are one row each, but not the same number. Left so, ranks
    would be told apart and a standard deviation be more than 0 by nothing but rounding.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    with np.errstate(over="ignore"):
        raw = np.clip(a - b, -LARGEST, LARGEST)
    order = np.argsort(np.abs(raw))
    sizes, noise = np.abs(raw)[order], ROUNDING * np.maximum(np.abs(a), np.abs(b))[order]
    apart = np.diff(sizes, prepend=0.0) > np.minimum(noise, np.concatenate([noise[:1], noise[:-1]]))
    start = np.maximum.accumulate(np.where(apart, np.arange(len(sizes)), -1))  # of equal ones; -1 for those equal to 0
    sizes = np.where(start < 0, 0.0, sizes[start])
    return np.sort(np.where(raw[order] < 0, -sizes, sizes)) + 0.0  # no -0


def enough(pairs: int, alpha: float = 0.05) -> int:
    """The fewest seeds with which Wilcoxon's test can find a difference, its p corrected for so many pairs."""
    return next(n for n in count(FEWEST) if pairs * 2.0 ** (1 - n) < alpha)


def _corrected(p: Sequence[float | None], family: int) -> list[float | None]:
    """Holm's correction for a family of so many tests; those without a p count as if they had found nothing."""
    given = [value for value in p if value is not None]
    corrected = iter(holm(given + [1.0] * (family - len(given))))
    return [None if value is None else next(corrected) for value in p]


def _verdict(pair: _Seen, p: float | None, pairs: int, direction: Direction, alpha: float) -> tuple[str, str | None]:
    """In words, and the better arm's name if there is one; `p` is the deciding test's, corrected for so many pairs."""
    needed = enough(pairs, alpha)
    if p is None or pair.t is None:
        return f"too few seeds{' in common' if pair.runs >= FEWEST else ''} to tell (try {needed} or more)", None
    different = int(np.count_nonzero(pair.differences))
    if not different:
        return "equal in every seed", None
    if p >= alpha:
        if different >= needed:
            return "no detectable difference", None
        equal = f"; equal in {pair.n - different} of {pair.n}" if different < pair.n else ""
        return f"too few seeds to tell (try {math.ceil(needed * pair.n / different)} or more{equal})", None
    better = pair.first if (pair.signs.balance > 0) == (direction == "max") else pair.second
    if pair.t.mean * pair.signs.balance <= 0:  # a few seeds that are much worse, as diverged ones are
        return f"mixed: {better} is better by rank, but not in the mean", None
    return f"{better} is better {_by(pair.t, 1 - alpha)}", better


def _by(t: Student, level: float) -> str:
    """By how much, as a positive number, with its interval: `by 0.0123 (95 % CI 0.0041 to 0.0205)`."""
    size = abs(t.mean)
    if not t.sd or t.interval is None:
        return f"by {three_digits(size, size)} in every seed"
    lo, hi = t.interval if t.mean > 0 else (-t.interval[1], -t.interval[0])
    by = f"{three_digits(size, size)} ({100 * level:g} % CI {three_digits(lo, size)} to {three_digits(hi, size)})"
    return f"by {by}" if lo > 0 else f"by rank; the means differ by {by}"


def three_digits(value: float, beside: float) -> str:
    """A number with as many decimals as three digits of the one that it stands beside have."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(beside) < 1e6:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits}e{int(power)}"
    decimals = max(0, 2 - math.floor(math.log10(abs(beside))))
    return f"{round(value, decimals) + 0.0:,.{decimals}f}"  # no -0
