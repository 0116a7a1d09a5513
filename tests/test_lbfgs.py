"""Optimizers that evaluate the loss again within a step: each evaluation is of the step's one function."""

from __future__ import annotations

import io
import math

import pytest
import torch
from test_guard import Average, batch, poison
from test_recovery import run
from test_step import classes, net
from torch import nn

from lossbench.data import Batches, Split
from lossbench.engine import Clip, Guard, LossScale, Objective, Part, Player, Term, autocast, choose_gate, reduce
from lossbench.engine.checkpoint import packed_state
from lossbench.engine.course import Course, Moving
from lossbench.engine.objective import PARAMETERS
from lossbench.engine.tree import cloned
from lossbench.losses import cross_entropy, focal, mse
from lossbench.optim import Schedule, SchedulerOptions
from lossbench.seeds import nth
from lossbench.tasks import Multiclass, Regression

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")
SEED = 11


def lbfgs(parameters, kind=torch.optim.LBFGS, **options):
    return kind(parameters, **{"lr": 1.0, "max_iter": 6, "line_search_fn": "strong_wolfe", **options})


def make(model, task, parts, *, optimizer=lbfgs, policy="abort", gate="host", schedule=None, **options):
    objective = Objective(parts, parameters=list(model.parameters()))
    trained = [*model.parameters(), *objective.modules.parameters()]
    made = optimizer(trained, **options)
    scale = LossScale(CPU, enabled=False)
    guard = Guard(policy, gate, [made], scale, [model, objective.modules], device=CPU, max_skips=3)
    schedules = [schedule(made)] if schedule else []
    cast = autocast("fp32", CPU)
    return Player(model, task, objective, trained, [made], schedules, guard, scale, cast, Clip(), seed=SEED)


def regression(hidden=6, norm=True, **options):
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(hidden)] if norm else []
    model = nn.Sequential(nn.Linear(4, hidden), *middle, nn.Tanh(), nn.Linear(hidden, 1))
    loss = options.pop("loss", mse)
    return make(model, Regression(), [Part("mse", 1.0, loss, ("pred", "target"))], **options)


def values(loss):
    """The mean of a loss that gives its weights or not, as the engine takes it."""
    return reduce([Term("loss", 1.0, *loss)] if isinstance(loss, tuple) else [Term("loss", 1.0, loss, None)])


def bare(model, optimizer, loss_of, batches, *, seeded=False):
    """The loop of torch's own documentation; the first loss of each step."""
    first = []
    for step, given in enumerate(batches, 1):
        seen = []

        def closure(step=step, given=given, seen=seen):
            if seeded:
                torch.manual_seed(nth(SEED, step))
            optimizer.zero_grad()
            loss = loss_of(model, given)
            loss.backward()
            seen.append(loss.item())
            return loss

        optimizer.step(closure)
        first.append(seen[0])
    return first


def steps(player, batches):
    rows = []
    for step, given in enumerate(batches, 1):
        player.begin(step)
        rows.append(player.step([given]).tolist())
    return rows


def state(player):
    """All that a step may move, in tensors of its own."""
    return cloned({key: player.state()[key] for key in ("modules", "optimizers")})


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("search", ["strong_wolfe", None])
@pytest.mark.parametrize("mini", [False, True])
def test_follows_a_bare_loop_bit_for_bit(search, mini):
    options = {"line_search_fn": search, "lr": 1.0 if search else 0.1, "history_size": 4}
    batches = [classes(seed=i if mini else 0) for i in range(6)]
    model, twin = net(), net()
    player = make(model, Multiclass(3), [Part("loss", 1.0, cross_entropy, Multiclass(3).pair)], **options)
    optimizer = lbfgs(twin.parameters(), **options)
    rows = steps(player, batches)
    losses = bare(twin, optimizer, lambda m, b: values(cross_entropy(m(b["input"]), b["target"])), batches)
    assert [row[0] for row in rows] == losses
    assert all(row[3] == 0.0 for row in rows)
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert same(cloned(player.optimizers[0].state_dict()), optimizer.state_dict())
    if not mini:
        assert losses[-1] < 0.1 * losses[0]


def test_every_evaluation_of_a_step_draws_the_same():
    """Dropout, and noise on the inputs."""

    def dropout():
        return nn.Sequential(net(), nn.Dropout(0.5), nn.Linear(3, 3))

    def noisy(x):
        return x + 0.1 * torch.randn_like(x)

    torch.manual_seed(0)
    model = dropout()
    torch.manual_seed(0)
    twin = dropout()
    batches = [classes(seed=i) for i in range(4)]
    player = make(model, Multiclass(3), [Part("loss", 1.0, cross_entropy, Multiclass(3).pair)])
    player.augment = noisy

    def loss_of(m, b):
        return values(cross_entropy(m(noisy(b["input"])), b["target"]))

    losses = bare(twin, lbfgs(twin.parameters()), loss_of, batches, seeded=True)
    assert [row[0] for row in steps(player, batches)] == losses
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


def test_weights_several_terms_penalties_courses_and_learned_parameters():
    class Temperature(nn.Module):
        def __init__(self):
            super().__init__()
            self.log = nn.Parameter(torch.tensor(0.3))

        def forward(self, logits, labels):
            return cross_entropy(logits * self.log.exp(), labels)

    def l2(parameters):
        return sum(p.square().sum() for p in parameters)

    task, batches = Multiclass(3), [classes(seed=i) | {"weight": torch.linspace(0, 2, 12)} for i in range(4)]
    course = Course(0.0, 2.0, 4)
    learned, theirs, model, twin = Temperature(), Temperature(), net(), net()
    parts = [
        Part("learned", 1.0, learned, task.pair),
        Part("focal", 0.5, Moving(focal, {"gamma": course}), task.pair),
        Part("l2", 0.01, l2, (PARAMETERS,)),
    ]
    player = make(model, task, parts)
    optimizer = lbfgs([*twin.parameters(), *theirs.parameters()])
    rows = []
    for step, given in enumerate(batches, 1):
        weight = given["weight"]

        def loss_of(m, b, weight=weight, step=step):
            logits, found = m(b["input"]), []
            for name, coefficient, loss in (
                ("learned", 1.0, theirs(logits, b["target"])),
                ("focal", 0.5, focal(logits, b["target"], gamma=course(step))),
            ):
                given, own = loss if isinstance(loss, tuple) else (loss, torch.ones(12))
                found.append(Term(name, coefficient, given * weight, own * weight))
            return reduce([*found, Term("l2", 0.01, l2(list(m.parameters())), None)])

        rows += bare(twin, optimizer, loss_of, [given])
    ours = steps(player, batches)
    assert [row[0] for row in ours] == pytest.approx(rows, rel=1e-5)
    assert player.columns == ("loss/learned", "loss/focal", "loss/l2", "loss.gamma")
    first = ours[0]
    assert first[0] == pytest.approx(
        first[4] + 0.5 * first[5] + 0.01 * first[6]
    )  # the terms are the first evaluation's
    assert learned.log.item() == pytest.approx(theirs.log.item(), rel=1e-4)
    assert learned.log.item() != pytest.approx(0.3)


def test_the_first_evaluation_is_not_made_again():
    player = regression()
    calls = []
    player.model.register_forward_hook(lambda *_: calls.append(1))
    steps(player, [batch()])
    assert len(calls) == player.optimizers[0].state_dict()["state"][0]["func_evals"] > 2


def test_buffers_learn_from_the_first_evaluation_alone():
    """BatchNorm's statistics are of where the step starts, not of points that the search tried."""
    player, twin = regression(), regression()
    for step in (1, 2, 3):
        twin.model.load_state_dict(player.model.state_dict())
        twin.model(batch(step)["input"])
        steps(player, [batch(step)])
        found, wanted = dict(player.model.named_buffers()), dict(twin.model.named_buffers())
        assert same(found, wanted)
        assert found["1.num_batches_tracked"] == step


def test_every_evaluation_starts_from_the_same_buffers():
    """A loss whose running mean moves with each look is one function within a step."""
    loss = Average()
    player = regression(norm=False, loss=loss)
    steps(player, [batch(1)])
    assert loss.mean > 0
    before, twin = loss.mean.clone(), regression(norm=False)
    twin.load(player.state() | {"modules": [player.model.state_dict(), {}]})

    def fixed(model, given):
        error = (model(given["input"])[:, 0] - given["target"]).square()
        return (error / (1 + 0.9 * before + 0.1 * error.detach().mean())).mean()

    player.begin(1)
    player.step([batch(2)])
    bare(twin.model, twin.optimizers[0], fixed, [batch(2)])
    assert all(map(torch.equal, player.model.parameters(), twin.model.parameters()))


@pytest.mark.parametrize("kind", ["input", "target", "gradient", "norm"])
@pytest.mark.parametrize("bad_step", [0, 3])
@pytest.mark.parametrize("search", ["strong_wolfe", None])
def test_a_bad_first_evaluation_moves_nothing(kind, bad_step, search):
    player = regression(line_search_fn=search)
    steps(player, [batch(i) for i in range(bad_step)])
    before = state(player)
    garbage = [torch.full((6, 4), NAN) for _ in range(64)]
    del garbage
    good = list(player.objective.parts)
    assert steps(player, [poison(kind, player, batch(bad_step))])[0][3] == 3.0
    assert same(before, state(player))
    player.objective.parts = good
    assert steps(player, [batch(9)])[0][3] == 0.0
    assert not same(before, state(player))


def test_an_empty_batch_moves_nothing():
    player = regression()
    steps(player, [batch(0)])
    before = state(player)
    (row,) = steps(player, [batch(1) | {"weight": torch.zeros(8)}])
    assert row[3] == 1.0
    assert math.isnan(row[0])
    assert same(before, state(player))


@pytest.mark.parametrize("policy", ["abort", "off"])
def test_with_and_without_a_guard_good_steps_are_the_same(policy):
    loss, other = Average(), Average()
    player = regression(loss=loss)
    free = regression(loss=other, policy=policy, gate="none" if policy == "off" else "host")
    for each in (player, free):
        steps(each, [batch(i) for i in range(3)])
    assert same(state(player), state(free))


def test_the_schedule_moves_once_a_step():
    def halving(optimizer):
        half = lambda o, _: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)  # noqa: E731
        return Schedule(optimizer, half, SchedulerOptions(), total_steps=10, steps_per_epoch=5)

    player = regression(schedule=halving)
    rates = []
    for i in range(3):
        rates.append(player.lr)
        steps(player, [batch(i)])
    assert rates == [1.0, 0.5, 0.25]


def test_its_state_survives_a_file_in_the_middle():
    whole, half, rest = regression(), regression(), regression(hidden=6)
    batches = [batch(i) for i in range(6)]
    steps(whole, batches)
    steps(half, batches[:3])
    kept = cloned(half.state())
    saved = packed_state(half.state())
    steps(half, batches[3:])  # a copy is not moved by what comes after
    assert same(torch.load(io.BytesIO(saved), weights_only=True), kept)
    rest.load(torch.load(io.BytesIO(saved), weights_only=True))
    for step in (4, 5, 6):
        rest.begin(step)
        rest.step([batches[step - 1]])
    assert same(state(whole), state(rest))
    assert same(state(whole), state(half))


def test_the_gate_is_the_host():
    optimizer = lbfgs([nn.Parameter(torch.zeros(1))])
    scale = LossScale(CPU, enabled=False)
    assert choose_gate("abort", torch.device("cuda"), scale, [optimizer]) == "host"


class Ahead(torch.optim.Optimizer):
    """Takes the gradient 0.5 ahead of where it stands, as some of the schedule-free ones do."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure):
        (parameter,) = self.param_groups[0]["params"]
        parameter.add_(0.5)
        with torch.enable_grad():
            closure()
        parameter.sub_(0.5).sub_(parameter.grad, alpha=self.param_groups[0]["lr"])


def test_an_optimizer_that_moves_before_it_evaluates_gets_the_gradient_there():
    """Loss w^2 at w = 1: the gradient at 1.5 is 3, so w becomes 1 - 0.1 x 3."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    player = make(model, Regression(), [Part("mse", 1.0, mse, ("pred", "target"))], optimizer=Ahead)
    given = {"input": torch.ones(2, 1), "target": torch.zeros(2), "index": torch.arange(2)}
    assert steps(player, [given])[0][:2] == [1.0, 2.0]  # what is recorded is where the step starts
    assert model.weight.item() == pytest.approx(0.7)


# Points that are only tried


def test_the_search_turns_back_from_where_the_loss_is_not_a_number():
    """10 w - log w from w = 1 with a first try at 1 - 2 = -1; its minimum is at 0.1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)

    def barrier(pred, target):
        return 10 * pred - pred.log()

    player = make(model, Regression(), [Part("barrier", 1.0, barrier, ("pred", "target"))], lr=2.0, max_iter=20)
    seen = []
    model.register_forward_hook(lambda *found: seen.append(found[-1].mean().item()))
    given = {"input": torch.ones(2, 1), "target": torch.zeros(2), "index": torch.arange(2)}
    rows = steps(player, [given] * 3)
    assert min(seen) < 0
    assert [row[3] for row in rows] == [0.0] * 3
    assert model.weight.item() == pytest.approx(0.1, rel=1e-4)


class Timed(Player):
    """Knows which step is being made, and how often its loss was looked at."""

    def begin(self, step):
        if step != self.now:
            self.looks = 0
        super().begin(step)


def training(fault=None, bad=NAN, **options):
    """A player whose loss is `bad` at every look in step `fault` but the first, and its batches."""
    player = regression(**options)
    player.__class__, player.looks = Timed, 0

    def loss(pred, target):
        player.looks += 1
        return mse(pred, target) * (bad if player.now == fault and player.looks > 1 else 1)

    player.objective.parts = (Part("mse", 1.0, loss, ("pred", "target")),)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(64, 4, generator=g)
    return player, Batches(Split(x, x.sum(1).tanh(), None, torch.arange(64)), batch_size=16, seed=3)


def after(end, *, without=None, **options):
    """The state after so many sound steps, one of them left out."""
    player, batches = training(**options)
    for step in range(1, end + 1):
        if step != without:
            player.begin(step)
            player.step(batches.at(step))
    return state(player)


PLAIN = {"line_search_fn": None, "lr": 0.1}


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("fault", [1, 7])
def test_an_update_that_is_not_finite_is_taken_back(bad, fault):
    player, batches = training(fault, bad, **PLAIN)
    reason, sink = run(player, batches)
    assert reason.startswith(f"step {fault}: ")
    assert "the optimizer's update made '0.weight' nan" in reason
    (incident,) = sink.incidents
    assert (incident.place, incident.name, incident.deterministic) == ("update", "0.weight", True)
    assert "prev_flat_grad of 0.weight" in incident.parameters
    assert same(state(player), after(fault - 1, **PLAIN))


@pytest.mark.parametrize("fault", [1, 7])
def test_skip_equals_never_having_had_the_step(fault):
    player, batches = training(fault, policy="skip", **PLAIN)
    reason, sink = run(player, batches)
    assert reason == "length"
    assert [row.step for row in sink.rows if row.skipped] == [fault]
    assert same(state(player), after(20, without=fault, **PLAIN))


def test_off_lets_it_in():
    """The negative control."""
    player, batches = training(7, policy="off", gate="none", **PLAIN)
    run(player, batches)
    assert not all(p.isfinite().all() for p in player.parameters)


class Broken(torch.optim.LBFGS):
    """Loses its memory in the sixth step, after which the run is looked at."""

    made = 0

    def step(self, closure):
        super().step(closure)
        self.made += 1
        if self.made == 6:
            self.state[self.param_groups[0]["params"][0]]["old_dirs"][0][2] = NAN


def test_what_it_keeps_in_lists_is_watched():
    player, batches = training(kind=Broken)
    reason, sink = run(player, batches)
    assert reason == "length"  # the second time it is not the sixth that is made
    assert [(i.row.step, i.action) for i in sink.incidents] == [(6, "repeat")]
    assert same(state(player), after(20))
