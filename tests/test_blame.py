"""What a refused step is blamed on, and that finding it out leaves no trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from lossbench.engine import Clip, Guard, LossScale, Objective, Part, Player, autocast
from lossbench.engine.blame import Finding, explain
from lossbench.engine.thaw import Thaw
from lossbench.losses import mse
from lossbench.tasks import Regression

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")
FIRST = 100  # the index of a batch's first example


def batch(seed=0, n=8, first=FIRST):
    g = torch.Generator().manual_seed(seed)
    index = torch.arange(first, first + n)
    return {"input": torch.randn(n, 4, generator=g), "target": torch.randn(n, generator=g), "index": index}


def make(*middle, loss=mse, precision="fp32", reduction="mean", model=None):
    """A player after two good steps: it has gradients, moments and running statistics. Then its faults come."""
    torch.manual_seed(0)
    if model is None:
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), *middle, nn.Linear(6, 1))
    losses = loss if isinstance(loss, dict) else {"loss": loss}
    parts = [Part(name, 1.0, function, ("pred", "target")) for name, function in losses.items()]
    good = [p if isinstance(p.function, nn.Module) else Part(p.name, 1.0, mse, p.needs) for p in parts]
    objective = Objective(good, reduction)
    parameters = [*model.parameters(), *objective.modules.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    scale = LossScale(CPU, enabled=precision == "fp16")
    guard = Guard("skip", "host", [optimizer], scale, [model, objective.modules], device=CPU)
    player = Player(
        model=model,
        task=Regression(),
        objective=objective,
        parameters=parameters,
        optimizers=[optimizer],
        schedules=[],
        guard=guard,
        scale=scale,
        cast=autocast(precision, CPU),
        clip=Clip(),
        seed=7,
    )
    for step in (1, 2):
        player.begin(step)
        player.step([batch(step)])
    objective.parts = tuple(parts)
    for module in model.modules():
        module.faulty = True
    return player


def raw(tensor):
    return None if tensor is None else tensor.detach().clone().reshape(-1).view(torch.uint8).tolist()


def trace(player):
    """All that a replay could leave behind, NaN compared by its bits."""
    modules = [*player.model.modules(), *player.objective.modules.modules()]
    parameters = [p for m in modules for p in m._parameters.values() if p is not None]
    moments = [v for s in player.optimizers[0].state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    return {
        "parameters": [raw(p) for p in parameters],
        "gradients": [(id(p.grad), raw(p.grad)) for p in parameters],
        "buffers": [raw(b) for m in modules for b in m._buffers.values()],
        "moments": [raw(m) for m in moments],
        "scale": player.scale.scaler.state_dict(),
        "unscaled": dict(getattr(player.scale.scaler, "_per_optimizer_states", {})),
        "random": (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        "modes": [m.training for m in modules],
        "hooks": [len(h) for m in modules for h in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)],
        "with kwargs": [len(m._forward_pre_hooks_with_kwargs) for m in modules],
        "tensor hooks": [len(h or ()) for p in parameters for h in (p._backward_hooks, p._post_accumulate_grad_hooks)],
    }


def explained(player, *batches, step=3):
    """The finding, once it is sure that nothing else came of it and that it is the same again."""
    before = trace(player)
    assert before["moments"]
    with torch.no_grad():  # whatever the caller is in
        finding = explain(player, step, batches)
    assert trace(player) == before
    assert explain(player, step, batches) == finding
    assert isinstance(str(finding), str)
    return finding


class Wrap(nn.Module):
    """A module out of a function of its input, to which it comes after the good steps."""

    def __init__(self, function):
        super().__init__()
        self.function, self.faulty = function, False

    def forward(self, x):
        return self.function(x) if self.faulty else x


class Grows(torch.autograd.Function):
    """The identity, whose backward pass multiplies each row's gradient by its factor, twice."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (factor,) = ctx.saved_tensors
        return gradient * factor * factor, None


def at(rows, value, otherwise, n=8):
    return torch.full((n,), otherwise).index_fill_(0, torch.tensor(rows, dtype=torch.long), value)


def filled(tensor, rows, value):
    return tensor.index_fill(0, torch.tensor(rows, dtype=torch.long), value)


def layers(finding):
    """The layers of a finding's parameters in their order: which of weight and bias comes first is torch's choice."""
    return [name.partition(".")[0] for name in (finding.name, *finding.parameters)]


@pytest.mark.parametrize("kind", ["nan", "inf"])
@pytest.mark.parametrize(("field", "place"), [("input", "input"), ("target", "target"), ("weight", "target")])
def test_a_batch_that_holds_it(field, place, kind):
    given = batch() | {"weight": torch.ones(8)}
    given[field] = filled(given[field], [3, 5], float(kind))
    assert explained(make(), given) == Finding(place, field, kind, (103, 105), of=8)


def test_every_example_is_not_a_list_of_them():
    given = batch()
    finding = explained(make(), given | {"input": given["input"] * NAN})
    assert (finding.place, finding.examples, finding.of) == ("input", (), 8)
    one = {name: value[:1] for name, value in given.items()}
    model = nn.Linear(4, 1)  # BatchNorm wants two examples
    assert explained(make(model=model), one | {"target": one["target"] * INF}).examples == (100,)


def test_a_field_that_the_model_copes_with_is_not_to_blame():
    given = batch()
    given["input"] = filled(given["input"], [3], NAN)
    broken = Wrap(lambda x: filled(x, [5], INF))
    model = nn.Sequential(Wrap(torch.nan_to_num), nn.Linear(4, 6), broken, nn.Linear(6, 1))
    assert explained(make(model=model), given) == Finding("forward", "2 (Wrap)", "inf", (105,), of=8)
    model = nn.Sequential(Wrap(torch.nan_to_num), nn.Linear(4, 6), Wrap(lambda x: x * NAN), nn.Linear(6, 1))
    assert explained(make(model=model), given) == Finding("forward", "2 (Wrap)", "nan", (), of=8)
    masked = batch()
    masked["target"] = filled(masked["target"], [3], NAN)
    player = make(loss=lambda p, t: (p - t.nan_to_num()) ** 2 / at([5], 0.0, 1.0))
    assert explained(player, masked) == Finding("loss", "loss", "inf", (105,), of=8)


def test_a_batch_is_to_blame_for_a_scalar_loss_too():
    given = batch()
    given["input"] = filled(given["input"], [3], NAN)
    player = make(loss=lambda p, t: mse(p, t).mean())
    assert explained(player, given) == Finding("input", "input", "nan", (103,), of=8)
    with torch.no_grad():
        player.model[3].bias.fill_(NAN)
    assert explained(player, given).place == "input"  # it comes first


@pytest.mark.parametrize(("name", "kind"), [("0.weight", "nan"), ("1.bias", "inf")])
def test_a_parameter_from_before(name, kind):
    player = make()
    with torch.no_grad():
        player.model.get_parameter(name).view(-1)[1] = float(kind)
    assert explained(player, batch()) == Finding("parameter", name, kind)


def test_a_parameter_of_a_loss():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, pred, target):
            return (pred - target).square() * self.temperature

    player = make(loss={"scaled": Scaled()})
    with torch.no_grad():
        player.parameters[-1].fill_(NAN)
    assert explained(player, batch()) == Finding("parameter", "scaled.temperature", "nan")


class Two(nn.Module):
    """A module that takes keywords and gives a tuple with a dict in it."""

    def __init__(self, broken):
        super().__init__()
        self.inner, self.broken, self.faulty = nn.Linear(6, 6), broken, False

    def forward(self, *, x):
        out = self.inner(x)
        return 3, {"other": filled(out, [1], NAN) if self.broken and self.faulty else out, "out": out}


class Net(nn.Module):
    """A model with code of its own between its modules."""

    def __init__(self, between=torch.relu, broken=False):
        super().__init__()
        self.first, self.two, self.last = nn.Linear(4, 6), Two(broken), nn.Linear(6, 1)
        self.between, self.faulty = between, False

    def forward(self, x):
        x = self.first(x)
        _, out = self.two(x=self.between(x) if self.faulty else x)
        return self.last(out["out"] + out["other"])


def negative_root(x):
    return torch.where(torch.arange(8)[:, None] == 6, -torch.ones(()), x.abs()).sqrt()


@pytest.mark.parametrize(
    ("player", "expected"),
    [
        pytest.param(
            lambda: make(Wrap(lambda x: filled(x, [3, 5], NAN))),
            Finding("forward", "3 (Wrap)", "nan", (103, 105), of=8),
            id="rows",
        ),
        pytest.param(
            lambda: make(Wrap(lambda x: filled(x, [3], INF)), nn.BatchNorm1d(6)),
            Finding("forward", "3 (Wrap)", "inf", (103,), of=8),
            id="before a norm",
        ),
        pytest.param(
            lambda: make(Wrap(lambda x: x * NAN)), Finding("forward", "3 (Wrap)", "nan", (), of=8), id="every row"
        ),
        pytest.param(
            lambda: make(model=Net(broken=True)), Finding("forward", "two (Two)", "nan", (101,), of=8), id="in a tuple"
        ),
        pytest.param(
            lambda: make(model=Net(between=negative_root)),
            Finding("forward", "the model (Net)", "nan", (106,), of=8),
            id="code of the model's own",
        ),
        pytest.param(
            lambda: make(nn.Sequential(Wrap(lambda x: x * 1), Wrap(lambda x: x.add_(filled(x * 0, [2], INF))))),
            Finding("forward", "3.1 (Wrap)", "inf", (102,), of=8),
            id="in place",
        ),
        pytest.param(
            lambda: make(Wrap(lambda x: x + (x * INF).sum())), Finding("forward", "3 (Wrap)", "nan", (), of=8), id="sum"
        ),
    ],
)
def test_a_module(player, expected):
    assert explained(player(), batch()) == expected


def test_a_module_without_a_row_for_each_example_names_none():
    def mixed(x):
        return filled(x.flatten(), [3], NAN)

    player = make(Wrap(mixed), Wrap(lambda x: x.view(8, 6)))
    assert explained(player, batch()) == Finding("forward", "3 (Wrap)", "nan")
    player = make(Wrap(lambda x: (x, x[0] * INF)), Wrap(lambda pair: pair[0] + pair[1]))
    assert explained(player, batch()) == Finding("forward", "3 (Wrap)", "nan")


class Masked(nn.Module):
    """A mask of -inf that softmax makes good."""

    def __init__(self):
        super().__init__()
        self.mask = Wrap(lambda x: x.masked_fill(torch.arange(6) > 3, -INF))

    def forward(self, x):
        return self.mask(x).softmax(1)


def test_a_mask_of_infinities_is_not_to_blame():
    player = make(Masked(), Wrap(lambda x: filled(x, [4], NAN)))
    assert explained(player, batch()) == Finding("forward", "4 (Wrap)", "nan", (104,), of=8)


def test_dropout_is_drawn_again():
    """The fault is where the mask has a zero, which another mask would have elsewhere."""
    hit = []

    def fragile(x):
        hit.append((x[:, 0] == 0).nonzero().flatten().tolist())
        return torch.where(x[:, :1] == 0, NAN, x)

    player = make(Wrap(lambda x: x + 10), nn.Dropout(0.3), Wrap(fragile))
    seen = set()
    for step in range(3, 9):
        hit.clear()
        player.begin(step)
        player.step([batch(step)])
        assert hit[0]
        expected = Finding("forward", "5 (Wrap)", "nan", tuple(FIRST + row for row in hit[0]), of=8)
        assert explained(player, batch(step), step=step) == expected
        seen.add(expected.examples)
    assert len(seen) > 1


LOSSES = {
    "an example": (lambda p, t: mse(p, t) / at([5], 0.0, 1.0), Finding("loss", "loss", "inf", (105,), of=8)),
    "every example": (lambda p, t: mse(p, t) * NAN, Finding("loss", "loss", "nan", (), of=8)),
    "a scalar": (lambda p, t: (mse(p, t) / at([5], 0.0, 1.0)).mean(), Finding("loss", "loss", "inf")),
    "their sum": (lambda p, t: mse(p, t) * 0 + 3e38, Finding("loss", "loss", "inf")),
    "the second": (
        {"mse": mse, "log": lambda p, t: (p.abs() * at([2], 0.0, 1.0)).log()},
        Finding("loss", "log", "inf", (102,), of=8),
    ),
    "the first sum": (
        {"mse": mse, "a": lambda p, t: p * 0 + 3e38, "b": lambda p, t: p * 0 + 3e38},
        Finding("loss", "a", "inf"),
    ),
    "weights of 0": (lambda p, t: (mse(p, t), t * 0), Finding("loss", "loss", "inf")),
    "the sum of losses": (
        {"a": lambda p, t: (p * 0).mean() + 3e38, "b": lambda p, t: (p * 0).mean() + 3e38},
        Finding("loss", "a + b", "inf"),
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_loss(case):
    loss, expected = LOSSES[case]
    assert explained(make(loss=loss), batch()) == expected


def test_a_finite_loss_whose_gradient_is_not():
    """The root at 0: its value is 0, its slope is not."""
    player = make(loss=lambda p, t: mse(p, t) + (p * at([4], 0.0, 1.0)).abs().sqrt())
    finding = explained(player, batch())
    assert finding == Finding("gradient", finding.name, "nan", (104,), finding.parameters, of=8)
    assert layers(finding) == ["3", "3", "3", "1", "1", "0", "0"]
    assert finding.name == finding.parameters[0]


def grows_after(factor):
    return Wrap(lambda x: Grows.apply(x, factor[:, None]))


def test_a_gradient_that_overflows_at_one_layer():
    """The layers after it have finite gradients."""
    player = make(grows_after(at([2, 6], 1e38, 1.0)))
    finding = explained(player, batch())
    assert finding == Finding("gradient", finding.name, finding.kind, (102, 106), finding.parameters, of=8)
    assert layers(finding) == ["1", "1", "1", "0", "0"]
    finding = explained(make(grows_after(at([2, 6], INF, 1.0))), batch())  # 0 times Inf
    assert (finding.examples, layers(finding)) == ((102, 106), ["1", "1", "1", "0", "0"])
    finding = explained(make(model=nn.Sequential(nn.Linear(4, 4), Dense(at([2], INF, 1.0)))), batch())
    assert (finding.name, finding.examples) == ("1.weight", (102,))


class Dense(nn.Module):
    """A layer inside which gradients overflow: no module's output shows in which rows."""

    def __init__(self, factor):
        super().__init__()
        self.weight, self.factor, self.faulty = nn.Parameter(torch.randn(4, 1)), factor, False

    def forward(self, x):
        return Grows.apply(x @ self.weight, self.factor[:, None]) if self.faulty else x @ self.weight


@pytest.mark.parametrize(
    ("factor", "examples", "of"),
    [(at([2, 6], 1e38, 1.0), (102, 106), 8), (at([2], INF, 1.0), (), 0), (at([], 1.0, 1e38), (), 8)],
)
def test_examples_are_told_apart_by_their_own_losses(factor, examples, of):
    """Unless 0 times Inf shows one's fault in all."""
    finding = explained(make(model=Dense(factor)), batch())
    assert finding == Finding("gradient", "weight", finding.kind, examples, ("weight",), of)


def test_a_scalar_loss_tells_no_examples_apart():
    player = make(model=Dense(at([2], 1e38, 1.0)), loss=lambda p, t: mse(p, t).mean())
    finding = explained(player, batch())
    assert (finding.place, finding.name, finding.examples, finding.of) == ("gradient", "weight", (), 0)


def test_more_examples_than_are_told_apart(monkeypatch):
    monkeypatch.setattr("lossbench.engine.blame._APART", 7)
    finding = explained(make(model=Dense(at([2], 1e38, 1.0))), batch())
    assert (finding.place, finding.examples, finding.of) == ("gradient", (), 0)


class Once(torch.autograd.Function):
    """A backward pass that can be run once."""

    @staticmethod
    def forward(ctx, x):
        ctx.left = 1
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.left -= 1
        if ctx.left < 0:
            raise RuntimeError("no more")
        return gradient * 1e38 * 1e38


def test_what_a_users_code_draws_of_python_and_numpy_is_put_back():
    player = make(Wrap(lambda x: filled(x + random.random() + np.random.rand(), [5], NAN)))  # noqa: NPY002
    assert explained(player, batch()) == Finding("forward", "3 (Wrap)", "nan", (105,), of=8)


def test_parameters_that_wait_for_their_first_step():
    """They have no gradient yet, and are looked at once they have."""
    player = make(grows_after(at([2, 6], 1e38, 1.0)))
    player.thaw = Thaw([(4, [player.model[0].weight])])
    assert layers(explained(player, batch(), step=3)) == ["1", "1", "1", "0"]
    assert layers(explained(player, batch(), step=4)) == ["1", "1", "1", "0", "0"]
    player = make(Wrap(lambda x: filled(x, [5], NAN)))
    player.thaw = Thaw([(4, [player.model[0].weight])])
    assert explained(player, batch(), step=3) == Finding("forward", "3 (Wrap)", "nan", (105,), of=8)


def test_a_graph_that_can_be_walked_once():
    class Single(Dense):
        def forward(self, x):
            return Once.apply(x @ self.weight) if self.faulty else x @ self.weight

    finding = explained(make(model=Single(None)), batch())
    assert (finding.place, finding.name, finding.examples) == ("gradient", "weight", ())


def test_a_joint_norm_that_overflows():
    player = make(loss=lambda p, t: p * 1e30)
    norms = {}
    for name, parameter in player.model.named_parameters():
        (gradient,) = torch.autograd.grad(player.model(batch()["input"]).mean(), parameter)
        norms[name] = gradient.norm()
    largest = max(norms, key=norms.get)
    assert largest != "0.weight"  # the first of them
    assert explained(player, batch()) == Finding("norm", largest, "inf", parameters=(largest,))


def test_a_joint_norm_that_overflows_only_at_the_loss_scale():
    player = make(loss=lambda p, t: p * 1e15, precision="fp16")
    player.cast = autocast("fp32", CPU)
    assert explained(player, batch()) == Finding("nothing")


def test_an_overflow_of_the_scaled_gradient():
    """65,536 x 2 x 1,000 / 8 is more than fp16 holds; the loss and the gradient itself are not."""
    given = batch()
    given["target"] = filled(given["target"], [5], 1000.0)
    finding = explained(make(precision="fp16"), given)
    assert finding == Finding("gradient", finding.name, finding.kind, (105,), finding.parameters, of=8)
    assert layers(finding)[0] == "3"
    assert explained(make(), given) == Finding("nothing")


def test_an_overflow_of_a_sum_is_no_examples_fault():
    given = batch()
    player = make(precision="fp16", loss=lambda p, t: p * 3)  # 8 x 65,536 x 3 / 8, each of them less than 65,504
    assert explained(player, given) == Finding("gradient", "3.bias", "inf", (), ("3.bias",))


def test_a_fault_that_does_not_come_again():
    calls = []

    def once(x):
        calls.append(0)
        return x * NAN if len(calls) == 1 else x

    player = make(Wrap(once))
    player.begin(3)
    assert player.step([batch()])[0].isnan()
    finding = explained(player, batch())
    assert finding == Finding("nothing")
    assert "transient" in str(finding)


def test_a_replay_that_fails():
    player = make()

    def forward(x):
        raise RuntimeError("no such kernel\nmore")

    player.model[2].forward = forward
    assert explained(player, batch()) == Finding("nothing", "no such kernel")
    player.model[2].forward = None
    assert explained(player, batch()).place == "nothing"


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_second_of_two_micro_batches(reduction):
    first, second = batch(0, first=10), batch(1, first=20)
    player = make(reduction=reduction)
    assert explained(player, first, second) == Finding("nothing")
    bad = second | {"input": filled(second["input"], [3], NAN)}
    assert explained(player, first, bad) == Finding("input", "input", "nan", (23,), of=8)
    player = make(model=Dense(at([6], 1e38, 1.0)), reduction=reduction)
    met = first | {"target": player.model(first["input"])[:, 0].detach()}  # a gradient of 0
    finding = explained(player, met, second)
    assert finding == Finding("gradient", "weight", finding.kind, (26,), ("weight",), of=8)


def test_micro_batches_are_scaled_as_in_the_step():
    player = make(precision="fp16", loss=lambda p, t: p * 0.5)  # a row's part is 65,536 x 0.5 / 16
    assert explained(player, batch(0), batch(1)) == Finding("nothing")


def test_only_the_sum_over_micro_batches_overflows():
    player = make(loss=lambda p, t: p * 0 + 2e37)  # 16 of them are finite, 24 are not
    batches = [batch(i, first=10 * i) for i in range(3)]
    assert explained(player, *batches[:2]) == Finding("nothing")
    assert explained(player, *batches) == Finding("loss", "loss", "inf")


def test_a_norm_over_micro_batches():
    player = make(loss=lambda p, t: p * 1e30)
    assert explained(player, batch(0), batch(1)).place == "norm"
    player = make(loss=lambda p, t: (p - p.detach(), t * 0 + 1e-40))  # 0 / 1e-40, and 1 / 1e-40
    finding = explained(player, batch(0), batch(1))
    assert (finding.place, finding.kind) == ("gradient", "inf")


def test_a_fault_that_a_loss_coped_with_is_not_to_blame_for_the_next():
    """The first micro-batch's output is Inf, which the loss leaves out; the second's target is NaN."""
    model = nn.Sequential(nn.Linear(4, 1), Wrap(lambda x: filled(x, [1], INF) if x.shape[0] == 8 else x))
    player = make(model=model, loss=lambda p, t: (p.nan_to_num(0, 0, 0) - t) ** 2)
    second = batch(1, n=7, first=200)
    second["target"] = filled(second["target"], [3], NAN)
    assert explained(player, batch(), second) == Finding("target", "target", "nan", (203,), of=7)


def test_an_embedding_that_renorms_is_put_back():
    class Renorms(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = nn.Embedding(5, 3, max_norm=0.1), nn.Linear(3, 1)

        def forward(self, x):
            return self.last(self.table(x[:, 0].abs().long().clamp(max=4)))

    player = make(model=Renorms())
    with torch.no_grad():
        player.model.table.weight.fill_(3.0)
    given = batch()
    assert explained(player, given | {"target": given["target"] * INF}).place == "target"


class Average(nn.Module):
    """A loss whose buffer is replaced by a new tensor."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, pred, target):
        error = (pred - target).square()
        self.mean = 0.9 * self.mean + 0.1 * error.detach().mean()
        return error / (1 + self.mean)


def test_buffers_that_are_replaced_are_put_back():
    player = make(loss=Average())
    assert player.objective.modules[0].mean > 0
    given = batch()
    assert explained(player, given | {"target": given["target"] * INF}).place == "target"


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_module_is_blamed_on_what_encloses_it():
    inner = torch.jit.trace(nn.Linear(4, 6), torch.zeros(8, 4))
    player = make(model=nn.Sequential(inner, nn.Linear(6, 1)))
    given = batch()
    given["input"] = filled(given["input"], [3], 3e38)
    with torch.no_grad():
        inner.weight.fill_(100.0)
    finding = explained(player, given | {"input": given["input"].abs()})
    assert finding == Finding("forward", "the model (Sequential)", finding.kind, (103,), of=8)


def counting(calls):
    def backend(graph, inputs):
        def run(*args):
            calls.append(0)
            return graph.forward(*args)

        return run

    return backend


@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_a_compiled_model_is_replayed_uncompiled(how):
    """And it is not compiled again afterwards."""
    calls = []
    player = make(model=nn.Sequential(Wrap(lambda x: x / (x[:, :1] < 50)), nn.Linear(4, 1)))
    if how == "in place":
        player.model.compile(backend=counting(calls))
    else:
        player.model = torch.compile(player.model, backend=counting(calls))
    player.begin(3)
    player.step([batch()])
    used = len(calls)
    assert used
    given = batch()
    given["input"] = filled(given["input"], [3], 60.0)
    assert explained(player, given) == Finding("forward", "0 (Wrap)", "inf", (103,), of=8)
    assert len(calls) == used
    player.step([batch()])
    assert len(calls) == 2 * used
    torch.compiler.reset()


def test_an_example_search_is_by_halves():
    from lossbench.engine.blame import _search

    asked = []

    def bad(rows):
        asked.append(rows)
        return any(row in (3, 77) for row in rows)

    assert _search(bad, range(100)) == [3, 77]
    assert len(asked) < 40
    assert _search(lambda rows: True, range(3)) == [0, 1, 2]
    assert _search(lambda rows: len(rows) > 1, range(4)) == []


@pytest.mark.parametrize(
    ("finding", "text"),
    [
        (Finding("input", "input", "nan", (3,), of=8), "the input of example 3 holds nan"),
        (Finding("target", "weight", "inf", (), of=8), "the weight of every example holds inf"),
        (Finding("target", "target", "inf", (3, 5), of=8), "the target of examples 3 and 5 (of 8) holds inf"),
        (Finding("parameter", "0.bias", "nan"), "the parameter '0.bias' held nan before the step"),
        (
            Finding("forward", "encoder.2 (BatchNorm1d)", "nan", (3, 17, 40), of=64),
            "module 'encoder.2' (BatchNorm1d) gave nan for examples 3, 17 and 40 (of 64)",
        ),
        (Finding("forward", "the model (Net)", "inf"), "the model (Net) gave inf"),
        (Finding("forward", "0 (Linear)", "inf", (), of=8), "module '0' (Linear) gave inf for every example"),
        (
            Finding("loss", "focal", "inf", tuple(range(1, 13)), of=2000),
            "the loss 'focal' is inf at examples 1, 2, 3, 4, 5 and 7 more (of 2,000)",
        ),
        (
            Finding("loss", "focal", "inf", (1, 2, 3, 4, 5), of=6),
            "the loss 'focal' is inf at examples 1, 2, 3, 4 and 5 (of 6)",
        ),
        (Finding("loss", "focal", "nan"), "the loss 'focal' is nan"),
        (
            Finding("gradient", "0.weight", "inf", (12,), ("0.weight",), 64),
            "the gradient of '0.weight' is inf, from example 12",
        ),
        (Finding("gradient", "0.weight", "inf"), "the gradient of '0.weight' is inf"),
        (
            Finding("norm", "4.weight", "inf", (), ("4.weight",)),
            "the gradients are finite but their joint norm overflows; the largest is that of '4.weight'",
        ),
        (Finding("update", "0.weight", "inf"), "the optimizer's update made '0.weight' inf"),
        (Finding("nothing"), "nothing: the step was finite when it was run again (transient)"),
        (Finding("nothing", "no kernel"), "nothing: the step could not be run again (no kernel)"),
    ],
)
def test_half_a_sentence(finding, text):
    assert str(finding) == text
