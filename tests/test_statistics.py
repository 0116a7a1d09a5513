"""The statistics of compare: against scipy, by hand, by what must not change them, and by simulated sweeps."""

import math
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tasks import FORMS, N

from lossbench.errors import ConfigError
from lossbench.report.pairs import compare_pairs, differences, enough
from lossbench.report.statistics import (
    BOUNDS,
    bootstrap,
    expanded_tail,
    holm,
    improvement,
    spread,
    student,
    wilcoxon,
    worst,
)
from lossbench.tasks import TASKS

LARGEST = sys.float_info.max
FIELDS = ("difference", "effect", "improvement", "t_p", "wilcoxon_p", "t_p_holm", "wilcoxon_p_holm", "p_holm")


def arm(*values):
    """An arm's values under seeds from 0."""
    return dict(enumerate(map(float, values)))


def compare(first, second, direction="max", **options):
    """The only pair of two arms, a and b."""
    (pair,) = compare_pairs({"a": arm(*first), "b": arm(*second)}, direction, **options)
    return pair


def numbers(found):
    """All numbers in a dataclass, those in intervals too."""
    values = [value for value in vars(found).values() if value is not None]
    flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return [value for value in flat if not isinstance(value, str)]


# One arm


def test_spread_by_hand():
    # Deviations -2 -1 0 1 2: the variance is 10 / 4; t of 4 degrees at 97.5 % is 2.776445.
    found = spread([5, 3, 1, 2, 4])
    reach = 2.776445105 * math.sqrt(2.5) / math.sqrt(5)
    assert (found.n, found.mean, found.median) == (5, 3.0, 3.0)
    assert found.sd == pytest.approx(math.sqrt(2.5))
    assert found.interval == pytest.approx((3 - reach, 3 + reach))


def test_median_of_an_even_number_is_between_the_two_in_the_middle():
    assert spread([1, 10, 2, 4]).median == 3.0


def test_intervals_against_scipy():
    values = np.random.default_rng(3).lognormal(size=12)
    found = spread(values)
    theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((theirs.low, theirs.high))
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        confidence_level=1 - 2 * expanded_tail(12),
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.bootstrap == pytest.approx((theirs.low, theirs.high), rel=0.05)


def test_expanded_tail_by_hand():
    # 5 values: sqrt(5 / 4) 2.776445 = 3.104160 standard errors, beyond which a normal distribution has 0.000954.
    assert expanded_tail(5) == pytest.approx(scipy.stats.norm.sf(3.104160), rel=1e-5)
    assert expanded_tail(1000) == pytest.approx(0.025, rel=0.02)


def test_no_run_one_run_two_runs():
    none, one, two = spread([]), spread([0.5]), spread([0.5, 0.7])
    assert (none.n, none.mean, none.sd, none.median, none.interval, none.bootstrap) == (0, *[None] * 5)
    assert (one.n, one.mean, one.sd, one.median, one.interval, one.bootstrap) == (1, 0.5, None, 0.5, None, None)
    assert two.sd == pytest.approx(0.2 / math.sqrt(2))
    assert two.bootstrap == (0.5, 0.7)


def test_equal_runs_have_no_spread():
    found = spread([0.1] * 3)  # the mean of three 0.1 is not 0.1, as floats go
    assert (found.mean, found.sd, found.interval, found.bootstrap) == (0.1, 0.0, (0.1, 0.1), (0.1, 0.1))


@pytest.mark.parametrize(
    "values",
    [
        [1e300, 2e300, 3e300],
        [1e-300, 2e-300, 3e-300],
        [LARGEST, -LARGEST],
        [LARGEST, -LARGEST, LARGEST, LARGEST],
        [5e-324, 0.0, 1e-323],
        [1e300, 1e-300, 1.0, -1e300],
        [LARGEST] * 4,
        [0.0] * 4,
        [-0.0, 0.0, -0.0],
    ],
)
def test_nothing_overflows(values):
    assert all(map(math.isfinite, numbers(spread(values))))
    for direction in ("max", "min"):
        for other in (list(reversed(values)), [0.0] * len(values), [-v for v in values]):
            assert all(map(math.isfinite, numbers(compare(values, other, direction))))


def test_huge_and_tiny_values_are_as_others_are():
    plain, huge, tiny = ([scale * v for v in (1.0, 2.0, 4.0)] for scale in (1.0, 2.0**1000, 2.0**-1000))
    for values, scale in ((huge, 2.0**1000), (tiny, 2.0**-1000)):
        assert spread(values).sd == spread(plain).sd * scale
        assert compare(values, [0.0] * 3).t_p == compare(plain, [0.0] * 3).t_p


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="not finite"):
        spread([1.0, value])
    with pytest.raises(ValueError, match="not finite"):
        compare([1.0, value], [1.0, 2.0])


def test_bootstrap_is_the_same_every_time_and_in_any_order():
    values = [0.3, 0.1, 0.7, 0.2, 0.5]
    assert spread(values) == spread(list(reversed(values)))
    assert spread(values).bootstrap != spread(values, seed=1).bootstrap


def test_bootstrap_of_many_values_is_drawn_in_blocks_and_comes_to_the_normal_one():
    values = np.random.default_rng(0).normal(size=3000)
    lo, hi = bootstrap(values)
    assert (lo, hi) == pytest.approx(student(values).interval, abs=0.003)


# What a run without a value counts as


@pytest.mark.parametrize(
    ("values", "metric", "direction", "wanted"),
    [
        ([0.9, 0.8], "accuracy", "max", 0.0),
        ([0.9, 0.8], "error_rate", "min", 1.0),
        ([], "auroc", "max", 0.0),
        ([0.1], "brier", "min", 2.0),
        ([0.5], "recall/3", "max", 0.0),
        ([1.0, 4.0], "rmse", "min", 7.0),
        ([1.0, 4.0, math.inf, math.nan], "loss", "min", 7.0),
        ([0.5, 0.9], "r2", "max", pytest.approx(0.1)),
        ([-2.0, -2.0], "nll", "min", -1.0),
        ([3.0, 3.0], "of_a_user", "max", 2.0),
        ([], "rmse", "min", None),
        ([math.nan], "r2", "max", None),
    ],
)
def test_worst(values, metric, direction, wanted):
    assert worst(values, metric, direction) == wanted


@pytest.mark.parametrize("values", [[1e20], [LARGEST, -LARGEST], [-1e300, 1e300], [0.0], [1e-310, 2e-310]])
def test_worst_is_finite_and_worse(values):
    high, low = worst(values, "rmse", "min"), worst(values, "r2", "max")
    assert math.isfinite(high)
    assert math.isfinite(low)
    if max(values) < LARGEST:
        assert low < min(values) <= max(values) < high


def test_the_bounds_of_every_metric_of_every_task_are_known():
    assert {task.name for task in FORMS.values()} == set(TASKS)
    for task in FORMS.values():
        for metric in task.directions:
            assert metric.partition("/")[0] in BOUNDS, f"add {metric} to BOUNDS"


@pytest.mark.parametrize("task", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("size", [0.1, 30.0])
def test_metrics_are_within_their_bounds(task, size, g):
    import torch

    def normal(*shape):
        return size * torch.randn(*shape, generator=g, dtype=torch.float64)

    made = {
        "labels": torch.randint(3, (N,), generator=g),
        "soft_labels": normal(N, 3).softmax(1),
        "pred": normal(N),
        "target": normal(N),
        "pred_quantiles": normal(N, 3),
        "variance": normal(N).exp().clamp(max=100),
        "log_rate": normal(N).clamp(-5, 5),
        "counts": normal(N).abs().floor(),
    }
    made["logits"] = normal(N) if task.name == "binary" else normal(N, 3)
    made["targets"] = (normal(*made["logits"].shape) > 0).double()
    for metric, value in task.metrics({name: made[name] for name in task.measured}).items():
        low, high = BOUNDS[metric.partition("/")[0]]
        assert low is None or float(value) >= low - 1e-12, metric
        assert high is None or float(value) <= high + 1e-12, metric


# The tests


def test_t_against_scipy():
    g = np.random.default_rng(0)
    for n in (3, 5, 30):
        a, b = g.normal(1, 1, n), g.normal(0.5, 2, n)
        theirs = scipy.stats.ttest_rel(a, b)
        found = compare(a, b)
        assert found.t_p == pytest.approx(theirs.pvalue)
        assert found.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)))
        assert found.difference == pytest.approx((a - b).mean())
        assert found.effect == pytest.approx(theirs.statistic / math.sqrt(n))  # d_z = t / sqrt(n)


def test_t_by_hand():
    # Differences 1 2 3: mean 2, standard deviation 1, t = 2 sqrt(3), of 2 degrees. There the distribution is
    # 1/2 + t / (2 sqrt(2 + t^2)), so p = 1 - sqrt(12) / sqrt(14) = 0.0741799.
    found = compare([2, 4, 6], [1, 2, 3])
    assert found.t_p == pytest.approx(1 - math.sqrt(12 / 14))
    assert (found.difference, found.effect) == (2.0, 2.0)


def test_wilcoxon_by_hand():
    # Ranks of -1 2 3 4 5 are 1 to 5: the negative ones sum to 1. Of 32 combinations two sum to 1 or less.
    found = wilcoxon(np.array([-1.0, 2, 3, 4, 5]))
    assert (found.p, found.balance) == (4 / 32, 13 / 15)
    # A 0 takes rank 1; 2 2 share (2 + 3) / 2, and 4 has 4: sums are 0, 2.5 twice, 4, 5, 6.5 twice, 9.
    assert wilcoxon(np.array([0.0, 2, 2, 4])).p == 2 * 1 / 8
    assert wilcoxon(np.array([0.0, -2, 2, 4])).p == 2 * 3 / 8
    assert wilcoxon(np.array([0.0, 0])) == wilcoxon(np.array([]))
    assert (wilcoxon(np.array([0.0])).p, wilcoxon(np.array([0.0])).balance) == (1.0, 0.0)


@pytest.mark.parametrize("n", [3, 6, 10, 25, 50])
def test_wilcoxon_without_ties_against_scipy(n):
    d = np.random.default_rng(n).normal(0.4, 1, n)
    assert wilcoxon(d).p == pytest.approx(scipy.stats.wilcoxon(d, method="exact").pvalue)


@pytest.mark.parametrize("n", [4, 6, 8])
def test_wilcoxon_with_ties_and_zeros_against_every_permutation(n):
    every = scipy.stats.PermutationMethod(n_resamples=2**n)
    for seed in range(5):
        d = np.random.default_rng(seed).integers(-2, 4, n).astype(float)
        theirs = scipy.stats.wilcoxon(d, zero_method="pratt", method=every)
        assert wilcoxon(d).p == pytest.approx(theirs.pvalue)


def test_wilcoxon_of_many_is_normal_with_ties():
    g = np.random.default_rng(0)
    for d in (g.normal(0.2, 1, 80), g.integers(-3, 5, 120).astype(float)):
        theirs = scipy.stats.wilcoxon(d, zero_method="pratt", correction=False, method="asymptotic")
        assert wilcoxon(d).p == pytest.approx(theirs.pvalue)


def test_wilcoxon_counts_and_normal_agree_where_they_meet(monkeypatch):
    d = np.random.default_rng(1).integers(-9, 14, 50).astype(float)
    counted = wilcoxon(d).p
    monkeypatch.setattr("lossbench.report.statistics.EXACT", 10)
    assert wilcoxon(d).p == pytest.approx(counted, rel=0.05)


def test_holm_by_hand():
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which may not be less than the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_improvement_by_hand():
    # 1 < 2 2, 2 = 2 2, 3 > 2 2: (0 + 1 + 2) / 6. Then 4 of 4 pairs, and with smaller better none.
    assert improvement(np.array([1.0, 2, 3]), np.array([2.0, 2]), "max") == 0.5
    assert improvement(np.array([3.0, 4]), np.array([1.0, 2]), "max") == 1.0
    assert improvement(np.array([3.0, 4]), np.array([1.0, 2]), "min") == 0.0


def test_improvement_against_scipy():
    g = np.random.default_rng(0)
    a, b = g.integers(0, 6, 9).astype(float), g.integers(1, 7, 7).astype(float)
    assert improvement(a, b, "max") == pytest.approx(scipy.stats.mannwhitneyu(a, b).statistic / 63)


def test_what_differs_by_rounding_only_is_equal():
    assert 0.9 - 0.8 != 0.8 - 0.7
    first, second = [0.9, 0.8, 0.1 + 0.2, 0.6], [0.8, 0.7, 0.3, 0.7]
    found = differences(first, second)
    assert found.tolist() == pytest.approx([-0.1, 0, 0.1, 0.1])
    assert len(np.unique(np.abs(found))) == 2
    assert compare([0.1 + 0.2] * 3, [0.3] * 3).verdict == "equal in every seed"
    assert compare([0.1 + 0.2] * 3, [0.3] * 3).improvement == 0.5
    assert str(compare([0.3] * 3, [0.1 + 0.2] * 3).difference) == "0.0"


def test_small_differences_of_large_values_and_beside_an_exploded_one_are_not_rounding():
    assert differences([1e6, 1e6 + 1e-4], [1e6, 1e6]).tolist() == pytest.approx([0, 1e-4], rel=1e-3)
    assert differences([1e30, 1e-6, 3e-6], [0, 2e-6, 1e-6]).tolist() == pytest.approx([-1e-6, 2e-6, 1e30])
    assert differences([1e13 + 4, 5.0], [1e13, 0.0]).tolist() == [0.0, 5.0]


# Verdicts


def test_fewer_than_three_seeds_are_too_few():
    for n in range(3):
        found = compare([0.9] * n, [0.1] * n)
        assert (found.n, found.test, found.t_p, found.wilcoxon_p, found.p_holm) == (n, *[None] * 4)
        assert found.verdict == "too few seeds to tell (try 6 or more)"
    assert (found.difference, found.interval) == (pytest.approx(0.8), pytest.approx((0.8, 0.8)))
    assert compare([], [1.0]).improvement is None
    assert compare([2.0], [1.0]).improvement == 1.0


def test_arms_with_other_seeds_have_too_few_in_common():
    (found,) = compare_pairs({"a": arm(1, 2, 3, 4), "b": {8: 1.0, 9: 2.0, 10: 3.0}}, "max")
    assert (found.n, found.difference, found.verdict) == (0, None, "too few seeds in common to tell (try 6 or more)")


def test_six_seeds_are_enough_for_one_pair_and_seven_for_three():
    assert [enough(k) for k in (1, 2, 3, 6, 7)] == [6, 7, 7, 8, 9]  # 2 / 2^6 = 0.031, 3 x 2 / 2^7 = 0.047
    assert enough(1, alpha=0.01) == 8


def test_few_seeds_are_decided_by_t():
    found = compare([0.91, 0.92, 0.95], [0.81, 0.83, 0.84])
    assert found.test == "t"
    assert (found.better, found.p_holm) == ("a", found.t_p)
    # Differences 0.10 0.09 0.11: 0.1 and 4.302653 x 0.01 / sqrt(3) = 0.0248 on either side.
    assert found.verdict == "a is better by 0.100 (95 % CI 0.075 to 0.125)"


def test_smaller_is_better_by_a_positive_number_too():
    found = compare([0.91, 0.92, 0.95], [0.81, 0.83, 0.84], "min")
    assert found.verdict == "b is better by 0.100 (95 % CI 0.075 to 0.125)"
    assert found.difference == pytest.approx(0.1)
    assert compare([0.81, 0.83, 0.84], [0.91, 0.92, 0.95], "min").verdict == found.verdict.replace("b is", "a is")


def test_few_seeds_that_do_not_tell():
    found = compare([0.9, 0.8, 0.95], [0.8, 0.85, 0.9])
    assert (found.test, found.better, found.verdict) == ("t", None, "too few seeds to tell (try 6 or more)")


def test_wilcoxon_decides_where_it_can():
    even = compare([1, 2, 3, 4, 5, 6, 7, 8], [2, 1, 4, 3, 6, 5, 8, 7])
    assert (even.test, even.better, even.verdict) == ("wilcoxon", None, "no detectable difference")
    up = compare([2, 3, 4, 5, 6, 7.5], [1, 2, 3, 4, 5, 6])
    assert (up.test, up.better, up.p_holm, up.wilcoxon_p) == ("wilcoxon", "a", 2 / 64, 2 / 64)


def test_equal_arms():
    found = compare([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert found.verdict == "equal in every seed"
    assert (found.t_p, found.wilcoxon_p, found.effect, found.better) == (None, 1.0, None, None)
    assert (found.difference, found.interval, found.improvement) == (0.0, (0.0, 0.0), 0.5)


def test_the_same_difference_in_every_seed_is_no_proof_in_three_but_in_six():
    few, many = compare([0.5] * 3, [0.4] * 3), compare([0.5] * 6, [0.4] * 6)
    assert (few.t_p, few.test, few.wilcoxon_p) == (None, "wilcoxon", 2 / 8)
    assert few.verdict == "too few seeds to tell (try 6 or more)"
    assert many.verdict == "a is better by 0.100 in every seed"


def test_seeds_that_are_equal_cannot_tell():
    # 5 of 8 differ: the smallest p is 2 / 2^5. As many of 6 x 8 / 5 = 9.6 would be 6.
    found = compare([1, 1, 1, 2, 2, 3, 3, 4], [1, 1, 1, 1, 1, 1, 1, 1])
    assert (found.test, found.wilcoxon_p) == ("wilcoxon", 2 / 32)
    assert found.verdict == "too few seeds to tell (try 10 or more; equal in 3 of 8)"


def test_better_in_most_seeds_but_not_in_the_mean_is_no_winner():
    # Eleven seeds a little better, one much worse: the negative ranks sum to 12 of 78.
    found = compare([0.91] * 6 + [0.92] * 5 + [0.0], [0.9] * 12)
    assert found.p_holm < 0.05
    assert found.difference < 0
    assert (found.verdict, found.better) == ("mixed: a is better by rank, but not in the mean", None)


def test_an_interval_that_holds_zero_is_said_beside_the_rank():
    found = compare([0.92] * 11 + [0.8], [0.9] * 12)
    assert found.interval[0] < 0 < found.difference
    assert found.verdict == "a is better by rank; the means differ by 0.0100 (95 % CI -0.0120 to 0.0320)"
    assert found.better == "a"


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (1.0, "by 2.33 (95 % CI 1.25 to 3.42)"),
        (1e3, "by 2,333 (95 % CI 1,249 to 3,417)"),
        (1e9, "by 2.33e9 (95 % CI 1.25e9 to 3.42e9)"),
        (1e-9, "by 2.33e-9 (95 % CI 1.25e-9 to 3.42e-9)"),
        (1e-2, "by 0.0233 (95 % CI 0.0125 to 0.0342)"),
    ],
)
def test_numbers_of_any_size_are_readable(scale, words):
    assert words in compare([scale * v for v in (1, 2, 2, 2, 3, 4)], [0] * 6).verdict


def test_pairs_are_matched_by_seed_and_improvement_takes_all_runs():
    arms = {"a": {0: 1.0, 1: 5.0, 2: 3.0, 9: 100.0}, "b": {2: 2.0, 1: 3.0, 0: 0.0, 7: -100.0}}
    (found,) = compare_pairs(arms, "max")
    assert (found.n, found.difference) == (3, pytest.approx(4 / 3))  # 1 - 0, 5 - 3, 3 - 2
    # Of 16 pairs of runs a wins 4 against -100, 4 against 0, 3 against 2 (not 1), and 2 against 3, with 3 = 3.
    assert found.improvement == 13.5 / 16


def test_all_pairs_or_those_with_the_baseline():
    arms = {name: arm(1, 2, 3) for name in "abc"}
    assert [(p.first, p.second) for p in compare_pairs(arms, "max")] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(p.first, p.second) for p in compare_pairs(arms, "max", baseline="b")] == [("a", "b"), ("c", "b")]
    assert compare_pairs({"a": arm(1)}, "max") == compare_pairs({}, "max") == []
    with pytest.raises(ConfigError, match="no arm is called 'focel'; did you mean 'focal'"):
        compare_pairs({"focal": arm(1)}, "max", baseline="focel")


def test_several_pairs_are_corrected_and_those_that_are_not_tested_do_not_count():
    g = np.random.default_rng(0)
    arms = {name: arm(*g.normal(0, 1, 5)) for name in "abc"} | {"single": {0: 1.0}}
    found = [pair for pair in compare_pairs(arms, "max") if "single" not in (pair.first, pair.second)]
    assert [pair.test for pair in found] == ["t"] * 3
    assert [pair.t_p_holm for pair in found] == pytest.approx(holm([pair.t_p for pair in found]))
    assert [pair.wilcoxon_p_holm for pair in found] == pytest.approx(holm([pair.wilcoxon_p for pair in found]))
    assert {pair.verdict for pair in found} == {"too few seeds to tell (try 7 or more)"}  # of 6 pairs it were 8


def test_a_baseline_chosen_by_the_values_is_corrected_for_the_pairs_of_all_arms():
    # 4 arms make 6 pairs: the smallest p counts 6 times, the next ones 5 and 4 times.
    g = np.random.default_rng(0)
    arms = {name: arm(*g.normal(0, 1, 4)) for name in "abcd"} | {"single": {0: 1.0}}
    *found, single = compare_pairs(arms, "max", baseline="a", chosen_by_values=True)
    assert single.p_holm is None
    assert [pair.p_holm for pair in found] == pytest.approx(holm([pair.t_p for pair in found] + [1.0] * 3)[:3])


def test_the_tests_that_decide_are_corrected_together():
    # b - a with 3 seeds is t's, b - c with 12 is Wilcoxon's: the smaller p counts twice.
    arms = {"a": arm(1, 2, 3), "b": arm(1.5, 2.4, 3.6, *range(9)), "c": arm(1, 2, 3, *range(9))}
    first, second = compare_pairs(arms, "max", baseline="b")
    assert (first.test, second.test) == ("t", "wilcoxon")
    assert [first.p_holm, second.p_holm] == pytest.approx(holm([first.t_p, second.wilcoxon_p]))


# What must not change them

GRID = st.integers(-50, 50)
PAIRS = st.lists(st.tuples(GRID, GRID), min_size=3, max_size=14)


def told(pair):
    return [getattr(pair, field) for field in FIELDS]


def close(found, wanted):
    return all(
        (a is None and b is None) or a == pytest.approx(b, rel=1e-6, abs=1e-9)
        for a, b in zip(found, wanted, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(PAIRS)
def test_swapped_arms_and_flipped_directions_say_the_same(pairs):
    a, b = ([float(value) for value in side] for side in zip(*pairs, strict=True))
    found, flipped = compare(a, b), compare([-v for v in a], [-v for v in b], "min")
    (swapped,) = compare_pairs({"b": arm(*b), "a": arm(*a)}, "max")
    difference, effect, chance, *p = told(found)
    assert (swapped.first, swapped.better, swapped.verdict) == ("b", found.better, found.verdict)
    assert close(told(swapped), [-difference, None if effect is None else -effect, 1 - chance, *p])
    assert (flipped.better, flipped.verdict) == (found.better, found.verdict)
    assert close(told(flipped), [-difference, None if effect is None else -effect, chance, *p])


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(-100, 100), st.integers(-3, 3))
def test_neither_shift_nor_scale_changes_what_is_told(pairs, shift, power):
    a, b = ([float(value) for value in side] for side in zip(*pairs, strict=True))
    found = compare(a, b)
    moved = compare(*([10.0**power * (value + shift) for value in side] for side in (a, b)))
    assert (moved.better, moved.test) == (found.better, found.test)
    difference, *rest = told(found)
    assert close(told(moved), [10.0**power * difference, *rest])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_keeps_the_order_and_only_raises(p):
    corrected = holm(p)
    assert all(raw <= c <= 1 for raw, c in zip(p, corrected, strict=True))
    assert [c for _, c in sorted(zip(p, corrected, strict=True))] == sorted(corrected)
    assert all(c <= min(1, len(p) * raw) for raw, c in zip(p, corrected, strict=True))  # never worse than Bonferroni


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8))
def test_whatever_goes_in_what_comes_out_is_finite_and_in_order(values):
    found = spread(values)
    assert all(map(math.isfinite, numbers(found)))
    for interval in (found.interval, found.bootstrap):
        assert interval is None or interval[0] <= interval[1]
    pair = compare(values, list(reversed(values)))
    assert all(map(math.isfinite, numbers(pair)))
    assert all(0 <= p <= 1 for p in told(pair)[2:] if p is not None)


# Simulated sweeps

DRAWS = {
    "normal": lambda g, shape: g.normal(size=shape) + g.normal(size=shape[1]),  # each seed has its own luck
    "skewed": lambda g, shape: g.lognormal(size=shape),
    "accuracy of 360 rows": lambda g, shape: g.binomial(360, 0.97, shape) / 360,
    "accuracy of 20 rows": lambda g, shape: g.binomial(20, 0.9, shape) / 20,
    "one in ten diverges": lambda g, shape: np.where(g.random(shape) < 0.1, 0, g.normal(0.9, 0.01, shape)),
}


def found_better(values):  # (arms, seeds)
    """Whether each pair has a winner."""
    arms = {f"arm{k}": arm(*row) for k, row in enumerate(values)}
    return [pair.better is not None for pair in compare_pairs(arms, "max")]


def false_alarms(draw, n, sweeps, arms=3, seed=0):
    g = np.random.default_rng(seed)
    return sum(any(found_better(DRAWS[draw](g, (arms, n)))) for _ in range(sweeps))


def at_most(share, sweeps):
    """So many of the sweeps, or more, come in one of 10,000 such simulations if the share is true."""
    return scipy.stats.binom.isf(1e-4, sweeps, share)


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize("draw", DRAWS)
def test_equal_arms_are_rarely_found_different(draw, n):
    assert false_alarms(draw, n, 150) <= at_most(0.05, 150)


@pytest.mark.slow
def test_the_best_of_many_arms_is_not_better_by_being_chosen():
    g, alarms = np.random.default_rng(0), {True: 0, False: 0}
    for _ in range(200):
        values = g.normal(size=(20, 12))
        arms, best = {f"arm{k}": arm(*row) for k, row in enumerate(values)}, f"arm{values.mean(1).argmax()}"
        for corrected in alarms:
            pairs = compare_pairs(arms, "max", baseline=best, chosen_by_values=corrected)
            alarms[corrected] += any(pair.better is not None for pair in pairs)
    assert alarms[True] <= at_most(0.05, 200) < alarms[False]


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 8, 12])
@pytest.mark.parametrize("draw", DRAWS)
def test_false_alarms_of_a_whole_sweep_are_at_the_nominal_rate(draw, n):
    assert false_alarms(draw, n, 1000, seed=1) <= at_most(0.05, 1000)


def power_of_t(n, effect, alpha=0.05):
    """The probability that a two-sided paired t test finds an effect of so many standard deviations."""
    limit, shift = scipy.stats.t.isf(alpha / 2, n - 1), effect * math.sqrt(n)
    return scipy.stats.nct.sf(limit, n - 1, shift) + scipy.stats.nct.cdf(-limit, n - 1, shift)


@pytest.mark.parametrize("n", [3, 5])
def test_planted_differences_are_found_as_often_as_theory_says_of_t(n):
    g, effect, sweeps = np.random.default_rng(n), 2.0, 1000
    hits = sum(found_better(g.normal([[effect], [0]], math.sqrt(0.5), (2, n)))[0] for _ in range(sweeps))
    lo, hi = scipy.stats.binom.interval(0.9999, sweeps, power_of_t(n, effect))
    assert lo <= hits <= hi


def test_planted_differences_are_found_as_often_as_theory_says_of_wilcoxon():
    # Of six seeds it finds a difference where all six have one sign: with an effect of d_z, Phi(d_z)^6.
    g, effect, sweeps = np.random.default_rng(0), 1.5, 1000
    hits = sum(found_better(g.normal([[effect], [0]], math.sqrt(0.5), (2, 6)))[0] for _ in range(sweeps))
    lo, hi = scipy.stats.binom.interval(0.9999, sweeps, scipy.stats.norm.cdf(effect) ** 6)
    assert lo <= hits <= hi


def test_intervals_hold_the_mean_as_often_as_they_say():
    g, samples = np.random.default_rng(0), 400
    found = [spread(g.normal(size=8), seed) for seed in range(samples)]
    for intervals in ([s.interval for s in found], [s.bootstrap for s in found]):
        hits = sum(lo <= 0 <= hi for lo, hi in intervals)
        assert hits >= scipy.stats.binom.isf(1 - 1e-4, samples, 0.94)
