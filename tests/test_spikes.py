"""Loss spikes: which steps are, and that they are counted and told."""

from __future__ import annotations

import math

import pytest
from recorded import (
    row,
)

from lossbench.observe.spikes import Spikes


def losses(values, first=1, **other):
    return [row(step)._replace(loss=loss, skipped="", **other) for step, loss in enumerate(values, first)]


def test_a_loss_spike_is_counted_and_told():
    said = []
    spikes = Spikes(said.append)
    steady = [3.0 + 0.1 * (i % 7) for i in range(119)]
    spikes.steps(losses([*steady, 3.1e6, 3.1, math.nan, 3.2]))
    assert spikes.count == 1
    assert said == ["step 120: loss spike: 3.1e+06, 9.4e+05 times the median of the 100 steps before"]


@pytest.mark.parametrize(
    ("before", "loss", "count"),
    [
        ([1.0] * 19, 1e9, 0),  # too few before it
        ([1.0] * 20, 1e9, 1),
        ([1.0, 1.1] * 10, 5.0, 0),  # many deviations, but less than 5 medians
        ([1.0, 1.1] * 10, 6.0, 1),
        ([0.01, 1.0, 2.0, 3.0] * 10, 12.0, 0),  # 8 medians, but within 10 deviations
        ([-2.0, -2.1] * 10, 5.0, 0),
        ([-2.0, -2.1] * 10, 11.0, 1),
        ([1.0] * 20, math.inf, 0),
    ],
)
def test_what_a_spike_is(before, loss, count):
    spikes = Spikes(lambda line: None)
    spikes.steps(losses(before))
    spikes.steps(losses([loss], len(before) + 1))
    assert spikes.count == count


def test_spikes_window_is_the_last_taken_steps():
    said = []
    spikes = Spikes(said.append)
    spikes.steps(losses([1.0] * 150))
    spikes.steps(losses([100.0] * 150, 151))
    # the first fifty of a new level are spikes against the old median; then it is the median
    assert 45 <= spikes.count <= 55
    assert len(said) == 20
    spikes.rewind(150)
    before = spikes.count
    spikes.steps(losses([1e9], 151))  # nothing is left to compare with
    assert spikes.count == before


def test_skipped_steps_are_no_spikes():
    spikes = Spikes(lambda line: None)
    spikes.steps(losses([1.0] * 50))
    spikes.steps([step._replace(skipped="overflow") for step in losses([1e9] * 50, 51)])
    spikes.steps(losses([1.0] * 10, 101))
    assert spikes.count == 0
