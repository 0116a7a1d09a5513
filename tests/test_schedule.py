"""Rates against torch's own schedules, and the warm-up in front of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from lossbench.errors import ConfigError
from lossbench.optim import Schedule, SchedulerOptions
from lossbench.optim.lengths import fill_lengths
from lossbench.optim.schedule import warmup_steps

TOTAL, PER_EPOCH = 40, 10

TORCH = {
    "constant": lambda o, n: lr_scheduler.ConstantLR(o, factor=1.0, total_iters=0),
    "step": lambda o, n: lr_scheduler.StepLR(o, step_size=2, gamma=0.1),
    "cosine": lambda o, n: lr_scheduler.CosineAnnealingLR(o, T_max=n),
    "onecycle": lambda o, n: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=n),
}


def optimizer():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)


def rates(kind, steps=TOTAL, **options):
    """The rate and the momentum used in each step."""
    o = optimizer()
    schedule = Schedule(o, TORCH[kind], SchedulerOptions(**options), total_steps=steps, steps_per_epoch=PER_EPOCH)
    used = []
    for _ in range(steps):
        used.append((o.param_groups[0]["lr"], o.param_groups[0]["momentum"]))
        o.step()
        schedule.step()
    return used


def bare(kind, moves, every=1):
    o = optimizer()
    schedule = TORCH[kind](o, moves)
    used = []
    for step in range(1, moves * every + 1):
        used.append((o.param_groups[0]["lr"], o.param_groups[0]["momentum"]))
        o.step()
        if step % every == 0 and step < moves * every:
            schedule.step()
    return used


@pytest.mark.parametrize("kind", TORCH)
def test_by_step_equals_torch_to_the_last_bit(kind):
    assert rates(kind) == bare(kind, TOTAL)


@pytest.mark.parametrize("kind", TORCH)
def test_by_epoch_equals_torch_to_the_last_bit(kind):
    assert rates(kind, interval="epoch") == bare(kind, TOTAL // PER_EPOCH, every=PER_EPOCH)


@pytest.mark.parametrize("kind", TORCH)
def test_warmup_comes_first_and_the_rest_is_as_without_it(kind):
    warmed = rates(kind, warmup=8)
    after = bare(kind, TOTAL - 8)
    start = after[0][0]
    # linear from 0.1 of the schedule's first rate: 0.1 + 0.9 k / 8
    assert [r for r, _ in warmed[:8]] == pytest.approx([start * (0.1 + 0.9 * k / 8) for k in range(8)])
    assert warmed[8:] == after


def test_warmup_agrees_with_torchs_own_linear_warmup():
    o = optimizer()
    chained = lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 8), lr_scheduler.CosineAnnealingLR(o, TOTAL - 8)], milestones=[8]
    )
    expected = []
    for _ in range(TOTAL):
        expected.append(o.param_groups[0]["lr"])
        o.step()
        chained.step()
    assert [r for r, _ in rates("cosine", warmup=8)] == pytest.approx(expected, abs=1e-9)


def test_warmup_as_a_share_of_the_run():
    assert rates("cosine", warmup=0.2) == rates("cosine", warmup=8)
    assert warmup_steps(0.2, 40) == 8


def test_an_exponential_warmup_rises_by_the_same_ratio():
    """From 0.1 of the rate in 8 steps: by the eighth root of 10 at each."""
    warmed = [r for r, _ in rates("cosine", warmup=8, warmup_shape="exponential")]
    assert warmed[:9] == pytest.approx([0.01 * 10 ** (k / 8) for k in range(9)])
    assert warmed[8:] == [r for r, _ in rates("cosine", warmup=8)][8:]


@pytest.mark.parametrize(
    ("warmup", "message"), [(40, "as long as the run"), (99, "as long as the run"), (2.5, "whole number of steps")]
)
def test_impossible_warmups(warmup, message):
    with pytest.raises(ConfigError, match=message):
        warmup_steps(warmup, 40)


def test_plateau_follows_its_metric_after_the_warmup():
    """Patience 1: the second evaluation that is no better lowers the rate, and so on; the warm-up does not count."""
    o = optimizer()

    def main(o, _):
        return lr_scheduler.ReduceLROnPlateau(o, mode="max", factor=0.5, patience=1)

    options = SchedulerOptions(interval="evaluation", warmup=2)
    schedule = Schedule(o, main, options, total_steps=100, steps_per_epoch=10, metric="accuracy")
    seen = []
    for accuracy in (0.1, 0.5, 0.4, 0.4, 0.6, 0.6, 0.6):
        o.step()
        schedule.step()
        schedule.evaluated({"accuracy": accuracy, "loss": 1 - accuracy})
        seen.append(o.param_groups[0]["lr"])
    assert seen == pytest.approx([0.055, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025])


def followed(schedule, steps, eval_every):
    """The rate in each step of a run."""
    used = []
    for step in range(1, steps + 1):
        used.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
        if step % eval_every == 0:
            schedule.evaluated({})
    return used


def test_by_evaluation_the_length_leaves_the_warmup_out():
    """40 steps, 20 of them warm-up, an evaluation every 5: a cosine over the 4 evaluations that are left."""
    o = optimizer()
    options = SchedulerOptions(interval="evaluation", warmup=20)
    schedule = Schedule(o, TORCH["cosine"], options, total_steps=40, steps_per_epoch=10, eval_every=5)
    assert schedule.main.T_max == 4
    used = followed(schedule, 40, eval_every=5)
    # the one that ends the warm-up moves nothing: no step was made at the full rate yet
    assert used[20:] == [r for r, _ in bare("cosine", 4, every=5)]


def test_by_evaluation_a_warm_up_within_an_interval_takes_none_away():
    """30 steps, an evaluation every 7: after 5 of warm-up, steps 6 to 7, 8 to 14, ... and 29 to 30 have a rate each."""
    o = optimizer()
    options = SchedulerOptions(interval="evaluation", warmup=5)
    schedule = Schedule(o, TORCH["cosine"], options, total_steps=30, steps_per_epoch=10, eval_every=7)
    used = followed(schedule, 30, eval_every=7)
    expected = [rate for rate, _ in bare("cosine", 5)]
    assert [used[step - 1] for step in (6, 8, 15, 22, 29, 30)] == [*expected, expected[-1]]
    assert used[-1] > 0


@pytest.mark.parametrize("skipped", [(), (9, 21, 22, 23, 24), (29, 30, 31, 32)])
@pytest.mark.parametrize("interval", ["step", "epoch", "evaluation"])
def test_moved_on_at_once_it_stands_where_step_by_step_it_would(interval, skipped):
    def made():
        o = optimizer()
        options = SchedulerOptions(interval=interval, warmup=6)
        return o, Schedule(o, TORCH["onecycle"], options, total_steps=40, steps_per_epoch=10, eval_every=5)

    (slow, by_step), (fast, at_once) = made(), made()
    for step in range(1, 34):
        slow.step()
        if step not in skipped:
            by_step.step()
        if step % 5 == 0:
            by_step.evaluated({})
    at_once.fast_forward(33 - len(skipped), 33)
    assert at_once.state_dict() == by_step.state_dict()
    assert fast.param_groups[0]["lr"] == slow.param_groups[0]["lr"] != by_step.rates[0]


def test_null_lengths_take_the_runs():
    cosine, onecycle = lr_scheduler.CosineAnnealingLR, lr_scheduler.OneCycleLR
    assert fill_lengths(cosine, {"T_max": None, "eta_min": 0.0}, [], 40, [0.1]) == {"T_max": 40, "eta_min": 0.0}
    assert fill_lengths(cosine, {"T_max": 7}, [], 40, [0.1]) == {"T_max": 7}
    assert fill_lengths(onecycle, {"total_steps": None, "max_lr": None}, ["max_lr"], 40, [0.1]) == {
        "total_steps": 40,
        "max_lr": 0.1,
    }
    assert fill_lengths(print, {}, ["T_max"], 40, [0.1]) == {"T_max": 40}  # a user's, its YAML silent about the length


def test_a_one_cycle_shorter_than_the_run_is_refused():
    with pytest.raises(ConfigError, match="total_steps=10 is shorter than the run"):
        fill_lengths(lr_scheduler.OneCycleLR, {"total_steps": 10}, [], 40, [0.1])
