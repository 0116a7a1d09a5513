"""Tasks: the fields that they make of a batch, and the output form and head that a loss's needs ask for."""

import math
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from lossbench.data import Split
from lossbench.engine import Objective, Part, evaluate
from lossbench.errors import ConfigError, DataError
from lossbench.models.output import with_output
from lossbench.tasks import TASKS, Binary, Multiclass, Multilabel, Regression, SoftLabels

NUMBERS = Regression(mean=3.0, std=2.0)
FORMS = {
    "regression": NUMBERS,
    "quantiles": NUMBERS.suited(["pred_quantiles", "target"], levels=(0.1, 0.4, 0.9)),
    "variance": NUMBERS.suited(["pred", "target", "variance"]),
    "log_rate": NUMBERS.suited(["log_rate", "counts"]),
    "binary": Binary(),
    "binary sigmoid": Binary("sigmoid"),
    "multilabel": Multilabel(3),
    "multilabel sigmoid": Multilabel(3, "sigmoid"),
    "multiclass": Multiclass(3, (5.0, 3.0, 1.0)),
    "multiclass softmax": Multiclass(3, (5.0, 3.0, 1.0), "softmax"),
    "multiclass log_softmax": Multiclass(3, (5.0, 3.0, 1.0), "log_softmax"),
    "soft_labels": SoftLabels(3, (5.5, 3.0, 0.5)),
    "soft_labels log_softmax": SoftLabels(3, (5.5, 3.0, 0.5), "log_softmax"),
}
EACH = pytest.mark.parametrize("task", FORMS.values(), ids=FORMS)
N = 40


def model_of(task):
    return with_output(nn.Sequential(nn.Identity()), task.output)


def batch_of(task, n=N, seed=0, **more):
    """What a batch holds; the input is the model's output before its activation."""
    g = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(n, task.outputs, generator=g)
    target = {
        "regression": torch.randint(5, (n,), generator=g) / 2 - 1.5,  # counts 0, 1, 2, ... in the target's units
        "binary": torch.randint(2, (n,), generator=g).float(),
        "multilabel": torch.randint(2, (n, task.outputs), generator=g).float(),
        "multiclass": torch.randint(task.outputs, (n,), generator=g),
        "soft_labels": torch.rand(n, task.outputs, generator=g).softmax(1),
    }
    return {"input": x, "target": target[task.name], **more}


def provided(task):
    """The fields that the task has in this form."""
    if not isinstance(task, Regression):
        return task.fields
    of_head = {"quantiles": "pred_quantiles", "variance": "variance", "log_rate": "log_rate"}
    others = set(of_head.values()) - {of_head.get(task.head)}
    return tuple(name for name in task.fields if name not in others)


# Fields


def test_each_task_is_tested():
    assert {task.name for task in FORMS.values()} == set(TASKS)
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}


@EACH
def test_metrics_are_float64_scalars_with_a_direction(task):
    found = task.metrics(task.forward(model_of(task), batch_of(task), task.measured))
    assert list(found) == list(task.directions)
    assert set(task.directions.values()) <= {"max", "min"}
    assert all(value.dtype == torch.float64 and value.shape == () and value.isfinite() for value in found.values())


@EACH
def test_forward_gives_what_is_needed_and_no_more(task):
    batch = batch_of(task, group=torch.arange(N))
    assert {*task.pair, *task.measured} <= set(task.fields)
    for needs in [*((name,) for name in provided(task)), task.pair, task.measured, provided(task), ()]:
        fields = task.forward(model_of(task), batch, needs)
        assert set(fields) == set(needs)
        assert all(len(value) == N for name, value in fields.items() if name != "class_counts")


@EACH
def test_forward_passes_the_examples_weights_on_where_there_are_any(task):
    weight = torch.rand(N)
    fields = task.forward(model_of(task), batch_of(task, weight=weight), task.measured)
    assert set(fields) == {*task.measured, "weight"}
    assert torch.equal(fields["weight"], weight)


@EACH
def test_forward_gives_float32_and_lets_the_gradient_through(task):
    batch = batch_of(task)
    scale = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    batch["input"] = batch["input"].bfloat16()
    for name in set(provided(task)) & {"pred", "pred_quantiles", "variance", "log_rate", "logits", "probs"}:
        field = task.forward(lambda x: model_of(task)(x * scale), batch, [name])[name]
        assert field.dtype == torch.float32
        assert torch.autograd.grad(field.square().sum(), scale)[0] != 0


@EACH
def test_forward_keeps_the_numbers_of_a_model_in_float64(task):
    batch = batch_of(task)
    fields = task.forward(lambda x: model_of(task)(x.double()), batch, task.measured)
    assert fields[task.measured[0]].dtype == torch.float64


@pytest.mark.parametrize("name", [name for name in FORMS if " " in name])
def test_a_models_own_activation_changes_no_field(name):
    """But the logits of classes, which are known up to a constant."""
    task, plain = FORMS[name], FORMS[name.split()[0]]
    batch = batch_of(task)
    ours = task.forward(model_of(task), batch, provided(task)[:-1])
    theirs = plain.forward(model_of(plain), batch, provided(task)[:-1])
    if task.outputs > 1 and task.name != "multilabel":
        for fields in (ours, theirs):
            fields["logits"] = fields["logits"].log_softmax(1)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    found, expected = (
        form.metrics(form.forward(lambda x, form=form: model_of(form)(x.double()), batch, form.measured))
        for form in (task, plain)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_a_certain_probability_has_a_finite_logit():
    batch = {"input": torch.tensor([[0.0], [1.0]]), "target": torch.zeros(2)}
    assert Binary("sigmoid").forward(lambda x: x, batch, ["logits"])["logits"].tolist() == [-100, 100]
    batch = {"input": torch.tensor([[0.0, 1.0]]), "target": torch.zeros(1)}
    fields = Multiclass(2, output="softmax").forward(lambda x: x, batch, ["logits", "log_probs"])
    assert fields["logits"].tolist() == fields["log_probs"].tolist() == [[-100, 0]]


def test_binary_and_multiclass_fields_by_hand():
    batch = {"input": torch.tensor([[0.0], [math.log(3)]]), "target": torch.tensor([1.0, 0.0])}
    fields = Binary().forward(lambda x: x, batch, Binary.fields)
    assert fields["logits"].shape == (2,)
    assert fields["probs"].tolist() == pytest.approx([0.5, 0.75])
    assert (fields["groups"].tolist(), fields["groups"].dtype) == ([1, 0], torch.int64)

    batch = {"input": torch.tensor([[1.0, 2.0, 5.0]]).log(), "target": torch.tensor([2])}
    fields = Multiclass(3, (4.0, 0.0, 1.0)).forward(lambda x: x, batch, Multiclass.fields)
    assert fields["probs"].tolist()[0] == pytest.approx([0.125, 0.25, 0.625])
    assert fields["log_probs"].exp().tolist()[0] == pytest.approx([0.125, 0.25, 0.625])
    assert fields["soft_labels"].tolist() == [[0, 0, 1]]
    assert fields["soft_labels"].dtype == fields["class_counts"].dtype == torch.float32
    assert fields["class_counts"].tolist() == [4, 0, 1]
    assert fields["groups"].tolist() == [2]


def test_multilabel_and_soft_label_fields_by_hand():
    batch = {"input": torch.tensor([[0.0, math.log(3)]]), "target": torch.tensor([[1.0, 0.0]])}
    fields = Multilabel(2).forward(lambda x: x, batch, ("logits", "targets", "multi_hot", "probs"))
    assert fields["probs"].tolist()[0] == pytest.approx([0.5, 0.75])
    assert fields["targets"] is fields["multi_hot"] is batch["target"]
    fields = SoftLabels(2, (1.5, 0.5)).forward(lambda x: x, batch, ("probs", "soft_labels", "class_counts"))
    assert fields["probs"].tolist()[0] == pytest.approx([0.25, 0.75])
    assert fields["soft_labels"] is batch["target"]
    assert fields["class_counts"].tolist() == [1.5, 0.5]


def test_heads_by_hand():
    """A target of 1 in units of a mean of 3 and a deviation of 2 is 5."""
    x, target = torch.tensor([[0.5, 1.0, 2.0]]), torch.tensor([1.0])
    fields = FORMS["quantiles"].forward(lambda x: x, {"input": x, "target": target}, ["pred", "pred_quantiles"])
    assert (fields["pred"].tolist(), fields["pred_quantiles"].tolist()) == ([1], x.tolist())  # 0.4 is nearest 0.5
    fields = FORMS["variance"].forward(lambda x: x, {"input": x[:, :2]}, ["pred", "variance"])
    assert (fields["pred"].tolist(), fields["variance"].tolist()) == ([0.5], [pytest.approx(math.e)])
    batch = {"input": torch.tensor([[math.log(2)]]), "target": target}
    fields = FORMS["log_rate"].forward(lambda x: x, batch, ["pred", "log_rate", "counts"])
    assert {name: value.item() for name, value in fields.items()} == {
        "pred": pytest.approx(1.5),  # twice the mean is 6, 1.5 deviations above it
        "log_rate": pytest.approx(math.log(6)),
        "counts": 5,
    }
    assert NUMBERS.forward(lambda x: x, {"input": x[:, :1]}, ["pred"])["pred"].shape == (1,)


def test_counts_are_never_below_zero():
    batch = {"input": torch.zeros(1, 1), "target": torch.tensor([-1.5000002])}
    assert NUMBERS.forward(lambda x: x, batch, ["counts"])["counts"].item() == 0


@EACH
def test_groups_come_from_the_data_before_the_classes(task):
    batch = batch_of(task)
    named = task.forward(model_of(task), {**batch, "group": torch.arange(N) % 4}, ["groups"])["groups"]
    assert named.tolist() == [i % 4 for i in range(N)]
    if task.name in ("binary", "multiclass"):
        assert task.forward(model_of(task), batch, ["groups"])["groups"].tolist() == batch["target"].tolist()
    else:
        with pytest.raises(ConfigError, match=r"^the loss needs groups, .*: set dataset\.group=COLUMN$"):
            task.forward(model_of(task), batch, ["groups"])


@EACH
def test_models_can_be_stacked(task):
    """Neither fields nor metrics ask for the numbers of a tensor."""
    batch, scales = batch_of(task), torch.tensor([0.5, 1.0, 2.0])

    def measured(scale):
        return task.metrics(task.forward(lambda x: model_of(task)(x * scale), batch, task.measured))

    stacked = torch.func.vmap(measured)(scales)
    for i, scale in enumerate(scales):
        torch.testing.assert_close({name: values[i] for name, values in stacked.items()}, measured(scale))


# The form of the output


@pytest.mark.parametrize(
    ("task", "needs", "form"),
    [
        (Binary(), ("logits", "targets"), "logits"),
        (Binary(), ("probs", "targets"), "sigmoid"),
        (Binary(), ("probs", "logits", "targets"), "logits"),
        (Binary("sigmoid"), ("logits", "targets"), "logits"),
        (Multilabel(3), ("probs", "targets"), "sigmoid"),
        (Multilabel(3), ("logits", "multi_hot"), "logits"),
        (Multiclass(3), ("logits", "labels"), "logits"),
        (Multiclass(3), ("log_probs", "labels"), "log_softmax"),
        (Multiclass(3), ("probs", "labels"), "softmax"),
        (Multiclass(3), ("probs", "log_probs"), "logits"),
        (Multiclass(3), ("groups",), "logits"),
        (SoftLabels(3), ("log_probs", "soft_labels"), "log_softmax"),
        (SoftLabels(3), ("logits", "soft_labels"), "logits"),
    ],
)
def test_the_form_is_what_the_loss_needs(task, needs, form):
    assert task.suited(needs).output == form
    assert task.suited(needs, output=form).output == form
    assert task.suited(needs).outputs == task.outputs


def test_a_stated_form_stands_where_the_loss_needs_none():
    assert Multiclass(3).suited((), output="softmax").output == "softmax"


LEAVE = "leave model.output out"
MISFITS = [
    (Binary(), ("logits", "targets"), "sigmoid",
     f"the loss takes logits, and model.output=sigmoid gives probabilities; {LEAVE}, or take loss=bce_probs"),
    (Binary(), ("probs", "targets"), "logits",
     f"the loss takes probabilities, and model.output=logits gives logits; {LEAVE}, or take loss=bce"),
    (Binary(), ("logits", "targets"), "softmax",
     "model.output=softmax does not go with task binary, which takes logits, sigmoid"),
    (Multilabel(3), ("logits", "targets"), "log_softmax",
     "model.output=log_softmax does not go with task multilabel, which takes logits, sigmoid"),
    (Multiclass(3), ("logits", "labels"), "softmax",
     f"the loss takes logits, and model.output=softmax gives probabilities; {LEAVE}"),
    (Multiclass(3), ("logits", "labels"), "log_softmax",
     f"the loss takes logits, and model.output=log_softmax gives log-probabilities; {LEAVE}, or take loss=nll"),
    (Multiclass(3), ("log_probs", "labels"), "logits",
     f"the loss takes log-probabilities, and model.output=logits gives logits; {LEAVE}, or take loss=cross_entropy"),
    (Multiclass(3), ("logits", "labels"), "sigmoid",
     "model.output=sigmoid does not go with task multiclass, which takes logits, softmax, log_softmax"),
    (SoftLabels(3), ("logits", "soft_labels"), "softmax",
     f"the loss takes logits, and model.output=softmax gives probabilities; {LEAVE}"),
    (Regression(), ("pred", "target"), "logits",
     "model.output=logits is for classes, and task regression has none; leave it out"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "needs", "output", "message"), MISFITS, ids=[case[3] for case in MISFITS])
def test_a_form_that_the_loss_does_not_take_is_refused(task, needs, output, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        task.suited(needs, output=output)


# The head


@pytest.mark.parametrize(
    ("needs", "levels", "head", "kept", "outputs"),
    [
        (("pred", "target"), (), "value", (), 1),
        (("pred", "target"), [0.9], "value", (0.9,), 1),
        (("pred", "target"), [0.9, 0.9], "value", (0.9,), 1),  # two terms of one level
        (("pred_quantiles", "target"), [0.1, 0.5, 0.9], "quantiles", (0.1, 0.5, 0.9), 3),
        (("pred", "pred_quantiles", "target"), [0.2], "quantiles", (0.2,), 1),
        (("pred", "target", "variance"), (), "variance", (), 2),
        (("log_rate", "counts"), (), "log_rate", (), 1),
    ],
)
def test_the_head_is_what_the_loss_needs(needs, levels, head, kept, outputs):
    task = NUMBERS.suited(needs, levels=levels)
    assert (task.head, task.levels, task.outputs) == (head, kept, outputs)
    assert (task.mean, task.std) == (3, 2)
    assert task.suited(("pred", "target")) == NUMBERS


@pytest.mark.parametrize(
    ("needs", "levels", "message"),
    [
        (("pred_quantiles", "target"), [0.5, 0.1], "loss.quantiles must rise, got [0.5, 0.1]"),
        (("pred_quantiles", "target"), [0.5, 0.5], "loss.quantiles must rise, got [0.5, 0.5]"),
        (("pred_quantiles", "target"), [],
         "the loss takes pred_quantiles: mark the parameter that holds their levels as Levels"),
        (("pred", "target"), [0.1, 0.9],
         "one prediction cannot stand for the quantiles 0.1, 0.9; take loss=multi_quantile"),
        (("pred", "variance", "log_rate"), [],
         "the loss takes variance and log_rate, and a model has one head: take one of them"),
    ],
)  # fmt: skip
def test_heads_that_cannot_be_are_refused(needs, levels, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        NUMBERS.suited(needs, levels=levels)


def test_a_rate_needs_counts():
    message = "the loss needs counts of 0 or more, and the mean of the training rows is -1.5"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        Regression(mean=-1.5).suited(("log_rate", "counts"))


# The model's activation


@pytest.mark.parametrize(
    ("form", "kind"), [("sigmoid", nn.Sigmoid), ("softmax", nn.Softmax), ("log_softmax", nn.LogSoftmax)]
)
def test_the_activation_is_put_behind_the_model_once(form, kind):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    names, x = list(model.state_dict()), torch.randn(5, 2, 2)
    plain = model(x)
    found = with_output(model, form)
    assert list(found.state_dict()) == names
    assert isinstance(found[-1], kind)
    assert found(x).tolist() == getattr(torch, form)(plain, *([] if form == "sigmoid" else [-1])).tolist()
    assert with_output(found, form) is found
    assert len(found) == 3


def test_logits_are_left_as_they_are():
    model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(-1))
    assert with_output(model, "logits") is model
    assert len(model) == 2


class Own(nn.Sequential):
    """Runs its layers in an order of its own."""

    def forward(self, x):
        return self[0](x) * 2


@pytest.mark.parametrize("model", [nn.Linear(4, 3), Own(nn.Linear(4, 3))])
def test_a_model_of_another_kind_is_wrapped(model):
    x = torch.randn(5, 4)
    found = with_output(model, "softmax")
    torch.testing.assert_close(found(x), model(x).softmax(-1))
    assert with_output(found, "softmax") is found


# Evaluation


@EACH
def test_a_single_number_that_is_not_finite_leaves_no_metric(task):
    batch = batch_of(task)
    rows = torch.arange(N)
    objective = Objective([Part("none", 1.0, lambda field: field.new_zeros(()), task.measured[:1])])
    for value, usable in ((0.5, True), (math.nan, False)):
        batch["input"][7, -1] = value
        split = Split(batch["input"], batch["target"], None, rows)
        found = evaluate(model_of(task), task, objective, split, batch_size=16, cast=nullcontext)
        assert list(found) == ["loss", *task.directions]
        assert all(math.isfinite(number) == usable for number in found.values())
