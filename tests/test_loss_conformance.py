"""What every loss in conf/loss/ keeps to. A new file there is checked without a line added here.

The fields are made by name from two tables (N, outputs): `out`, what a model gives, and `truth`, what it
should have given.
"""

import re
from functools import partial

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch.func import vmap

import lossbench.losses
from lossbench import catalog
from lossbench.config import Call, needs_of
from lossbench.engine.objective import Objective, Part, reduce
from lossbench.signatures import parameters, required
from lossbench.tasks import TASKS

OUTPUTS = {"regression": 1, "binary": 1, "multiclass": 3}
FIELDS = {
    "pred": lambda out, truth: out.squeeze(-1),
    "logits": lambda out, truth: out.squeeze(-1),  # (N,) where there is one output, else (N, C)
    "probs": lambda out, truth: out.softmax(-1) if out.shape[-1] > 1 else out.sigmoid().squeeze(-1),
    "log_probs": lambda out, truth: out.log_softmax(-1),
    "target": lambda out, truth: truth.squeeze(-1),
    "targets": lambda out, truth: (truth > 0).to(truth.dtype).squeeze(-1),
    "labels": lambda out, truth: truth.argmax(-1),
}

CARDS = catalog.cards("loss")


def options(card):
    return OmegaConf.to_container(OmegaConf.load(card.path))


def targets(card):
    found = options(card)["_target_"]
    return [get_object(path) for path in (found if isinstance(found, list) else [found])]


def hyperparameters(target):
    return {key: p for key, p in parameters(target).items() if key not in required(target)}


def needs(target, task):
    return needs_of(Call("", target, {}), task)


def fits(card):
    return {name for name, task in TASKS.items() if any(needs(target, task) for target in targets(card))}


def keys(card):
    return {key: value for key, value in options(card).items() if key != "_target_"}


def cases(takes=lambda target: True):
    """One test for each file, target and task that go together."""
    return pytest.mark.parametrize(
        ("card", "target", "task"),
        [
            pytest.param(card, target, task, id=f"{card.name}-{target.__name__}-{name}")
            for card in CARDS
            for target in filter(takes, targets(card))
            for name, task in TASKS.items()
            if needs(target, task)
        ],
    )


by_file = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
by_target = pytest.mark.parametrize(
    ("card", "target"),
    [pytest.param(card, target, id=f"{card.name}-{target.__name__}") for card in CARDS for target in targets(card)],
)
by_task = cases()
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small gain nothing from more threads, which only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(task, *shape, dtype=torch.float64):
    """`out` and `truth`."""
    g = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, OUTPUTS[task.name], generator=g, dtype=dtype) for _ in range(2)]


def objective(card, target, task, **more):
    """The loss as the YAML sets it."""
    given = {key: value for key, value in keys(card).items() if value != "auto"} | more
    return Objective([Part(card.name, 1.0, partial(target, **given), needs(target, task))])


def fields(loss, out, truth):
    return {name: FIELDS[name](out, truth) for name in loss.needs}


def term(loss, out, truth):
    return loss.terms(fields(loss, out, truth))[0]


def value_and_gradient(loss, table, out):
    """The reduced loss of the fields `table(out)`, and its gradient by `out`."""
    out = out.detach().clone().requires_grad_()
    value = reduce(loss.terms(table(out)))
    return value.detach(), torch.autograd.grad(value, out)[0]


# What it computes


@by_task
def test_one_value_per_example_and_weights_of_the_targets_only(card, target, task):
    loss, (out, truth) = objective(card, target, task), draw(task, 6)
    found = term(loss, out.requires_grad_(), truth)
    assert found.values.shape == (6,)
    assert found.values.dtype == torch.float64
    assert found.values.requires_grad
    if found.weights is not None:
        assert found.weights.shape == (6,)
        assert (found.weights >= 0).all()
        assert not found.weights.requires_grad


@by_task
def test_gradients_agree_with_differences(card, target, task):
    loss, (out, truth) = objective(card, target, task), draw(task, 3)

    def values(x):
        return term(loss, x, truth).values

    assert torch.autograd.gradcheck(values, out.requires_grad_())
    assert torch.autograd.gradgradcheck(values, out, fast_mode=True)


@by_task
@pytest.mark.parametrize("size", [1e4, 100.0])
def test_finite_at_extremes(card, target, task, size):
    loss, (out, truth) = objective(card, target, task), draw(task, 64, dtype=torch.float32)
    out = (size * out.sign()).requires_grad_()
    values = term(loss, out, truth).values
    gradient = torch.autograd.grad(values.sum(), out)[0]
    assert values.isfinite().all()
    assert gradient.isfinite().all()


@by_task
def test_under_autocast(card, target, task):
    loss, (x, truth) = objective(card, target, task), draw(task, 16, dtype=torch.float32)
    weight = torch.eye(x.shape[1], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = x @ weight
        value = reduce([term(loss, out, truth)])
    assert out.dtype == torch.bfloat16
    exact = reduce([term(loss, out.float(), truth)])
    torch.testing.assert_close(value.float(), exact, rtol=0.02, atol=0.02)
    assert torch.autograd.grad(value, weight)[0].isfinite().all()


@by_task
def test_a_permuted_batch_permutes_the_values(card, target, task):
    loss, (out, truth) = objective(card, target, task), draw(task, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found, moved = term(loss, out, truth), term(loss, out[order], truth[order])
    close(moved.values, found.values[order])
    if found.weights is not None:
        close(moved.weights, found.weights[order])


@by_task
def test_weight_0_is_the_subset(card, target, task):
    loss, (out, truth) = objective(card, target, task), draw(task, 8)
    kept = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1], dtype=torch.float64)

    masked = value_and_gradient(loss, lambda x: fields(loss, x, truth) | {"weight": kept}, out)
    subset = value_and_gradient(loss, lambda x: fields(loss, x[kept > 0], truth[kept > 0]), out)
    close(masked, subset)


@cases(lambda target: "ignore_index" in parameters(target))
@pytest.mark.parametrize("ignored", [-100, 0])
def test_ignored_is_the_subset(card, target, task, ignored):
    loss, (out, truth) = objective(card, target, task, ignore_index=ignored), draw(task, 12)
    table = fields(loss, out, truth)
    name = next(field for field in loss.needs if not table[field].is_floating_point())
    kept = table[name] != 0
    masked = table[name].where(kept, ignored)
    assert 0 < kept.sum() < 12

    ours = value_and_gradient(loss, lambda x: fields(loss, x, truth) | {name: masked}, out)
    subset = value_and_gradient(loss, lambda x: fields(loss, x[kept], truth[kept]), out)
    close(ours, subset)


@by_task
def test_models_can_be_stacked(card, target, task):
    """Under vmap over two models with a batch each: the values and gradients of each alone."""
    loss, (out, truth) = objective(card, target, task), draw(task, 2, 6)
    out.requires_grad_()
    stacked = vmap(lambda x, y: reduce([term(loss, x, y)]))(out, truth)
    alone = torch.stack([reduce([term(loss, x, y)]) for x, y in zip(out, truth, strict=True)])
    close(stacked, alone)
    close(*(torch.autograd.grad(v.sum(), out)[0] for v in (stacked, alone)))


@by_task
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_it_trains(card, target, task, optimizer):
    """A linear model on targets that a linear model can meet."""
    g = torch.Generator().manual_seed(0)
    x, wanted = torch.randn(32, 3, generator=g), torch.randn(3, OUTPUTS[task.name], generator=g)
    loss, weight = objective(card, target, task), torch.zeros_like(wanted, requires_grad=True)
    steps, losses = optimizer([weight], lr=0.05), []
    for _ in range(200):
        value = reduce([term(loss, x @ weight, x @ wanted)])
        steps.zero_grad()
        value.backward()
        steps.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]


# What it says


@by_target
def test_hyperparameters_are_keyword_only_and_fields_are_not(card, target):
    assert required(target)
    for key, p in parameters(target).items():
        assert (p.kind is p.KEYWORD_ONLY) == (key in hyperparameters(target)), key


@by_target
def test_the_signature_has_the_keys_and_defaults_of_the_file(card, target):
    own = hyperparameters(target)
    for key, value in keys(card).items():
        assert key in own
        assert value == "auto" or value == own[key].default, key


@pytest.mark.parametrize("card", [c for c in CARDS if c.name != "default"], ids=lambda card: card.name)
def test_the_file_has_every_hyperparameter_that_its_targets_share(card):
    shared = set.intersection(*(set(hyperparameters(target)) for target in targets(card)))
    assert set(keys(card)) == shared


@by_file
def test_auto_stands_only_where_the_defaults_differ(card):
    for key, value in keys(card).items():
        defaults = {str(hyperparameters(target)[key].default) for target in targets(card)}
        assert (value == "auto") == (len(defaults) > 1), key


@by_file
def test_the_card_sums_it_up_and_names_the_tasks_it_fits(card):
    summary, tasks, *_ = card.path.read_text().splitlines()
    assert re.fullmatch(r"# \S.{10,}\.", summary)
    assert tasks.startswith("# tasks: ")
    assert set(card.fits) == fits(card)
    assert len(card.fits) == len(fits(card))


@by_target
def test_every_target_fits_a_task(card, target):
    assert any(needs(target, task) for task in TASKS.values())


@by_target
def test_the_docstring_names_shapes_hyperparameters_and_source(card, target):
    text = target.__doc__
    assert re.search(r"^ +Shapes: .*\(N", text, re.M)
    assert re.search(r"^ +Source: .*(\d{4}|`torch\.)", text, re.M)
    for key in hyperparameters(target):
        assert f"`{key}`" in text, key


def test_every_loss_has_a_file():
    assert {t for card in CARDS for t in targets(card)} == {
        getattr(lossbench.losses, name) for name in lossbench.losses.__all__
    }
