"""Every schedule as the config gives it, against a bare loop with torch's own class: equal to the last bit."""

from __future__ import annotations

import io
import math
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from test_guard import batch, make, poison
from torch import nn
from torch.optim import lr_scheduler as torchs

from lossbench import catalog
from lossbench.compose import compose
from lossbench.engine import Length
from lossbench.engine.tree import cloned
from lossbench.errors import ConfigError
from lossbench.optim.lengths import fill_lengths
from lossbench.optim.schedules import TRIED, by_factor, inverse_sqrt_factor, wsd_factor
from lossbench.schedule_build import build_schedules, schedule_notes
from lossbench.tasks import Multiclass

STEPS, PER_EPOCH, EVERY = 48, 6, 4
MOVES = {"step": 48, "epoch": 8, "evaluation": 12}
NAMES = catalog.names("scheduler")


def sgd(groups):
    return torch.optim.SGD(groups, momentum=0.9)


def adam(groups):
    return torch.optim.Adam(groups)


def parameters(rates=(0.1, 0.03)):
    return [{"params": [nn.Parameter(torch.ones(1))], "lr": lr, "name": f"g{i}"} for i, lr in enumerate(rates)]


def bare(name, o, n):
    """Torch's schedule over n moves with every option written out, the groups' rates being 0.1 and 0.03."""
    rates = [group["lr"] for group in o.param_groups]
    factors = {
        "wsd": lambda k: 1 - math.sqrt(max(0, k - (n - round(n / 5))) / round(n / 5)),
        "inverse_sqrt": lambda k: math.sqrt(n / 10 / (n / 10 + k)) if n >= 10 else math.sqrt(1 / (1 + k)),
        "lambda": lambda k: 0.5 * (1 + math.cos(math.pi * (k / n))),
    }
    if name in factors:
        return torchs.LambdaLR(o, factors[name])
    return {
        "constant": lambda: torchs.ConstantLR(o, factor=1.0, total_iters=5),
        "step": lambda: torchs.StepLR(o, 30, 0.1),
        "multistep": lambda: torchs.MultiStepLR(o, [n // 2, 3 * n // 4], 0.1),
        "exponential": lambda: torchs.ExponentialLR(o, 0.95),
        "cosine": lambda: torchs.CosineAnnealingLR(o, n, 0.0),
        "cosine_restarts": lambda: torchs.CosineAnnealingWarmRestarts(o, math.ceil(n / 3), 1, 0.0),
        "cyclic": lambda: torchs.CyclicLR(o, [rate / 10 for rate in rates], rates, math.ceil(n / 8)),
        "onecycle": lambda: torchs.OneCycleLR(o, rates, n),
        "linear": lambda: torchs.LinearLR(o, 1.0, 0.0, n),
        "polynomial": lambda: torchs.PolynomialLR(o, n, 0.9),
        "plateau": lambda: torchs.ReduceLROnPlateau(o, mode="max", factor=0.1, patience=5),
    }[name]()


@cache
def config(*overrides):
    return compose(*overrides)


def schedules(optimizers, *overrides, steps=STEPS):
    """As `build` makes them, of a run of 8 epochs of 6 steps, evaluated every 4."""
    data, batches = SimpleNamespace(task=Multiclass(3)), SimpleNamespace(steps_per_epoch=PER_EPOCH)
    return build_schedules(config(*overrides), optimizers, Length(steps, EVERY), batches, data)


def settings(o):
    """The rate of each group, and what there is of momentum."""
    return [(group["lr"], group.get("momentum"), group.get("betas")) for group in o.param_groups]


def bare_settings(name, make_optimizer, interval, *, skipped=(), rates=(0.1, 0.03), taken=STEPS, wait=0):
    """What a bare loop trains with, from the end of a warm-up of so many steps on."""
    o = make_optimizer(parameters(rates))
    every = {"step": 1, "epoch": PER_EPOCH, "evaluation": EVERY}[interval]
    schedule = bare(name, o, -(-(taken - wait) // every))
    seen, made = [], 0
    for step in range(wait + 1, STEPS + 1):
        seen.append(settings(o))
        if step not in skipped:
            o.step()
            made += 1
        if step % EVERY == 0 if interval == "evaluation" else step not in skipped and made % every == 0:
            schedule.step(*([0.5] if name == "plateau" else []))
    return seen


def run_through(schedule):
    """The settings of each group in each step of a run whose metric never gets better."""
    seen = []
    for step in range(1, STEPS + 1):
        seen.append(settings(schedule.optimizer))
        schedule.optimizer.step()
        schedule.step()
        if step % EVERY == 0:
            schedule.evaluated({"accuracy": 0.5})
    return seen


CASES = [(name, interval) for name in NAMES for interval in MOVES if name != "plateau" or interval == "evaluation"]


@pytest.mark.parametrize("make_optimizer", [sgd, adam])
@pytest.mark.parametrize(("name", "interval"), CASES)
def test_rates_and_momenta_are_torchs_in_each_group(name, interval, make_optimizer):
    o = make_optimizer(parameters())
    (schedule,) = schedules([o], f"scheduler={name}", f"scheduler.interval={interval}")
    seen = run_through(schedule)
    assert seen == bare_settings(name, make_optimizer, interval)
    if name == "constant" or (name == "step" and interval != "step"):
        assert seen == [seen[0]] * STEPS
    else:
        assert len(set(map(str, seen))) > 1


def saved(state):
    """As a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def player_with(optimizer, *overrides):
    found = make(optimizer, policy="skip", scheduler=lambda o: schedules([o], *overrides)[0])
    (schedule,) = found.schedules
    return found, schedule


@pytest.mark.parametrize(
    ("name", "interval", "optimizer"),
    [(*case, o) for case in CASES for o in ("sgd", "adam") if o == "sgd" or "cycl" in case[0]],
)
def test_accumulation_skipped_steps_and_a_resume_change_nothing(name, interval, optimizer):
    """Steps 5 and 20 of the training are bad, each step has two micro-batches, and at 15 and 31 it starts anew."""
    words = (f"scheduler={name}", f"scheduler.interval={interval}")
    player, schedule = player_with(optimizer, *words)
    rate = 0.1 if optimizer == "sgd" else 0.01
    seen = []
    for step in range(1, STEPS + 1):
        seen.append(player.lr)
        first = batch(step)
        player.step([poison("input", player, first) if step in (5, 20) else first, batch(step + 100)])
        if step % EVERY == 0:
            schedule.evaluated({"accuracy": 0.5})
        if step in (15, 31):
            state = saved(cloned(player.state()))
            player, schedule = player_with(optimizer, *words)
            player.load(state)
    maker = (lambda p: torch.optim.SGD(p, momentum=0.9)) if optimizer == "sgd" else adam
    expected = bare_settings(name, maker, interval, skipped=(5, 20), rates=(rate,))
    assert seen == [groups[0][0] for groups in expected]


@pytest.mark.parametrize("shape", ["linear", "exponential"])
@pytest.mark.parametrize("name", NAMES)
def test_the_warmup_leads_to_the_schedules_first_rate_in_each_group(name, shape):
    interval = "evaluation" if name == "plateau" else "step"
    words = (f"scheduler={name}", f"scheduler.interval={interval}", "scheduler.warmup=8")
    o = sgd(parameters())
    (schedule,) = schedules([o], *words, f"scheduler.warmup_shape={shape}")
    seen = run_through(schedule)
    if name == "inverse_sqrt":  # whose timescale is the warm-up's length
        after = [[(rate * math.sqrt(8 / (8 + k)), 0.9, None) for rate in (0.1, 0.03)] for k in range(40)]
    elif name == "plateau":  # it looks from the end of the warm-up on: 0.5 at step 8 is the best, 6 more are borne
        after = [[(rate * (0.1 if k >= 24 else 1), 0.9, None) for rate in (0.1, 0.03)] for k in range(40)]
    else:
        after = bare_settings(name, sgd, interval, wait=8)
    assert seen[8:] == after
    for group, peak in enumerate(first[0] for first in after[0]):
        if shape == "linear":  # torch's own closed form of it
            warm = [peak * (0.1 + (1.0 - 0.1) * k / 8) for k in range(8)]
        else:
            warm = [peak * 0.1 * 10 ** (k / 8) for k in range(8)]
        assert [row[group][0] for row in seen[:8]] == pytest.approx(warm, rel=1e-12)
        assert seen[0][group][1] == after[0][group][1]


def test_a_linear_warmup_is_torchs_to_the_last_bit():
    o = sgd(parameters())
    (schedule,) = schedules([o], "scheduler.warmup=8")
    twin = sgd(parameters())
    linear = torchs.LinearLR(twin, 0.1, 1.0, 8)
    for step in range(8):
        linear.last_epoch = step
        assert [group["lr"] for group in o.param_groups] == linear._get_closed_form_lr()
        o.step()
        schedule.step()
    assert [group["lr"] for group in o.param_groups] == [0.1, 0.03]


def test_after_a_rollback_each_groups_rate_is_a_share_of_torchs():
    o = sgd(parameters())
    (schedule,) = schedules([o], "scheduler=linear")
    for step in range(STEPS):
        if step == 10:
            schedule.slow_down(0.25)
        expected = bare_settings("linear", sgd, "step")[step]
        assert [group["lr"] for group in o.param_groups] == [r * (0.25 if step >= 10 else 1) for r, *_ in expected]
        o.step()
        schedule.step()


# Momentum


@pytest.mark.parametrize("name", ["cyclic", "onecycle"])
@pytest.mark.parametrize(
    "made",
    [
        lambda p: torch.optim.SGD(p),
        lambda p: torch.optim.RMSprop(p),
        lambda p: torch.optim.Adagrad(p),
        lambda p: torch.optim.Adam(p, betas=(0.0, 0.99)),
    ],
)
def test_an_optimizer_without_momentum_gets_none(name, made):
    o = made(parameters())
    (schedule,) = schedules([o], f"scheduler={name}")
    for _ in range(STEPS):
        assert {group.get("momentum", 0) for group in o.param_groups} == {0}
        assert {group.get("betas", (0,))[0] for group in o.param_groups} == {0}
        o.step()
        schedule.step()


@pytest.mark.parametrize(("name", "ends"), [("cyclic", (0.8, 0.9)), ("onecycle", (0.85, 0.95))])
def test_several_optimizers_cycle_each_its_own_momentum(name, ends):
    matrix = [{"params": [nn.Parameter(torch.ones(2, 2))], "lr": 0.02, "name": "matrices"}]
    muon, adamw = torch.optim.Muon(matrix), torch.optim.AdamW(parameters((0.001,)))
    found = schedules([muon, adamw], f"scheduler={name}")
    seen = []
    for _ in range(STEPS):
        seen.append((muon.param_groups[0]["momentum"], adamw.param_groups[0]["betas"][0]))
        for o, schedule in zip((muon, adamw), found, strict=True):
            o.step()
            schedule.step()
    assert all(a == b for a, b in seen)
    low, high = min(a for a, _ in seen), max(a for a, _ in seen)
    assert (low, high) == (pytest.approx(ends[0], abs=0.01), pytest.approx(ends[1], abs=0.01))
    assert max(0.02, muon.param_groups[0]["lr"]) == 0.02
    assert max(0.001, adamw.param_groups[0]["lr"]) == 0.001


def test_momentum_that_is_not_to_move_does_not():
    o = sgd(parameters())
    (schedule,) = schedules([o], "scheduler=onecycle", "scheduler.cycle_momentum=false")
    o.step()
    schedule.step()
    assert o.param_groups[0]["momentum"] == 0.9


# Lengths


@pytest.mark.parametrize(("moves", "ratio", "first"), [(30, 1, 10), (30, 2, 5), (31, 2, 5), (36, 2, 6), (2, 1, 1)])
def test_three_cycles_end_with_the_run(moves, ratio, first):
    values = {"T_0": None, "T_mult": ratio}
    assert fill_lengths(torchs.CosineAnnealingWarmRestarts, values, [], moves, [0.1])["T_0"] == first


@pytest.mark.parametrize(("moves", "milestones"), [(30, [15, 22]), (8, [4, 6]), (2, [1]), (1, [1])])
def test_milestones_at_a_half_and_at_three_quarters(moves, milestones):
    assert fill_lengths(torchs.MultiStepLR, {"milestones": None}, [], moves, [0.1])["milestones"] == milestones


def test_a_cycle_starts_at_a_tenth_of_its_peak():
    values = {"base_lr": None, "max_lr": None, "step_size_up": None}
    assert fill_lengths(torchs.CyclicLR, values, [], 30, [0.1]) == {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4}
    given = {**values, "max_lr": [2.0, 6.0]}
    assert fill_lengths(torchs.CyclicLR, given, [], 32, [0.1, 0.3])["base_lr"] == pytest.approx([0.2, 0.6])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("OneCycleLR", {"total_steps": 10}, "total_steps=10 is shorter than the run"),
        ("CyclicLR", {"max_lr": None, "base_lr": [0.05, 0.05]}, "base_lr=0.05 is above max_lr=0.03"),
        ("OneCycleLR", {"pct_start": 0.025, "total_steps": None}, "leaves a phase of the cycle without any"),
        ("OneCycleLR", {"pct_start": 0.5125, "total_steps": None, "three_phase": True}, "leaves a phase"),
    ],
)
def test_lengths_and_rates_that_do_not_go_together(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        fill_lengths(getattr(torchs, kind), values, [], 40, [0.1, 0.03])


def several():
    """As muon has them: two groups of matrices, the second with a rate of its own, and what goes to AdamW."""
    matrices = [{"params": [nn.Parameter(torch.ones(2, 2))], "lr": lr, "name": str(lr)} for lr in (0.01, 0.02)]
    return [torch.optim.Muon(matrices), torch.optim.AdamW(parameters((0.001,)))]


def peaks(found):
    """The highest and the lowest rate of each group."""
    groups = [group for schedule in found for group in schedule.optimizer.param_groups]
    seen = []
    for _ in range(STEPS):
        seen.append([group["lr"] for group in groups])
        for schedule in found:
            schedule.optimizer.step()
            schedule.step()
    return [(max(course), min(course)) for course in zip(*seen, strict=True)]


def test_a_stated_peak_is_that_of_the_runs_rate_and_the_others_are_in_proportion():
    words = ("optim=muon", "scheduler=cyclic", "scheduler.max_lr=0.1", "scheduler.base_lr=0.02")  # optim.lr=0.02
    expected = [(0.05, 0.01), (0.1, 0.02), (0.005, 0.001)]
    assert peaks(schedules(several(), *words)) == [pytest.approx(pair) for pair in expected]
    first = schedules(several(), "optim.lr=0.5", *words)  # which no group has: it is the first one's
    assert [high for high, _ in peaks(first)] == pytest.approx([0.1, 0.2, 0.01])


@pytest.mark.parametrize("name", ["cyclic", "onecycle"])
def test_a_list_has_a_number_for_each_group_of_all_optimizers(name):
    words = ("optim=muon", f"scheduler={name}")
    found = peaks(schedules(several(), *words, "scheduler.max_lr=[0.3,0.2,0.1]"))
    assert [high for high, _ in found] == pytest.approx([0.3, 0.2, 0.1], rel=0.01)
    with pytest.raises(ConfigError, match=r"max_lr must have one number per parameter group \(3\), got 2"):
        schedules(several(), *words, "scheduler.max_lr=[0.3,0.2]")


def test_a_list_of_lowest_rates_is_divided_too():
    words = ("scheduler=plateau", "scheduler.patience=0", "scheduler.min_lr=[0.003,0.002,0.0001]")
    found = schedules(several(), "optim=muon", *words)
    for _ in range(5):
        for schedule in found:
            schedule.optimizer.step()
            schedule.evaluated({"accuracy": 0.5})
    assert [g["lr"] for s in found for g in s.optimizer.param_groups] == pytest.approx([0.003, 0.002, 0.0001])


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (("scheduler=step",), "scheduler.step_size=30 is not reached in the run's 8 epochs: the rate stays as it is"),
        (("scheduler=step", "scheduler.step_size=7"), None),
        (("scheduler=multistep",), None),
        (
            ("scheduler=multistep", "scheduler.milestones=[2,8]"),
            "scheduler.milestones: 8 is not reached in the run's 8 epochs",
        ),
        (("scheduler=cosine",), None),
    ],
)
def test_what_the_run_does_not_reach_is_noted(words, note):
    (schedule,) = schedules([sgd(parameters())], *words)
    assert schedule_notes(config(*words), schedule) == ((note,) if note else ())


def test_a_constant_factor_lasts_for_its_moves():
    o = sgd(parameters((0.1,)))
    (schedule,) = schedules([o], "scheduler=constant", "scheduler.factor=0.5", "scheduler.total_iters=3")
    seen = []
    for _ in range(5):
        seen.append(o.param_groups[0]["lr"])
        o.step()
        schedule.step()
    assert seen == [0.05, 0.05, 0.05, 0.1, 0.1]


# Plateau


@pytest.mark.parametrize(
    ("words", "metric", "values"),
    [
        ((), "accuracy", (0.9, 0.8, 0.7)),
        (("scheduler.metric=error_rate",), "error_rate", (0.1, 0.2, 0.3)),
        (("scheduler.metric=loss",), "loss", (1.0, 2.0, 3.0)),
        (("trainer.monitor=nll",), "nll", (1.0, 2.0, 3.0)),
        (("trainer.monitor=nll", "trainer.direction=max"), "nll", (3.0, 2.0, 1.0)),
        (("scheduler.mode=max", "scheduler.metric=loss"), "loss", (3.0, 2.0, 1.0)),
    ],
)
def test_plateau_follows_a_metric_in_its_direction(words, metric, values):
    """Two worse values at patience 1 lower the rate; as many better ones do not."""
    for order, expected in ((values, 0.01), (values[::-1], 0.1)):
        o = sgd(parameters((0.1,)))
        (schedule,) = schedules([o], "scheduler=plateau", "scheduler.patience=1", *words)
        for value in order:
            o.step()
            schedule.step()
            schedule.evaluated({metric: value})
        assert o.param_groups[0]["lr"] == pytest.approx(expected)


# Factors


def test_wsd_by_hand():
    def course(shape, low=0.0):
        return [wsd_factor(k, 10, decay=0.4, shape=shape, min_factor=low) for k in (0, 6, 7, 8, 9, 10, 11)]

    assert course("linear") == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0, 0])
    assert course("1-sqrt") == pytest.approx([1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0, 0])
    assert course("cosine") == pytest.approx([1, 1, 0.5 + 0.125**0.5, 0.5, 0.5 - 0.125**0.5, 0, 0])
    assert course("linear", 0.2) == pytest.approx([1, 1, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert wsd_factor(1, 3, decay=1e-9, shape="linear", min_factor=0.0) == 1  # one move of decay at the least


def test_with_the_warmup_the_inverse_root_is_the_transformers():
    """The rate of Vaswani et al. 2017 at step s, over its peak at the end of a warm-up of w steps."""
    w = 20
    for s in range(w, 200):
        assert inverse_sqrt_factor(s - w, w) == pytest.approx(min(s**-0.5, s * w**-1.5) * w**0.5)


def factor_of(moves=600, **options):
    o = sgd(parameters((0.5,)))
    return o, by_factor(o, moves, **options)


def test_an_expression_is_given_where_the_run_stands():
    o, schedule = factor_of(8, expression="t + step / 10 + steps / 100")
    for k in range(8):
        assert o.param_groups[0]["lr"] == 0.5 * (k / 8 + k / 10 + 8 / 100)
        o.step()
        schedule.step()


def test_a_function_is_given_the_moves_made():
    o, schedule = factor_of(8, function=lambda move: 2 if move < 3 else torch.tensor(0.25))
    seen = []
    for _ in range(5):
        seen.append(o.param_groups[0]["lr"])
        o.step()
        schedule.step()
    assert seen == [1.0, 1.0, 1.0, 0.125, 0.125]


def fails(move):
    raise KeyError("no such move")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"expression": "1 - 2 * t"},
            r"expression='1 - 2 \* t' must be .* at least 0, and is -0.00333333 at move 301$",
        ),
        ({"expression": "1 / step"}, r"has no value at move 0 \(float division by zero\)"),
        ({"expression": "9 ** 9 ** 9"}, "has no value at move 0"),
        ({"expression": "1e308 * 10"}, "and is inf at move 0"),
        ({"expression": "0 * t"}, "is 0 at every move: nothing would be learned"),
        ({"expression": "1 if step < steps else -1"}, "is -1 at move 600"),
        ({"function": fails}, r"function=fails has no value at move 0 \('no such move'\)"),
        ({"function": lambda k: "text"}, "has no value at move 0"),
        ({"function": lambda k: math.nan if k == 599 else 1}, "is nan at move 599"),
    ],
)
def test_bad_factors_are_found_before_the_first_step(options, message):
    with pytest.raises(ConfigError, match=message):
        factor_of(**options)


def test_a_long_run_is_tried_at_many_moves():
    tried = []

    def factor(move):
        tried.append(move)
        return 1.0

    factor_of(10**7, function=factor)
    assert len(tried) <= TRIED + 2  # the last move, and torch's own first call
    assert tried[0] == 0
    assert {10**7 - 1, 10**7} <= set(tried)
    o, schedule = factor_of(10**7, function=lambda k: -1.0 if k == 1 else 1.0)
    o.step()
    with pytest.raises(ConfigError, match="is -1 at move 1"):
        schedule.step()


# A user's own, from the command line

CODE = """
from torch.optim.lr_scheduler import LRScheduler

class Halving(LRScheduler):
    def __init__(self, optimizer, total_iters, low: float = 0.0):
        self.total_iters, self.low = total_iters, low
        super().__init__(optimizer)

    def get_lr(self):
        return [max(self.low, rate * 0.5 ** self.last_epoch) for rate in self.base_lrs]

class Named(Halving):
    def __init__(self, optimizer, total_iters, step_size, milestones, pct_start, total_steps, base_lr, max_lr, T_mult):
        assert (step_size, milestones, pct_start) == (None, [3, "end"], None)
        assert (total_steps, base_lr, max_lr, T_mult) == (1, 9, "high", [2])
        super().__init__(optimizer, total_iters)

def thirds(move): return 1 / 3
"""
FILES = {
    "halving": "_target_: rates.Halving\nlow: 0.01",
    "named": "_target_: rates.Named\nstep_size: null\nmilestones: [3, end]\npct_start: null\ntotal_steps: 1\n"
    "base_lr: 9\nmax_lr: high\nT_mult: [2]",
    "thirds": "_target_: torch.optim.lr_scheduler.MultiplicativeLR\nlr_lambda: rates.thirds",
    "own_scale": "_target_: torch.optim.lr_scheduler.CyclicLR\nscale_fn: rates.thirds\nstep_size_up: 1",
}


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        (("scheduler=halving",), [0.04, 0.02, 0.01, 0.01]),
        (("scheduler=named",), [0.04, 0.02, 0.01, 0.005]),
        (("scheduler=thirds",), [0.04, 0.04 / 3, 0.04 / 9, 0.04 / 27]),
        (("scheduler=lambda", "scheduler.function=rates.thirds"), [0.04 / 3] * 4),
        (("scheduler=own_scale",), [0.004, 0.004 + 0.036 / 3, 0.004, 0.004 + 0.036 / 3]),
    ],
)
def test_a_users_own_class_or_function(cli, tmp_path, words, rates):
    (tmp_path / "rates.py").write_text(CODE)
    (tmp_path / "mine" / "scheduler").mkdir(parents=True)
    for name, text in FILES.items():
        (tmp_path / "mine" / "scheduler" / f"{name}.yaml").write_text(text)
    settings = ("dataset=diabetes", "optim.lr=0.04", "trainer.steps=4", "trainer.device=cpu", "hydra.run.dir=run")
    code, _, err = cli("train", "--config-dir", "mine", *settings, *words)
    assert (code, err) == (0, "")
    rows = (tmp_path / "run" / "steps.csv").read_text().splitlines()
    lr = rows[0].split(",").index("lr")
    assert [float(row.split(",")[lr]) for row in rows[1:]] == pytest.approx(rates)
