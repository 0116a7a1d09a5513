"""Losses put together from others, and hyperparameters that follow a course: against the same written out by hand."""

import csv
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from torch import nn

from lossbench.build import build
from lossbench.compose import compose
from lossbench.engine import Objective, Part, Player
from lossbench.engine.compose import regularized, robust, uncertainty, weighted_sum
from lossbench.engine.course import Course, CourseOptions, Moving
from lossbench.engine.objective import reduce
from lossbench.errors import ConfigError
from lossbench.losses import GroupDRO, cross_entropy, cvar, focal, mae, mse

PRED = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
TARGET = torch.tensor([0.0, 0.0, 1.0, 0.5], dtype=torch.float64)  # errors 1, -2, 2, 0: MSE 9/4, MAE 5/4
FIELDS = {"pred": PRED, "target": TARGET}
A, B = "+loss@loss.terms.a", "+loss@loss.terms.b"


def part(function, name="part", needs=("pred", "target")):
    return [Part(name, 1.0, function, needs)]


def both():
    return {"a": part(mse), "b": part(mae)}


def value_and_gradient(objective, fields=FIELDS):
    pred = fields["pred"].clone().requires_grad_()
    value = reduce([*objective.terms(fields | {"pred": pred}), *objective.penalties()])
    return value.item(), torch.autograd.grad(value, pred)[0]


def gradient_of(f):
    pred = PRED.clone().requires_grad_()
    return torch.autograd.grad(f(pred), pred)[0]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


# Sums


@pytest.mark.parametrize(
    ("weights", "value"),
    [(None, 9 / 4 + 5 / 4), ({"a": 0.7, "b": 0.3}, 0.7 * 9 / 4 + 0.3 * 5 / 4), ({"b": 2.0}, 9 / 4 + 2 * 5 / 4)],
)
def test_a_sum_is_the_sum_of_its_terms_times_their_weights(weights, value):
    found, gradient = value_and_gradient(Objective(weighted_sum(both(), weights=weights)))
    assert found == pytest.approx(value)
    a, b = ((weights or {}).get(key, 1.0) for key in "ab")
    close(gradient, gradient_of(lambda x: a * F.mse_loss(x, TARGET) + b * F.l1_loss(x, TARGET)))


def test_normalize_divides_each_gradient_by_the_terms_own_value():
    found, gradient = value_and_gradient(Objective(weighted_sum(both(), weights={"b": 3.0}, normalize=True)))
    assert found == pytest.approx(9 / 4 + 3 * 5 / 4)  # the value stays as it is, to be watched

    def by_hand(x):
        squared, absolute = F.mse_loss(x, TARGET), F.l1_loss(x, TARGET)
        return squared / squared.detach() + 3 * absolute / absolute.detach()

    close(gradient, gradient_of(by_hand))


def test_normalize_of_a_loss_that_is_0_is_finite():
    met = {"pred": TARGET, "target": TARGET}
    _, gradient = value_and_gradient(Objective(weighted_sum({"a": part(mse)}, normalize=True)), met)
    close(gradient, torch.zeros(4, dtype=torch.float64))


def test_sums_may_hold_sums_and_robust_losses():
    inner = {
        "x": weighted_sum(both(), weights={"a": 0.5, "b": 0.5}),
        "y": robust({"base": part(mse)}, "cvar", cvar, ()),
    }
    objective = Objective(weighted_sum(inner, weights={"x": 2.0}))
    found, _ = value_and_gradient(objective)
    assert found == pytest.approx(9 / 4 + 5 / 4 + 4)  # the worst tenth of four is a part of the worst one, 2^2
    assert objective.columns == ("loss/x.a", "loss/x.b", "loss/y")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: weighted_sum({}), "has no terms"),
        (lambda: weighted_sum(both(), weights={"c": 1.0}), "no term 'c'"),
        (lambda: weighted_sum(both(), weights={"a": math.inf}), "must be a number"),
        (lambda: weighted_sum(both(), weights={"a": -1}), "must be a number of at least 0"),
        (lambda: weighted_sum(both(), weights={"a": 0, "b": 0}), "nothing would be learned"),
        (lambda: Objective(uncertainty({"log_variance": part(mse), "b": part(mae)})), "two terms of the loss"),
        (lambda: weighted_sum(both(), weights={"a": "much"}), "must be a number"),
        (lambda: weighted_sum({"a": regularized({"base": part(mse)})}), "penalties of its own"),
        (lambda: uncertainty({"a": uncertainty(both())}), "penalties of its own"),
        (lambda: regularized(both()), "goes around one loss"),
        (lambda: robust(both(), "cvar", cvar, ()), "goes around one loss"),
        (lambda: robust({"base": weighted_sum(both())}, "cvar", cvar, ()), "goes around one plain loss"),
    ],
)
def test_what_cannot_be_put_together(made, message):
    with pytest.raises(ConfigError, match=message):
        made()


# Learned weights


def test_learned_weights_by_hand():
    """L_a / (2 s_a^2) + L_b / (2 s_b^2) + log s_a + log s_b with log s_a^2 = log 2 and log s_b^2 = 0."""
    objective = Objective(uncertainty(both()))
    (module,) = objective.modules
    with torch.no_grad():
        module.log_variances.copy_(torch.tensor([math.log(2), 0.0]))
    value = reduce([*objective.terms(FIELDS), *objective.penalties()])
    assert value.item() == pytest.approx(9 / 16 + 5 / 8 + math.log(2) / 2)
    (gradient,) = torch.autograd.grad(value, module.log_variances)
    assert gradient.tolist() == pytest.approx([1 / 2 - 9 / 16, 1 / 2 - 5 / 8])


def test_learned_weights_are_trained_and_recorded():
    """A variance comes to rest where it is the loss."""
    run = build(compose("dataset=diabetes", "loss=uncertainty", f"{A}=mse", f"{B}=mae", "optim=adam", "optim.lr=0.05"))
    player = run.player
    (module,) = player.objective.modules
    assert any(p is module.log_variances for p in player.parameters)
    (batch,) = next(run.batches.epoch(0))
    row = player.step([batch]).tolist()
    assert player.objective.columns == ("loss/a", "loss/b", "loss/log_variance", "weight/a", "weight/b")
    assert row[4:] == pytest.approx([*row[4:6], 0.0, 0.5, 0.5])
    assert row[0] == pytest.approx(0.5 * row[4] + 0.5 * row[5])
    for parameter in player.model.parameters():
        parameter.requires_grad_(False)
    for _ in range(800):
        row = player.step([batch]).tolist()
    assert module.log_variances.exp().tolist() == pytest.approx(row[4:6], rel=0.05)


# Penalties


def test_regularized_by_hand():
    model = nn.Sequential(nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -4.0]]))
        model[0].bias.fill_(100.0)
    for squared, penalty in ((True, 0.1 * 7 + 0.01 * 25), (False, 0.1 * 7 + 0.01 * 5)):
        parts = regularized({"base": part(mse)}, l1=0.1, l2=0.01, squared=squared)
        objective = Objective(parts, parameters=[p for p in model.parameters() if p.dim() > 1])
        assert reduce(objective.penalties()).item() == pytest.approx(penalty)
        assert value_and_gradient(objective)[0] == pytest.approx(9 / 4 + penalty)


def test_a_penalty_of_0_is_none():
    assert Objective(regularized({"base": part(mse, "mse")}, l1=0.0, l2=0.5)).columns == ("loss/mse", "loss/l2")


def test_biases_go_free():
    run = build(compose("loss=regularized"))
    assert [p.dim() for p in run.player.objective.parameters] == [2, 2, 2]


def test_evaluation_counts_a_penalty_once():
    run = build(compose("dataset=diabetes", "loss=regularized", "loss.l1=0", "loss.l2=0.1"))
    plain = build(compose("dataset=diabetes", "loss=mse"))
    penalty = reduce(run.player.objective.penalties()).item()
    assert run.evaluate(run.data.val)["loss"] == pytest.approx(plain.evaluate(plain.data.val)["loss"] + penalty)


# Robust losses


def test_a_robust_loss_sees_the_examples_losses_and_what_they_count():
    """Class weights 1 and 3, one label ignored: the worst half of the weight 5 is that of the label with 3."""
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, -100, 0])
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    inner = part(partial(cross_entropy, weight=weights), needs=("logits", "labels"))
    (term,) = Objective(robust({"base": inner}, "cvar", partial(cvar, level=0.4), ())).terms(
        {"logits": logits, "labels": labels}
    )
    losses = F.cross_entropy(logits, labels, reduction="none")
    assert term.weights.item() == pytest.approx(5)
    assert reduce([term]).item() == pytest.approx((1 * losses[3].item() + 1 * losses[1].item()) / 2)


def test_example_weights_count_in_a_robust_loss():
    pieces = robust({"base": part(mse)}, "cvar", partial(cvar, level=0.5), ())
    weight = torch.tensor([1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    (term,) = Objective(pieces).terms(FIELDS | {"weight": weight})
    assert reduce([term]).item() == pytest.approx((4 * 1 + 1 * 1) / 2)  # errors 1, 2, 0 count 1, 1, 2; the worst half


def test_group_weights_move_in_training_only():
    module = GroupDRO(num_groups=2, step_size=1.0)
    objective = Objective(robust({"base": part(mse)}, "group_dro", module, ("groups",)))
    fields = FIELDS | {"groups": torch.tensor([0, 0, 1, 1])}
    assert list(objective.modules) == [module]
    module.eval()
    before = module.group_weights.clone()
    objective.terms(fields)
    assert torch.equal(module.group_weights, before)
    module.train()
    objective.terms(fields)
    ratio = (module.group_weights[0] / module.group_weights[1]).item()
    assert ratio == pytest.approx(math.exp(2.5 - 2.0), rel=1e-6)  # the groups' losses are 5/2 and 4/2


def test_groups_are_the_classes_unless_a_column_names_them(tmp_path):
    run = build(compose("loss=group_dro"))
    assert len(run.player.objective.modules[0].group_weights) == 10
    lines = [f"{i % 7},{'abc'[i % 3]},{i % 2}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["x,g,y", *lines]))
    run = build(
        compose(
            "dataset=csv", f"dataset.path={tmp_path}/t.csv", "dataset.target=y", "dataset.group=g", "loss=group_dro"
        )
    )
    assert len(run.player.objective.modules[0].group_weights) == 3


# Accumulation


def step_of(batch_size, accumulate, *overrides):
    run = build(
        compose(
            "dataset=diabetes",
            "optim=sgd",
            f"trainer.batch_size={batch_size}",
            f"trainer.accumulate={accumulate}",
            *overrides,
        )
    )
    player: Player = run.player
    player.begin(1)
    row = player.step(next(run.batches.epoch(0)))
    return row, [p.detach().clone() for p in player.parameters]


@pytest.mark.parametrize(
    "overrides",
    [
        ("loss=regularized", "loss.l1=1e-4"),
        ("loss=sum", f"{A}=mse", f"{B}=mae", "loss.weights={a: 0.3, b: 2}"),
        ("loss=uncertainty", f"{A}=mse", f"{B}=huber"),
    ],
)
def test_accumulated_batches_are_the_large_one(overrides):
    large, wanted = step_of(96, 1, *overrides)
    row, found = step_of(32, 3, *overrides)
    torch.testing.assert_close(row, large, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


# Courses


def test_a_linear_course_by_hand():
    course = Course.of(0.0, 2.0, CourseOptions(over=0.5), run=18)  # over 9 steps
    assert [course(step) for step in (1, 2, 5, 9, 10, 18)] == [0.0, 0.25, 1.0, 2.0, 2.0, 2.0]


def test_a_cosine_course_by_hand():
    course = Course.of(2.0, 0.0, CourseOptions(over=5, shape="cosine"), run=100)
    wanted = [2.0, 1 + math.cos(math.pi / 4), 1.0, 1 - math.cos(math.pi / 4), 0.0, 0.0]
    assert [course(step) for step in (1, 2, 3, 4, 5, 50)] == pytest.approx(wanted)


def test_a_course_of_one_step_is_at_its_end():
    assert Course.of(1.0, 3.0, CourseOptions(), run=1)(1) == 3.0


def test_a_moving_loss_is_that_of_its_step():
    x, y = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
    moving = Moving(focal, {"gamma": Course(0.0, 2.0, 3)})
    for step, gamma in ((1, 0.0), (2, 1.0), (3, 2.0), (9, 2.0), (2, 1.0)):
        moving.begin(step)
        torch.testing.assert_close(moving(x, y), focal(x, y, gamma=gamma))


# From the command line


def columns(run):
    with (run / "steps.csv").open() as file:
        return list(csv.DictReader(file))


def scalars(run):
    board = EventAccumulator(str(run), size_guidance={"tensors": 0, "scalars": 0}).Reload()
    return {tag: board.Tensors(tag) for tag in board.Tags()["tensors"] if not tag.startswith("_hparams_")}


def test_every_term_weight_and_course_is_recorded(cli):
    words = ["loss=sum", "loss.normalize=true", f"{A}=cross_entropy", f"{B}=focal"]
    course = "loss.terms.b.gamma={from: 0, to: 2, over: 0.5}"
    code, _, err = cli("train", *words, course, "trainer.epochs=2", "hydra.run.dir=run")
    assert (code, err) == (0, "")
    rows = columns(Path("run"))
    assert list(rows[0])[7:] == ["loss/a", "loss/b", "weight/a", "weight/b", "loss.terms.b.gamma"]
    first, last = rows[0], rows[-1]
    assert first["loss/a"] == first["loss/b"]  # gamma is 0: focal is cross-entropy
    assert (float(first["loss.terms.b.gamma"]), float(last["loss.terms.b.gamma"])) == (0.0, 2.0)
    assert float(last["loss"]) == pytest.approx(float(last["loss/a"]) + float(last["loss/b"]))
    assert float(last["weight/a"]) * float(last["loss/a"]) == pytest.approx(1)
    shown = json.loads((Path("run") / "hparams.json").read_text())["hparams"]
    assert (shown["loss.terms.a"], shown["loss.terms.b.gamma.to"]) == ("cross_entropy", 2)
    found = scalars(Path("run"))
    assert {"train/loss/a", "train/loss/b", "train/weight/a", "train/loss.terms.b.gamma"} <= found.keys()
    shown = [event.tensor_proto.float_val[0] for event in found["train/loss/b"]]
    assert shown == pytest.approx([float(row["loss/b"]) for row in rows])


def test_a_damaged_event_file_is_rebuilt_with_every_term(cli):
    cli("train", "loss=regularized", "trainer.epochs=1", "hydra.run.dir=run")
    (events,) = Path("run").glob("events.*")
    before = scalars(Path("run")).keys()
    events.write_bytes(events.read_bytes()[:200])
    assert cli("repair", "run")[0] == 0
    assert scalars(Path("run")).keys() == before


def test_one_loss_has_no_columns_of_its_own(cli):
    cli("train", "loss=cvar", "trainer.steps=2", "hydra.run.dir=run")
    assert list(columns(Path("run"))[0])[-1] == "skipped"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("loss=sum", "loss 'sum' has no terms; add each as +loss@loss.terms.NAME=LOSS"),
        (f"loss=sum {A}=mse", "loss 'mse' needs (pred, target); dataset 'digits' gives"),
        (f"loss=sum {A}=focal loss.weights={{c:1}}", "loss.weights: there is no term 'c'"),
        (f"loss=sum {A}=focal loss.terms.a.gama=1", "no key 'loss.terms.a.gama'; did you mean 'loss.terms.a.gamma'?"),
        (f"loss=sum {A}=focal loss.terms.a.gamma=-1", "loss.terms.a.gamma must be at least 0, got -1"),
        (f"loss=sum {A}=cross_entropy {B}=focal trainer.accumulate=2", "trainer.accumulate takes one weighted loss"),
        ("loss=cvar loss@loss.terms.base=cvar", "goes around one plain loss"),
        ("loss=cvar trainer.accumulate=2", "loss 'cvar' gives a scalar, and trainer.accumulate needs a value per"),
        (f"loss=sum {A}=focal loss.normalize=true trainer.reduction=sum", "set trainer.reduction=mean"),
        (
            f"loss=sum {A}=bce loss.normalize=true trainer.accumulate=2 dataset=breast_cancer",
            "set trainer.accumulate=1",
        ),
        ("loss=multi_margin loss.p={from:1,to:2}", "loss.p cannot follow a course: only a number can"),
        ("loss=cvar loss.weights=1", "no key 'loss.weights'"),
        ("loss=cvar loss.level=0", "loss.level must be in (0, 1], got 0"),
        ("loss=group_dro dataset=diabetes", "set dataset.group=COLUMN"),
        ("loss=focal loss.gamma={from:0,over:0.5}", "loss.gamma must say where it goes"),
        ("loss=focal loss.gamma={from:0,to:-2}", "loss.gamma.to must be at least 0, got -2"),
        ("loss=focal loss.gamma={from:0,to:2,ovr:1}", "has no option 'ovr'; did you mean 'over'?"),
        ("loss=focal loss.gamma={from:0,to:2,over:0}", "loss.gamma.over must be greater than 0, got 0"),
        ("loss=focal loss.gamma={from:0,to:2,over:1.5}", "or whole steps, got 1.5"),
        ("loss=focal loss.gamma={from:0,too:2}", "has no option 'too'; did you mean 'to'?"),
        ("loss=cvar loss@loss.terms.bas=focal", "did you mean 'loss@loss.terms.base'?"),
        ("loss=sum loss@loss.terms.a=focal", "+loss@loss.terms.a=NAME adds a term"),
        ("loss=cvar loss@loss.terms.base=mse", "try: loss@loss.terms.base=cross_entropy"),
        ("experiment=sum loss=focal", "are those of loss=sum or loss=uncertainty"),
        ("dataset=diabetes loss=multi_quantile loss.quantiles=[]", "loss.quantiles is empty"),
        ("dataset.augment={shift:1,rotat:10}", "dataset.augment is given a key that it does not have (has: shift,"),
        ("loss=cross_entropy loss.ignore_index={from:0,to:2}", "loss.ignore_index cannot follow a course"),
        ("dataset=diabetes loss=adaptive_robust loss.shape={from:0,to:2}", "loss.shape cannot follow a course"),
        ("loss=zero_one", "loss 'zero_one' cannot train a model"),
        (
            "dataset=synthetic_regression dataset.noise=counts loss=poisson_nll dataset.outliers=0.1",
            "leave one of them",
        ),
        ("loss=cross_entropy model.output=softmax", "leave model.output out"),
        ("model.output=tanh", "model.output must be one of logits, sigmoid, softmax, log_softmax"),
    ],
)
def test_one_line_says_what_is_wrong(cli, words, message):
    code, _, err = cli("train", *words.split())
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
