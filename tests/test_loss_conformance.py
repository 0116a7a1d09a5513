"""What every loss in conf/loss/ keeps to. A new file there is checked without a line added here.

The fields are made by name from two tables (N, outputs): `out`, what a model gives, and `truth`, what it should have
given. Three kinds of targets are told apart by what they take first: fields; `values`, as the losses around another
do; `pieces`, as losses put together from others do. The last two are checked around the task's usual loss.
"""

import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import Tensor
from torch.func import vmap

import lossbench.losses
from lossbench import catalog
from lossbench.compose import compose
from lossbench.engine.compose import Robust
from lossbench.engine.objective import Objective, Part, reduce
from lossbench.errors import ConfigError
from lossbench.signatures import describe, hints, intervals, parameters, required
from lossbench.tasks import TASKS

CLASSES = 3
COUNTS = (50.0, 20.0, 5.0)

FIELDS = {
    "pred": lambda task, out, truth: out[..., 0],
    "target": lambda task, out, truth: truth[..., 0],
    "pred_quantiles": lambda task, out, truth: out,
    "variance": lambda task, out, truth: F.softplus(out[..., 1]),
    "log_rate": lambda task, out, truth: out[..., 0],
    "counts": lambda task, out, truth: (3 * truth[..., 0].abs()).floor(),
    "logits": lambda task, out, truth: out[..., 0] if task == "binary" else out,
    "probs": lambda task, out, truth: (
        out[..., 0].sigmoid() if task == "binary" else out.sigmoid() if task == "multilabel" else out.softmax(-1)
    ),
    "log_probs": lambda task, out, truth: out.log_softmax(-1),
    "targets": lambda task, out, truth: (truth[..., 0] if task == "binary" else truth).gt(0).to(truth.dtype),
    "multi_hot": lambda task, out, truth: truth.gt(0).to(truth.dtype),
    "labels": lambda task, out, truth: truth.argmax(-1),
    "soft_labels": lambda task, out, truth: (
        (4 * truth).softmax(-1) if task == "soft_labels" else F.one_hot(truth.argmax(-1), CLASSES).to(truth.dtype)
    ),
    "class_counts": lambda task, out, truth: truth.new_tensor(COUNTS),
    "groups": lambda task, out, truth: truth[..., 0].gt(0).long(),
}

FILLED = {"num_groups": 2, "num_classes": CLASSES}  # what a module is given when a run is built

CARDS = catalog.cards("loss")


def options(card):
    return OmegaConf.to_container(OmegaConf.load(card.path))


def targets(card):
    found = options(card)["_target_"]
    return [get_object(path) for path in (found if isinstance(found, list) else [found])]


def keys(card):
    """The hyperparameters that the file sets."""
    return {key: value for key, value in options(card).items() if key not in ("_target_", "defaults", "terms")}


def called(target):
    """What is called with the fields."""
    return partial(target.forward, None) if isinstance(target, type) else target


def takes(target):
    """What it is called with: fields, the values of a loss and fields, or pieces."""
    return required(called(target))


def fields_of(target):
    return [name for name in takes(target) if name not in ("values", "pieces")]


def hyperparameters(target):
    """What a file may set: not the fields, nor what is filled in when a run is built."""
    given = {*takes(target), *required(target), *(["weights"] if takes(target)[0] == "values" else [])}
    return {key: p for key, p in parameters(target).items() if key not in given}


def fits(target, task):
    return set(fields_of(target)) <= set(TASKS[task].fields)


def usual(task):
    """The task's usual loss, as a part."""
    target = next(target for target in targets(catalog.card("loss", "default")) if fits(target, task))
    return Part("usual", 1.0, target, tuple(fields_of(target)))


@dataclass(frozen=True)
class Case:
    """A file, one of its targets, and a task whose fields it takes."""

    card: catalog.Card
    target: object
    task: str

    @cached_property
    def outputs(self):
        heads = {"pred_quantiles": 3, "variance": 2}
        found = [heads[name] for name in fields_of(self.target) if name in heads]
        return found[0] if found else 1 if self.task in ("regression", "binary") else CLASSES

    @cached_property
    def kind(self):
        first = takes(self.target)[0]
        return first if first in ("values", "pieces") else "fields"

    @property
    def frozen(self):
        """Holds what the loss detaches, as its docstring says that it does, at what it is in the first call."""
        return (
            frozen_detach if re.search(r"detached|held fixed|[Nn]o gradient flows", self.target.__doc__) else unfrozen
        )

    def loss(self, **more):
        """As the file sets it."""
        own = hyperparameters(self.target)
        given = {key: value for key, value in keys(self.card).items() if value != "auto" and key in own} | more
        name, needs = self.card.name, tuple(fields_of(self.target))
        if self.kind == "pieces":
            pieces = {"a": [usual(self.task)]}
            if "weights" in given:
                pieces["b"] = [usual(self.task)]
            return Objective(self.target(pieces, **given))
        if isinstance(self.target, type):
            function = self.target(**given, **{key: FILLED[key] for key in required(self.target)})
        else:
            function = partial(self.target, **given)
        if self.kind == "values":
            return Objective([Robust(usual(self.task), function, needs)])
        return Objective([Part(name, 1.0, function, needs)])

    def draw(self, *shape, dtype=torch.float64):
        """`out` and `truth`."""
        g = torch.Generator().manual_seed(1)
        return [torch.randn(*shape, self.outputs, generator=g, dtype=dtype) for _ in range(2)]

    def fields(self, loss, out, truth):
        return {name: FIELDS[name](self.task, out, truth) for name in loss.needs}

    def values(self, loss, out, truth):
        """One per example; of a loss that has none, the scalar."""
        terms = loss.terms(self.fields(loss, out, truth))
        return terms[0].values if self.kind == "fields" else reduce(terms)

    def total(self, loss, out, truth):
        return reduce(loss.terms(self.fields(loss, out, truth)))


@contextmanager
def unfrozen():
    yield lambda function: function


@contextmanager
def frozen_detach():
    """A wrapper that lets a function detach only what it detached in its first call."""
    plain, seen = Tensor.detach, []

    def wrapped(function):
        def call(x):
            found = iter(list(seen)) if seen else None

            def detach(tensor):
                if found is not None:
                    return next(found)
                seen.append(plain(tensor).clone())
                return seen[-1]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Tensor, "detach", detach)
                return function(x)

        return call

    yield wrapped
    assert seen, "the docstring says that something is detached, and nothing is"


def trains(target):
    return not hasattr(target, "not_differentiable")


ALL = [Case(card, target, task) for card in CARDS for target in targets(card) for task in TASKS if fits(target, task)]
PAIRS = [(card, target) for card in CARDS for target in targets(card)]


def cases(chosen=lambda case: True):
    """One test for each file, target and task that go together."""
    return pytest.mark.parametrize(
        "case", [pytest.param(c, id=f"{c.card.name}-{c.target.__name__}-{c.task}") for c in ALL if chosen(c)]
    )


every = cases()
differentiable = cases(lambda case: trains(case.target))
of_fields = cases(lambda case: case.kind == "fields")
by_file = pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
by_named_file = pytest.mark.parametrize("card", [c for c in CARDS if c.name != "default"], ids=lambda card: card.name)
by_target = pytest.mark.parametrize(
    ("card", "target"), [pytest.param(card, target, id=f"{card.name}-{target.__name__}") for card, target in PAIRS]
)
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small gain nothing from more threads, which only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def value_and_gradient(loss, table, out):
    """The reduced loss of the fields `table(out)`, and its gradient by `out`: 0 where it has none."""
    out = out.detach().clone().requires_grad_()
    value = reduce(loss.terms(table(out)))
    return value.detach(), torch.autograd.grad(value, out)[0] if value.requires_grad else torch.zeros_like(out)


# What it computes


@of_fields
def test_one_value_per_example_and_weights_of_the_targets_only(case):
    loss, (out, truth) = case.loss(), case.draw(6)
    (found,) = loss.terms(case.fields(loss, out.requires_grad_(), truth))
    assert found.values.shape == (6,)
    assert found.values.dtype == torch.float64
    if found.weights is not None:
        assert found.weights.shape == (6,)
        assert (found.weights >= 0).all()
        assert not found.weights.requires_grad


@every
def test_it_has_a_gradient_unless_it_says_that_it_has_none(case):
    loss, (out, truth) = case.loss(), case.draw(6)
    value = case.total(loss, out.requires_grad_(), truth)
    assert value.shape == ()
    assert value.requires_grad == trains(case.target)


@differentiable
def test_gradients_agree_with_differences(case):
    """Of a loss that detaches something, those of the loss in which that is a constant."""
    out, truth = case.draw(3)
    with case.frozen() as frozen:
        values = frozen(lambda x: case.values(case.loss(), x, truth))
        values(out)
        assert torch.autograd.gradcheck(values, out.requires_grad_())
        assert torch.autograd.gradgradcheck(values, out, fast_mode=True)


@every
@pytest.mark.parametrize("size", [1e4, 100.0])
def test_finite_at_extremes(case, size):
    loss, (out, truth) = case.loss(), case.draw(64, dtype=torch.float32)
    found = value_and_gradient(loss, lambda x: case.fields(loss, x, truth), size * out.sign())
    assert all(tensor.isfinite().all() for tensor in found)
    assert case.values(loss, size * out.sign(), truth).isfinite().all()


@every
def test_under_autocast(case):
    loss, (x, truth) = case.loss(), case.draw(16, dtype=torch.float32)
    weight = torch.eye(x.shape[1], requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = x @ weight
        value = case.total(loss, out, truth)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(value.float(), case.total(loss, out.float(), truth), rtol=0.02, atol=0.02)
    if trains(case.target):
        assert torch.autograd.grad(value, weight)[0].isfinite().all()


@every
def test_a_permuted_batch_permutes_the_values(case):
    out, truth = case.draw(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    loss, again = case.loss(), case.loss()
    found = loss.terms(case.fields(loss, out, truth))
    moved = again.terms(case.fields(again, out[order], truth[order]))
    for a, b in zip(found, moved, strict=True):
        close(b.values, a.values[order] if a.values.dim() else a.values)
        if a.weights is not None:
            close(b.weights, a.weights[order] if a.weights.dim() else a.weights)


@every
def test_weight_0_is_the_subset(case):
    out, truth = case.draw(8)
    kept = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1], dtype=torch.float64)
    loss, again = case.loss(), case.loss()

    masked = value_and_gradient(loss, lambda x: case.fields(loss, x, truth) | {"weight": kept}, out)
    subset = value_and_gradient(again, lambda x: case.fields(again, x[kept > 0], truth[kept > 0]), out)
    close(masked, subset)


@cases(lambda case: "ignore_index" in parameters(case.target))
@pytest.mark.parametrize("ignored", [-100, 0])
def test_ignored_is_the_subset(case, ignored):
    loss, (out, truth) = case.loss(ignore_index=ignored), case.draw(12)
    table = case.fields(loss, out, truth)
    name = next(field for field in loss.needs if not table[field].is_floating_point())
    kept = table[name] != 0
    masked = table[name].where(kept, ignored)
    assert 0 < kept.sum() < 12

    ours = value_and_gradient(loss, lambda x: case.fields(loss, x, truth) | {name: masked}, out)
    subset = value_and_gradient(loss, lambda x: case.fields(loss, x[kept], truth[kept]), out)
    close(ours, subset)


@every
def test_models_can_be_stacked(case):
    """Under vmap over two models with a batch each: the values and gradients of each alone."""
    loss, (out, truth) = case.loss(), case.draw(2, 6)
    if any(True for _ in loss.modules.buffers()):
        pytest.skip("one state cannot serve two models: each takes a module of its own")
    out.requires_grad_()
    stacked = vmap(lambda x, y: case.total(loss, x, y))(out, truth)
    alone = torch.stack([case.total(loss, x, y) for x, y in zip(out, truth, strict=True)])
    close(stacked, alone)
    if trains(case.target):
        close(*(torch.autograd.grad(v.sum(), out)[0] for v in (stacked, alone)))


@differentiable
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_it_trains(case, optimizer):
    """A linear model on targets that a linear model can nearly meet; what the loss learns is learned along."""
    g = torch.Generator().manual_seed(0)
    x, wanted = torch.randn(32, 3, generator=g), torch.randn(3, case.outputs, generator=g)
    truth = x @ wanted + 0.1 * torch.randn(32, case.outputs, generator=g)
    loss, weight = case.loss(), torch.zeros_like(wanted, requires_grad=True)
    start = loss.modules.state_dict()
    steps, losses = optimizer([weight, *loss.modules.parameters()], lr=0.05), []
    for _ in range(150):
        value = case.total(loss, x @ weight, truth)
        steps.zero_grad()
        value.backward()
        steps.step()
        losses.append(value.item())
    share = 0.05 if case.kind == "values" else 0.1  # the worst examples are the last to be met
    assert losses[-1] < losses[0] - share * abs(losses[0])
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.modules.parameters())
    assert start.keys() == loss.modules.state_dict().keys()


@cases(lambda case: case.kind == "values")
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_around_equal_values_it_is_that_value(case, value):
    function = case.loss().parts[0].function
    values = torch.full((6,), value, dtype=torch.float64)
    groups = [torch.tensor([0, 1, 0, 1, 1, 0]) for _ in fields_of(case.target)]
    close(function(values, *groups), values[0])


@pytest.mark.parametrize(
    ("card", "target"), [pytest.param(card, t, id=card.name) for card, t in PAIRS if not trains(t)]
)
def test_what_cannot_train_says_why_and_is_refused(card, target):
    assert re.fullmatch(r"\S.{10,}", target.not_differentiable)
    with pytest.raises(ConfigError, match=re.escape(target.not_differentiable)):
        compose(f"experiment={card.preset}", f"loss={card.name}")


# What it says


@by_target
def test_hyperparameters_are_keyword_only_and_fields_are_not(card, target):
    assert takes(target)
    for key, p in {**parameters(called(target)), **hyperparameters(target)}.items():
        assert (p.kind is p.KEYWORD_ONLY) == (key not in takes(target)), key


@by_target
def test_hyperparameters_have_ranges_and_defaults(card, target):
    types = hints(target)
    for key, p in hyperparameters(target).items():
        assert p.default is not p.empty, key
        kinds = describe(types[key])
        assert kinds.strip(), key
        if "a number" in kinds and "a mapping" not in kinds:
            assert intervals(types[key]), f"{key}: no range"
            texts = [note for note in _notes(types[key]) if note.startswith(("[", "("))]
            assert texts == intervals(types[key]), f"{key}: not an interval"


def _notes(hint):
    if isinstance(hint, str):
        return [hint]
    inner = (*get_args(hint), *getattr(hint, "__metadata__", ()))
    return list(dict.fromkeys(note for part in inner for note in _notes(part)))


@by_target
def test_the_signature_has_the_keys_and_defaults_of_the_file(card, target):
    own = hyperparameters(target)
    for key, value in keys(card).items():
        if key in own:
            default = own[key].default
            default = list(default) if isinstance(default, tuple) else default
            assert value in ("auto", default), key


@by_named_file
def test_the_file_has_every_hyperparameter_that_its_targets_share_and_says_what_it_is(card):
    own = [set(hyperparameters(target)) for target in targets(card)]
    assert set.intersection(*own) <= set(keys(card)) <= set.union(*own)
    for key in keys(card):
        assert re.search(r"\w{2,}", card.comments[key]), key


@by_file
def test_auto_stands_only_where_the_defaults_differ(card):
    for key, value in keys(card).items():
        own = [hyperparameters(target) for target in targets(card)]
        defaults = {str(found[key].default) for found in own if key in found}
        assert (value == "auto") == (len(defaults) > 1), key


@by_file
def test_the_card_sums_it_up_and_names_the_tasks_it_fits(card):
    summary, tasks, *_ = card.path.read_text().splitlines()
    assert re.fullmatch(r"# \S.{10,}\.", summary)
    assert tasks.startswith("# tasks: ")
    assert set(card.fits) == {case.task for case in ALL if case.card is card}
    assert len(card.fits) == len(set(card.fits))


@by_named_file
def test_the_card_says_when_to_take_it_and_where_to_try_it(card):
    labels = re.findall(r"^(When it helps|When it hurts|Pairs with): \S", card.text, re.M)
    assert labels == ["When it helps", "When it hurts", "Pairs with"]
    preset = catalog.card("experiment", card.preset)
    assert set(preset.fits) & set(card.fits)


@by_target
def test_every_target_fits_a_task(card, target):
    assert any(fits(target, task) for task in TASKS)


@by_target
def test_the_docstring_names_shapes_hyperparameters_and_source(card, target):
    text = target.__doc__
    if takes(target)[0] != "pieces":
        assert re.search(r"^\s*Shapes: .*\(N", text, re.M)
        assert re.search(r"^\s*Source: .*(\d{4}|`torch\.)", text, re.M)
    for key in hyperparameters(target):
        assert f"`{key}`" in text, key


def test_every_loss_has_a_file():
    """Or is a part of one that has: of adaptive_robust, regularized and uncertainty."""
    parts = {"adaptive_robust", "l1", "l2", "Uncertainty"}
    ours = {target for _, target in PAIRS if target.__module__.startswith("lossbench.losses.")}
    assert ours == {getattr(lossbench.losses, name) for name in {*lossbench.losses.__all__} - parts}
