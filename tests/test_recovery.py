"""A fault at any place and step, under each policy and precision: what is left is sound, and the blame right."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from lossbench.data import Batches, Split
from lossbench.engine import (
    Best,
    Checkpoints,
    Clip,
    Guard,
    Length,
    LossScale,
    Objective,
    Part,
    Player,
    autocast,
    train,
)
from lossbench.engine.restore import found
from lossbench.errors import Diverged
from lossbench.losses import mse
from lossbench.observe.recorder import DeviceRecorder, Sink
from lossbench.optim import Schedule, SchedulerOptions
from lossbench.tasks import Regression

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")
STEPS = 20
PLACES = ["input", "forward", "loss", "gradient", "update"]


class Clock:
    """Which step is being made, and whether the fault is due in it."""

    def __init__(self, step=None, times=None):
        self.fault, self.times, self.now, self.struck = step, times, 0, 0

    def due(self):
        due = self.now == self.fault and (self.times is None or self.struck < self.times)
        self.struck += due
        return due


class Timed(Player):
    def begin(self, step):
        self.clock.now = step
        super().begin(step)


class Poisoned(Batches):
    """The input of the fault's step holds NaN in its fourth example."""

    clock = Clock()

    def _poison(self, step, micro):
        if step != self.clock.fault:
            return micro
        bad = dict(micro[0])
        bad["input"] = bad["input"].clone()
        bad["input"][3, 0] = NAN
        return [bad, *micro[1:]]

    def epoch(self, epoch, skip=0):
        for i, micro in enumerate(super().epoch(epoch, skip), epoch * self.steps_per_epoch + skip + 1):
            yield self._poison(i, micro)

    def at(self, step):
        return self._poison(step, super().at(step))


class Fault(nn.Module):
    """Passes on what it gets; when its time has come, with Inf in the fourth row of its output or of its gradient."""

    def __init__(self, clock, where):
        super().__init__()
        self.clock, self.where = clock, where

    def forward(self, x):
        if not self.clock.due():
            return x
        if self.where == "forward":
            return x.index_fill(0, torch.tensor([3]), INF)
        x = x.clone()
        x.register_hook(lambda g: g.index_fill(0, torch.tensor([3]), INF))
        return x


class Wild(torch.optim.AdamW):
    """An optimizer whose update is not finite when its time has come."""

    clock = Clock()

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        self.state["count"] = 1  # as some optimizers keep beside the parameters' own state
        if self.clock.due():
            parameter = self.param_groups[0]["params"][2]
            parameter.view(-1)[5] = NAN


class Rows(Sink):
    def __init__(self):
        self.rows, self.incidents = [], []

    def steps(self, rows):
        self.rows += rows

    def rewind(self, step):
        self.rows = [row for row in self.rows if row.step <= step]

    def incident(self, incident):
        self.incidents.append(incident)


def data(n=64):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 4, generator=g)
    return Split(x, x.sum(1) + 0.1 * torch.randn(n, generator=g), None, torch.arange(n) + 1000)


def make(place, step, *, policy="abort", precision="fp32", times=None, optimizer="fused", gate="host"):
    """A player with dropout, BatchNorm and a schedule, its batches, and the fault's clock."""
    torch.manual_seed(0)
    clock = Clock(step, times)
    faulty = [Fault(clock, place)] if place in ("forward", "gradient") else []
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), *faulty, nn.Dropout(0.2), nn.Linear(8, 1))

    def loss(pred, target):
        values = mse(pred, target)
        return values * torch.ones(len(values)).index_fill(0, torch.tensor([3]), INF) if clock.due() else values

    if optimizer == "adafactor":
        made = torch.optim.Adafactor(model.parameters(), lr=0.05)
    else:
        chosen = Wild if place == "update" else torch.optim.AdamW
        made = chosen(model.parameters(), lr=0.05, fused=optimizer == "fused")
    if place == "update":
        made.clock = clock
    scale = LossScale(CPU, enabled=precision == "fp16")
    guard = Guard(policy, gate, [made], scale, [model], device=CPU, max_skips=3)
    schedule = Schedule(
        made,
        lambda o, moves: torch.optim.lr_scheduler.CosineAnnealingLR(o, moves),
        SchedulerOptions(),
        total_steps=STEPS,
        steps_per_epoch=8,
    )
    player = Timed(
        model=model,
        task=Regression(),
        objective=Objective([Part("mse", 1.0, loss if place == "loss" else mse, ("pred", "target"))]),
        parameters=list(model.parameters()),
        optimizers=[made],
        schedules=[schedule],
        guard=guard,
        scale=scale,
        cast=autocast(precision, CPU),
        clip=Clip(norm=1.0),
        seed=7,
    )
    player.clock = clock
    batches = (Poisoned if place == "input" else Batches)(data(), batch_size=8, seed=3)
    batches.clock = clock
    return player, batches


def run(player, batches, tmp_path=None, *, steps=STEPS, flush_every=7, every=5):
    sink = Rows()
    recorder = DeviceRecorder([sink], device=CPU, flush_every=flush_every)
    best = Best(list(player.modules), "loss", "min")
    checkpoints = None
    if tmp_path is not None:
        checkpoints = Checkpoints(tmp_path / "checkpoints", player, best, recorder.progress, print, every=every)

    def evaluate():
        return {"val": {"loss": float(player.parameters[0].detach().abs().sum())}}

    reason = None
    try:
        reason = train(player, batches, Length(steps, 6), evaluate, recorder, best, checkpoints)
    except Diverged as error:
        reason = str(error)
    return reason, sink


def tensors_of(player):
    moments = [v for s in player.optimizers[0].state.values() if isinstance(s, dict) for v in s.values()]
    return [t.detach().clone() for t in (*player.model.state_dict().values(), *moments)]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def clean(steps, *, without=None, precision="fp32", optimizer="fused"):
    """The state after so many sound steps, one of them left out."""
    player, batches = make("none", None, precision=precision, optimizer=optimizer)
    for step in range(1, steps + 1):
        if step != without:
            player.begin(step)
            player.step(batches.at(step))
    return player


STEPS_AT_RANDOM = [random.Random(place).randrange(2, STEPS) for place in PLACES]
CASES = [
    *zip(PLACES, STEPS_AT_RANDOM, strict=True),
    ("update", 1),
    ("input", 1),
    ("gradient", 20),
    ("update", 20),
    ("update", 4),
]


@pytest.mark.parametrize(("place", "step"), CASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("gate", ["host", "device"])
def test_abort_leaves_the_state_before_and_blames(place, step, precision, gate):
    player, batches = make(place, step, precision=precision, gate=gate)
    reason, sink = run(player, batches)
    assert reason.startswith(f"step {step}: ")
    before = clean(step - 1, precision=precision)
    # The very first step makes the moments; what they are then no step has used.
    assert same(tensors_of(before), tensors_of(player)[: None if step > 1 else len(tensors_of(before))])
    assert player.guard.gate == gate
    (incident,) = sink.incidents
    assert (incident.place, incident.deterministic, incident.action) == (place, True, "abort")
    assert incident.batch == tuple((batches.order((step - 1) // 8)[(step - 1) % 8 * 8 :][:8] + 1000).tolist())
    if place != "update":
        assert incident.examples == (incident.batch[3],)
    assert [row.step for row in sink.rows] == list(range(1, step + 1))
    assert [row.skipped for row in sink.rows] == [""] * (step - 1) + ["nonfinite"]


@pytest.mark.parametrize(("place", "step"), CASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["fused", "plain"])
def test_skip_equals_never_having_had_the_step(place, step, precision, optimizer):
    player, batches = make(place, step, policy="skip", precision=precision, optimizer=optimizer)
    reason, sink = run(player, batches)
    assert reason == "length"
    assert same(tensors_of(clean(STEPS, without=step, precision=precision, optimizer=optimizer)), tensors_of(player))
    assert [row.step for row in sink.rows] == list(range(1, STEPS + 1))
    assert [row.step for row in sink.rows if row.skipped] == [step]
    assert [(i.place, i.action) for i in sink.incidents] == [(place, "skip")]


@pytest.mark.parametrize(("place", "step"), CASES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rollback_returns_to_the_checkpoint_at_half_the_rate(tmp_path, place, step, precision):
    player, batches = make(place, step, policy="rollback", precision=precision)
    if place == "input":
        batches.clock = Clock()  # it is gone when the step comes again
    reason, sink = run(player, batches, tmp_path)
    if place == "input":
        assert reason == "length"
        assert sink.incidents == []
        return
    # The fault is in every repetition: three ways back, then the end.
    assert reason.endswith("(after 3 rollbacks)")
    assert [i.action for i in sink.incidents] == ["rollback"] * 3 + ["abort"]
    assert [row.step for row in sink.rows] == list(range(1, step + 1))
    start = (step - 1) // 5 * 5
    rates = torch.tensor([row.lr for row in sink.rows])
    own = torch.tensor([0.05 * (1 + torch.cos(torch.tensor(torch.pi * i / STEPS)).item()) / 2 for i in range(step)])
    torch.testing.assert_close(rates[:start], own[:start])
    torch.testing.assert_close(rates[start:], own[start:] / 8)
    assert all(torch.isfinite(t).all() for t in tensors_of(player))


@pytest.mark.parametrize("place", ["forward", "loss", "gradient", "update"])
def test_rollback_from_a_fault_that_passes(tmp_path, place):
    """The fault strikes twice, in the step and in its replay for the report; then it is gone."""
    player, batches = make(place, 13, policy="rollback", times=2)
    reason, sink = run(player, batches, tmp_path)
    assert reason == "length"
    assert [row.step for row in sink.rows] == list(range(1, STEPS + 1))
    assert player.guard.rollbacks == 1
    assert all(torch.isfinite(t).all() for t in tensors_of(player))
    assert [p.name for p in found(tmp_path / "checkpoints", "step")] == ["step-00000015", "step-00000020"]


def test_rollbacks_of_an_optimizer_whose_defaults_grow_when_its_state_is_loaded(tmp_path):
    """Torch adds `differentiable` to them, which no checkpoint of it has."""
    player, batches = make("loss", 13, policy="rollback", optimizer="adafactor")
    reason, sink = run(player, batches, tmp_path)
    assert reason.endswith("(after 3 rollbacks)")
    assert [i.action for i in sink.incidents] == ["rollback"] * 3 + ["abort"]


@pytest.mark.parametrize(("factor", "rollbacks"), [(1.0, 2), (0.25, 2), (0.25, 0)])
def test_a_rollback_slows_down_what_there_is_once(tmp_path, factor, rollbacks):
    """A resumed run whose rate was typed anew counts earlier rollbacks, but not their factor."""
    player, batches = make("loss", 13, policy="rollback", times=2)
    player.guard.rollbacks = rollbacks
    player.schedules[0].slow_down(factor)
    _, sink = run(player, batches, tmp_path)
    rates = torch.tensor([row.lr for row in sink.rows])
    own = torch.tensor([0.05 * (1 + torch.cos(torch.tensor(torch.pi * i / STEPS)).item()) / 2 for i in range(STEPS)])
    torch.testing.assert_close(rates[:10], own[:10] * factor)
    torch.testing.assert_close(rates[10:], own[10:] * factor / 2)


@pytest.mark.parametrize("place", ["forward", "loss", "gradient"])
def test_a_transient_fault_is_called_so(place):
    player, batches = make(place, 9, times=1)
    reason, sink = run(player, batches)
    assert "transient" in reason
    (incident,) = sink.incidents
    assert (incident.place, incident.deterministic) == ("nothing", False)
    assert same(tensors_of(clean(8)), tensors_of(player))


def test_a_transient_update_is_made_again_and_the_run_goes_on():
    player, batches = make("update", 9, times=1)
    reason, sink = run(player, batches)
    assert reason == "length"
    assert [(i.place, i.action) for i in sink.incidents] == [("nothing", "repeat")]
    assert same(tensors_of(clean(STEPS)), tensors_of(player))
    assert [row.skipped for row in sink.rows] == [""] * STEPS


def test_a_step_that_is_run_again_draws_the_same_of_pythons_own_numbers():
    """As a user's layer may: the run ends where one without the fault does, in its weights and in the numbers."""

    def ended(times):
        player, batches = make("update", 9, times=times)
        player.model.register_forward_pre_hook(lambda _, inputs: (inputs[0] * random.random(),))
        random.seed(5)
        reason, sink = run(player, batches)
        assert (reason, len(sink.incidents)) == ("length", times)
        return tensors_of(player), random.random()

    (faulty, next_of_faulty), (sound, next_of_sound) = ended(1), ended(0)
    assert same(faulty, sound)
    assert next_of_faulty == next_of_sound


@pytest.mark.parametrize(("place", "step"), [case for case in CASES if case not in (("update", 1), ("update", 4))])
@pytest.mark.parametrize("policy", ["abort", "skip"])
def test_fp16_goes_on_at_a_lower_scale(place, step, policy):
    """One bad step lowers the scale and is left out, counted apart from the overflows that the scale is for.

    An update that is not finite has nothing to do with the scale. (The first steps make none: 65536 is too much.)
    """
    player, batches = make(place, step, policy=policy, precision="fp16")
    reason, sink = run(player, batches)
    assert all(torch.isfinite(t).all() for t in tensors_of(player))
    skipped = {row.step: row.skipped for row in sink.rows if row.skipped}
    assert skipped[step] == ("overflow" if place == "gradient" else "nonfinite")
    assert [i.place for i in sink.incidents if i.row.step == step] == ([] if place == "gradient" else [place])
    if place == "update" and policy == "abort":
        assert reason.startswith(f"step {step}: ")
    else:
        assert reason == "length"


def test_an_infinite_loss_with_finite_gradients_is_not_for_the_scale():
    player, batches = make("loss", 9, precision="fp16")
    part = player.objective.parts[0]
    player.objective.parts = (
        Part("mse", 1.0, lambda p, t: mse(p, t) + (INF if player.clock.due() else 0.0), part.needs),
    )
    reason, _ = run(player, batches)
    assert reason.startswith("step 9: the loss is inf: ")


def test_many_in_a_row_end_a_run_that_skips():
    player, batches = make("loss", None, policy="skip")
    player.clock.due = lambda: player.clock.now >= 5
    reason, sink = run(player, batches)
    assert reason.startswith("step 8: 4 steps in a row were not finite (trainer.max_skips=3); the loss is inf: ")
    assert same(tensors_of(clean(4)), tensors_of(player))
    assert len(sink.incidents) == 4


def test_the_loss_scale_has_a_floor():
    """An Inf loss at every step: 65536 = 2^16 halves 17 times until it is below 1."""
    player, batches = make("loss", None, precision="fp16")
    player.clock.due = lambda: True
    before = tensors_of(player)
    reason, _ = run(player, batches)
    assert reason.startswith("step 17: the loss scale fell to 0.5 after 17 overflows in a row (the loss is inf: ")
    assert same(before, tensors_of(player)[: len(before)])


def test_off_looks_at_nothing():
    """The negative control: what the guard keeps out does get in where there is none."""
    player, batches = make("loss", 9, policy="off", gate="none")
    reason, sink = run(player, batches)
    assert reason == "length"
    assert sink.incidents == []
    assert not all(torch.isfinite(t).all() for t in tensors_of(player))


def test_outputs_that_are_not_finite_end_the_run():
    player, batches = make("none", None)
    recorder = DeviceRecorder([], device=CPU)
    best = Best(list(player.modules), "loss", "min")
    outputs = {"val": {"loss": NAN, "rmse": NAN}}
    with pytest.raises(Diverged, match="step 6: the model's outputs are not finite"):
        train(player, batches, Length(STEPS, 6), lambda: outputs, recorder, best)
    outputs["val"]["rmse"] = 1.0
    assert train(player, batches, Length(STEPS, 6), lambda: outputs, recorder, best) == "length"


def test_a_buffer_that_is_infinite_on_purpose_is_no_fault():
    player, batches = make("none", None)
    player.model.register_buffer("mask", torch.full((2, 2), -INF).triu(1))
    assert run(player, batches)[0] == "length"
