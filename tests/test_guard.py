"""No update that is not finite gets through: parameters, moments and buffers, at any step, under either gate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossbench.engine import Average as Averaging
from lossbench.engine import Clip, Guard, LossScale, Objective, Part, Player, autocast, choose_gate
from lossbench.losses import mse
from lossbench.optim import Schedule, SchedulerOptions
from lossbench.tasks import Regression

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "fused sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}
FUSED = [name for name in OPTIMIZERS if name.startswith("fused")]
GATES = [(name, "host") for name in OPTIMIZERS] + [(name, "device") for name in FUSED]


def batch(seed=0, n=8):
    g = torch.Generator().manual_seed(seed)
    return {"input": torch.randn(n, 4, generator=g), "target": torch.randn(n, generator=g), "index": torch.arange(n)}


def make(optimizer="sgd", *, policy="abort", gate="host", precision="fp32", loss=mse, scheduler=None, **guarded):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))
    made = OPTIMIZERS[optimizer](model.parameters())
    scale = LossScale(CPU, enabled=precision == "fp16")
    guard = Guard(policy, gate, [made], scale, [model], device=CPU, **guarded)
    objective = Objective([Part("loss", 1.0, loss, ("pred", "target"))])
    schedules = [scheduler(made)] if scheduler else []
    return Player(
        model,
        Regression(),
        objective,
        list(model.parameters()),
        [made],
        schedules,
        guard,
        scale,
        autocast(precision, CPU),
        Clip(),
    )


def state(player):
    """Everything that a step may move: parameters, buffers, moments and step counts."""
    moments = [v for s in player.optimizers[0].state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return [t.detach().clone() for t in (*player.model.state_dict().values(), *moments)]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def poison(kind, player, good):
    """A bad step of one kind, and the batch that causes it."""
    bad = dict(good)
    if kind == "input":
        bad["input"] = good["input"].clone().index_fill_(0, torch.tensor([3]), NAN)
    if kind == "target":
        bad["target"] = good["target"].clone().index_fill_(0, torch.tensor([3]), INF)
    if kind == "gradient":  # the loss is finite, its gradient is not: d sqrt(x) / dx at 0, times 0
        part = player.objective.parts[0]

        def root(pred, target):
            return mse(pred, target) + (pred * 0).abs().sqrt() * 0

        player.objective.parts = (Part(part.name, 1.0, root, part.needs),)
    if kind == "norm":  # finite gradients whose norm overflows
        part = player.objective.parts[0]
        player.objective.parts = (Part(part.name, 1.0, lambda p, t: p * 1e30, part.needs),)
    return bad


@pytest.mark.parametrize(("optimizer", "gate"), GATES)
@pytest.mark.parametrize("kind", ["input", "target", "gradient", "norm"])
@pytest.mark.parametrize("bad_step", [0, 3])
def test_abort_keeps_the_state_before(optimizer, gate, kind, bad_step):
    player = make(optimizer, gate=gate)
    for i in range(bad_step):
        player.step([batch(i)])
    before = state(player)
    # Memory that a careless kernel would take for a momentum buffer.
    garbage = [torch.full((6, 4), NAN) for _ in range(64)]
    del garbage
    bad = poison(kind, player, batch(bad_step))
    row = player.step([bad])
    assert row[3].item() == 3.0
    after = state(player)
    if bad_step:
        assert same(before, after)
    else:
        assert same(before, after[: len(before)])
        assert all(torch.isfinite(t).all() for t in after)


@pytest.mark.parametrize("optimizer", FUSED)
def test_the_latch_holds_everything_after_the_first_hit(optimizer):
    player = make(optimizer, gate="device")
    player.step([batch(0)])
    before = state(player)
    player.step([poison("input", player, batch(1))])
    later = player.step([batch(2)])  # the host has not looked yet: a good batch must not move anything
    assert later[3].item() == 4.0  # and is not recorded, since it never happened
    assert same(before, state(player))


class Average(nn.Module):
    """A loss with a running average, kept as most people write it: a new tensor in the old one's place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, pred, target):
        error = (pred - target).square()
        self.mean = 0.9 * self.mean + 0.1 * error.detach().mean()
        return error / (1 + self.mean)


@pytest.mark.parametrize("gate", ["host", "device"])
def test_buffers_that_are_replaced_are_put_back_too(gate):
    loss = Average()
    player = make("fused adamw", gate=gate, loss=loss)
    player.guard = Guard(
        "abort", gate, player.optimizers, player.scale, [player.model, player.objective.modules], device=CPU
    )
    player.step([batch(0)])
    before = loss.mean.clone()
    assert before > 0
    player.step([poison("input", player, batch(1))])
    assert torch.equal(loss.mean, before)


@pytest.mark.parametrize(
    ("choice", "gate"),
    [
        ({}, "device"),
        ({"policy": "skip"}, "host"),
        ({"policy": "off"}, "none"),
        ({"may_be_empty": True}, "host"),
        ({"optimizer": "sgd"}, "host"),
        ({"device": CPU}, "host"),
    ],
)
def test_the_device_gate_is_for_steps_that_need_no_host(choice, gate):
    given = {"policy": "abort", "device": torch.device("cuda"), "optimizer": "fused adamw", **choice}
    optimizer = OPTIMIZERS[given.pop("optimizer")]([nn.Parameter(torch.zeros(1))])
    policy, device = given.pop("policy"), given.pop("device")
    assert choose_gate(policy, device, LossScale(CPU, enabled=False), [optimizer], **given) == gate


@pytest.mark.parametrize(("optimizer", "gate"), GATES)
def test_gates_do_the_same_as_none_on_good_steps(optimizer, gate):
    guarded, free = make(optimizer, gate=gate), make(optimizer, policy="off", gate="none")
    for i in range(5):
        guarded.step([batch(i)])
        free.step([batch(i)])
    assert same(state(guarded), state(free))


def test_without_a_guard_nan_spreads():
    """The negative control: what the guard keeps out does get in where there is none."""
    player = make(policy="off", gate="none")
    player.step([poison("input", player, batch())])
    assert not all(torch.isfinite(t).all() for t in state(player))


@pytest.mark.parametrize(("optimizer", "gate"), [g for g in GATES if g[1] == "host"])
def test_skip_leaves_one_step_out(optimizer, gate):
    """Skipping step 2 of 4 equals never having had it."""
    skipping, without = make(optimizer, policy="skip", gate=gate), make(optimizer)
    for i in range(4):
        skipping.step([poison("input", skipping, batch(i)) if i == 2 else batch(i)])
        if i != 2:
            without.step([batch(i)])
    assert same(state(skipping), state(without))


def test_schedule_moves_only_with_the_optimizer():
    def halving(optimizer):
        options = SchedulerOptions()
        return Schedule(
            optimizer,
            lambda o, _: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
            options,
            total_steps=10,
            steps_per_epoch=5,
        )

    player = make(policy="skip", scheduler=halving)
    rates = []
    for i in range(4):
        player.step([poison("input", player, batch(i)) if i == 1 else batch(i)])
        rates.append(player.lr)
    assert rates == [0.05, 0.05, 0.025, 0.0125]


def test_an_empty_batch_moves_nothing_and_is_no_hit():
    player = make()
    player.step([batch(0)])
    before = state(player)
    row = player.step([batch(1) | {"weight": torch.zeros(8)}])
    assert row[3].item() == 1.0
    assert math.isnan(row[0].item())
    assert same(before, state(player))


@pytest.mark.parametrize("optimizer", FUSED)
def test_an_empty_batch_does_not_latch_on_the_device(optimizer):
    player = make(optimizer, gate="device")
    player.step([batch(0)])
    before = state(player)
    assert player.step([batch(1) | {"weight": torch.zeros(8)}])[3].item() == 1.0
    assert same(before, state(player))
    assert player.step([batch(2)])[3].item() == 0.0
    assert not same(before, state(player))


@pytest.mark.parametrize(("kind", "verdict"), [("target", 3.0), ("gradient", 2.0)])
def test_a_bad_step_lowers_the_scale_and_training_goes_on(kind, verdict):
    """An overflow of the gradients is what the scale is for; a loss that is not finite is counted apart."""
    player = make(precision="fp16")
    parts = player.objective.parts
    first = player.step([poison(kind, player, batch(0))])
    assert first[2:].tolist() == [32768.0, verdict]
    player.objective.parts = parts
    before = state(player)
    second = player.step([batch(1)])
    assert second[2:].tolist() == [32768.0, 0.0]
    assert not same(before, state(player))


def test_an_empty_batch_leaves_the_scale():
    player = make(precision="fp16")
    assert player.step([batch(0) | {"weight": torch.zeros(8)}])[2:].tolist() == [65536.0, 1.0]
    # The next step is on its own: taken, or an overflow such as a first scale of 65536 brings.
    assert player.step([batch(1)])[3].item() in (0.0, 2.0)


class CountReads(TorchDispatchMode):
    """Counts the places where the host reads a number from a tensor, each of which would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", FUSED)
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("average", [None, "ema", "swa"])
def test_the_device_gate_never_reads_on_the_host(optimizer, clip, average):
    player = make(optimizer, gate="device")
    player.clip = Clip(norm=clip)
    if average:
        player.average = Averaging(average, player.parameters)
    player.step([batch(0)])  # the first step is looked at, on purpose
    with CountReads() as count:
        for i in range(1, 4):
            player.begin(i)
            player.step([batch(i)])
    assert count.reads == 0
    assert player.average is None or player.average.updates == 3


def test_the_counter_counts():
    player = make()
    with CountReads() as count:
        player.step([batch(0)])
    assert count.reads > 0
