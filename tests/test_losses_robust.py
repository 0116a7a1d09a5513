"""The robust means against hand-made numbers, a convex solver and loops; penalties and learned weights by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from loss_checks import equal, tensor
from scipy.optimize import minimize, minimize_scalar
from torch.func import functional_call, stack_module_state, vmap

from lossbench.losses import GroupDRO, chi2_dro, cvar
from lossbench.losses.combined import Uncertainty, l1, l2

VALUES = [4.0, 1.0, 3.0, 2.0, 0.0]
WEIGHTS = [1.0, 2.0, 0.0, 1.0, 1.0]
MEANS = [cvar, chi2_dro]

LOG2 = math.log(2)

approx = pytest.approx


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def values(g):  # (9,), two of them equal
    drawn = 3 * torch.randn(9, generator=g, dtype=torch.float64)
    drawn[4] = drawn[1]
    return drawn


@pytest.fixture
def weights(g):  # (9,), two of them 0
    drawn = torch.rand(9, generator=g, dtype=torch.float64) + 0.1
    drawn[2] = drawn[7] = 0
    return drawn


def gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x), x)[0]


# Conditional value at risk


@pytest.mark.parametrize(
    ("level", "weights", "expected"),
    [
        (0.4, None, (4 + 3) / 2),
        (0.5, None, (4 + 3 + 0.5 * 2) / 2.5),  # half of the third
        (0.1, None, 4),  # half of the first
        (1.0, None, 2),
        (0.4, WEIGHTS, (4 + 2) / 2),  # 3 is left out
        (0.5, WEIGHTS, (4 + 2 + 0.5 * 1) / 2.5),  # a quarter of the one that counts twice
        (1.0, WEIGHTS, (4 + 2 * 1 + 2 + 0) / 5),
    ],
)
def test_cvar_by_hand(level, weights, expected):
    equal(cvar(tensor(VALUES), weights=tensor(weights), level=level), expected)


def test_cvar_gives_each_example_its_part_of_the_gradient():
    equal(gradient(lambda x: cvar(x, level=0.5), tensor(VALUES)), [0.4, 0, 0.4, 0.2, 0])


@pytest.mark.parametrize("level", [0.05, 0.3, 1 / 3, 0.77, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cvar_is_the_minimum_of_rockafellar_and_uryasev(values, weights, level, weighted):
    """min over c of c + E max(0, loss - c) / level, which is at one of the losses."""
    share = weights / weights.sum() if weighted else torch.full((9,), 1 / 9, dtype=torch.float64)
    at = [c + (share * (values - c).clamp_min(0)).sum() / level for c in values]
    equal(cvar(values, weights=weights if weighted else None, level=level), min(at))


# Chi-square


@pytest.mark.parametrize(
    ("radius", "expected"),
    [(0.0, 1), (1 / 32, 1.25), (1 / 8, 1.5), (1 / 2, 2), (7.0, 2)],
)
def test_chi2_of_two_by_hand(radius, expected):
    """q = (1/2 - d, 1/2 + d) is at 2 d^2: 0 and 2 give 1 + 2 sqrt(radius / 2), up to 2 on the worst alone."""
    equal(chi2_dro(tensor([0.0, 2.0]), radius=radius), expected)
    equal(chi2_dro(tensor([7.0, 9.0]), weights=tensor([3.0, 3.0]), radius=radius), 7 + expected)
    equal(chi2_dro(tensor([-3.0, -1.0, 0.0]), weights=tensor([1.0, 1.0, 0.0]), radius=radius), expected - 3)


def test_chi2_is_mean_and_deviation_while_the_radius_is_small(values):
    radius = 0.01
    equal(chi2_dro(values, radius=radius), values.mean() + math.sqrt(2 * radius) * values.std(correction=0))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [10, 14, 1000])
def test_chi2_at_radius_0_is_the_plain_mean_in_float32(n, weighted):
    """Though the shares may add up to a little more than 1."""
    values = torch.arange(float(n))
    weights = torch.where(values > 0, 1.0, 1e-9) if weighted else None
    mean = n / 2 if weighted else (n - 1) / 2
    assert chi2_dro(values, weights=weights, radius=0.0).item() == approx(mean, rel=5e-7)


@pytest.mark.parametrize("radius", [1e-4, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("ties", [2, 3, 5])
def test_chi2_where_the_worst_example_hardly_counts(radius, ties):
    """In float32 its share is lost in the sums with those behind it."""
    values, weights = [7.0] + ties * [6.0] + [3.0, 2.0, 1.0, 0.0], [1e-9] + ties * [0.1] + [1.0, 1.0, 1.0, 1e-4]
    exact = chi2_dro(tensor(values), weights=tensor(weights), radius=radius).item()
    found = chi2_dro(torch.tensor(values), weights=torch.tensor(weights), radius=radius).item()
    assert found == approx(exact, rel=1e-6)


def primal(values, share, radius):
    """sup of sum q loss by a solver for smooth problems, from the middle and from near the worst example."""
    v, p = values.numpy(), share.numpy()
    worst = 0.5 * p + 0.5 * (np.arange(len(v)) == v.argmax())
    inside = {"type": "ineq", "fun": lambda q: radius - 0.5 * (p * (q / p - 1) ** 2).sum(), "jac": lambda q: 1 - q / p}
    whole = {"type": "eq", "fun": lambda q: q.sum() - 1, "jac": np.ones_like}
    found = [
        minimize(lambda q: -(q @ v), start, jac=lambda q: -v, bounds=[(0, 1)] * len(v), constraints=[inside, whole],
                 method="SLSQP", options={"ftol": 1e-14, "maxiter": 1000})
        for start in (p, worst)
    ]  # fmt: skip
    return max(-r.fun for r in found)


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_chi2_is_what_a_convex_solver_finds(values, weights, radius, weighted):
    kept = weights > 0 if weighted else torch.ones(9, dtype=torch.bool)
    share = weights[kept] / weights.sum() if weighted else torch.full((9,), 1 / 9, dtype=torch.float64)
    found = chi2_dro(values, weights=weights if weighted else None, radius=radius)
    assert found.item() == approx(primal(values[kept], share, radius), abs=1e-6)


def test_chi2_is_the_best_of_a_fine_grid(g):
    v, step, radius = torch.randn(3, generator=g, dtype=torch.float64), 0.005, 0.4
    grid = np.arange(0, 1 + step / 2, step)
    points = np.array([(a, b, 1 - a - b) for a, b in itertools.product(grid, grid) if a + b <= 1])
    inside = points[1.5 * ((points - 1 / 3) ** 2).sum(1) <= radius]  # sum p (q / p - 1)^2 / 2 with p = 1/3
    best = (inside @ v.numpy()).max()
    assert best <= chi2_dro(v, radius=radius).item() <= best + 2 * step * (v.max() - v.min()).item()


@pytest.mark.parametrize("kind", ["normal", "ties", "heavy", "far"])
@pytest.mark.parametrize("radius", [1e-3, 0.2, 1.0, 20.0])
def test_chi2_is_its_dual(g, kind, radius):
    """inf over eta of sqrt((1 + 2 radius) E max(0, loss - eta)^2) + eta, by a search along the line."""
    v = torch.randn(200, generator=g, dtype=torch.float64)
    v = {"normal": v, "ties": v.round(), "heavy": (3 * v).exp(), "far": torch.where(v > 2, 1e4, 1e-3 * v)}[kind]
    scale = (v.max() - v.min()).item()

    def dual(eta):
        return math.sqrt((1 + 2 * radius) * (v - eta).clamp_min(0).square().mean().item()) + eta

    low = (v.mean() - v.std() / math.sqrt(2 * radius)).item() - scale
    found = minimize_scalar(dual, bounds=(low, v.max().item()), method="bounded", options={"xatol": 1e-10 * scale})
    expected = min(found.fun, v.max().item())
    assert chi2_dro(v, radius=radius).item() == approx(expected, abs=1e-9 * scale)
    assert chi2_dro(v.float(), radius=radius).item() == approx(expected, abs=2e-5 * scale)


@pytest.mark.parametrize("radius", [0.1, 1.0, 100.0])
def test_chi2_gradient_is_the_worst_distribution(values, weights, radius):
    """It lies in the ball, on its edge unless one example has it all, and gives the value."""
    for w in (torch.ones(9, dtype=torch.float64), weights):
        q, share = gradient(lambda x, w=w: chi2_dro(x, weights=w, radius=radius), values), w / w.sum()
        distance = (share * (q / share - 1).square()).nan_to_num().sum().item() / 2
        equal(q.sum(), 1)
        assert (q >= 0).all()
        assert distance == approx(radius, rel=1e-9) or q.max().item() == approx(1)
        assert distance <= radius * (1 + 1e-9)
        equal((q * values).sum(), chi2_dro(values, weights=w, radius=radius))


def test_chi2_of_tied_worst_examples_shares_between_them():
    equal(gradient(lambda x: chi2_dro(x, radius=100.0), tensor([1.0, 3.0, 3.0, 0.0])), [0, 0.5, 0.5, 0])
    equal(gradient(lambda x: chi2_dro(x, radius=1.0), tensor([3.0, 3.0, 3.0])), [1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("size", [1e-30, 1e-4, 1e4, 1e17])
def test_chi2_knows_no_scale(values, size):
    found = chi2_dro((size * values).float(), radius=0.7) / size
    assert found.item() == approx(chi2_dro(values, radius=0.7).item(), rel=1e-5)


# Both


@pytest.mark.parametrize("function", MEANS)
def test_from_the_plain_mean_to_the_worst(function, values, weights):
    name, plain, worst = ("level", 1.0, 1e-3) if function is cvar else ("radius", 0.0, 1e3)
    values = values - 100  # below any number that could stand for an example that is left out
    mean = (weights * values).sum() / weights.sum()
    equal(function(values, weights=weights, **{name: plain}), mean)
    equal(function(values, weights=weights, **{name: worst}), values[weights > 0].max())
    assert mean < function(values, weights=weights) <= values[weights > 0].max()


@pytest.mark.parametrize("function", MEANS)
@pytest.mark.parametrize("hidden", [1e30, -1e30, math.nan, math.inf])
def test_weight_0_is_left_out_whatever_it_holds(function, values, weights, hidden):
    kept = weights > 0
    filled = values.where(kept, hidden)
    equal(function(filled, weights=weights), function(values[kept], weights=weights[kept]))
    found = gradient(lambda x: function(x, weights=weights), filled)
    equal(found[kept], gradient(lambda x: function(x, weights=weights[kept]), values[kept]))
    equal(found[~kept], [0, 0])


@pytest.mark.parametrize("function", MEANS)
def test_a_whole_weight_is_so_many_examples(function, values):
    often = torch.tensor([1, 3, 0, 2, 1, 1, 4, 1, 2])
    equal(function(values, weights=often.double()), function(values.repeat_interleave(often)))
    equal(function(values, weights=7 * often.double()), function(values.repeat_interleave(often)))


@pytest.mark.parametrize("function", MEANS)
def test_order_does_not_matter(function, values, weights):
    order = torch.tensor([3, 8, 0, 5, 7, 1, 4, 2, 6])
    equal(function(values[order], weights=weights[order]), function(values, weights=weights))


@pytest.mark.parametrize("function", MEANS)
def test_a_robust_mean_is_differentiable_stackable_and_exact_in_halves(function, values, weights):
    for w in (None, weights):
        assert torch.autograd.gradcheck(lambda x, w=w: function(x, weights=w), values.clone().requires_grad_())
    stacked = vmap(lambda x, w: function(x, weights=w))(torch.stack([values, -values]), torch.stack([weights, weights]))
    equal(stacked, [function(values, weights=weights), function(-values, weights=weights)])
    half = values.bfloat16()
    assert function(half).item() == approx(function(half.float()).item(), rel=1e-6)


@pytest.mark.parametrize("function", MEANS)
def test_what_is_not_finite_is_seen(function):
    assert function(tensor([1.0, math.nan, 0.0])).isnan()
    assert not function(tensor([1.0, math.inf, 0.0])).isfinite()
    assert function(tensor([1.0, 2.0]), weights=torch.zeros(2)).isnan()  # as a mean of nothing


# Groups


def test_group_dro_by_hand():
    """Means 3, 1 and, for the group that is absent, 0; with eta = log 2, q is in proportion to 8, 2 and 1."""
    loss = GroupDRO(step_size=LOG2, num_groups=3)
    values, groups = tensor([4.0, 2.0, 1.0]), torch.tensor([0, 0, 1])
    equal(loss(values, groups), (8 * 3 + 2 * 1) / 11)
    assert loss.group_weights.tolist() == approx([8 / 11, 2 / 11, 1 / 11])
    assert loss(values, groups).item() == approx((64 * 3 + 4 * 1) / 69)
    assert loss.group_weights.tolist() == approx([64 / 69, 4 / 69, 1 / 69])


def test_group_dro_rests_in_evaluation():
    loss = GroupDRO(step_size=1.0, num_groups=2).eval()
    equal(loss(tensor([4.0, 2.0, 1.0]), torch.tensor([0, 0, 1])), 3 / 2 + 1 / 2)
    assert loss.group_weights.tolist() == [0.5, 0.5]


def test_group_dro_counts_by_weight():
    """The means are (1 x 4 + 3 x 2) / 4 and 1; the example of weight 0 is not there."""
    loss = GroupDRO(num_groups=2).eval()
    values, groups, weights = tensor([4.0, 2.0, 1.0, math.nan]), torch.tensor([0, 0, 1, 1]), tensor([1.0, 3, 5, 0])
    equal(loss(values, groups, weights=weights), 2.5 / 2 + 1 / 2)
    equal(gradient(lambda x: loss(x, groups, weights=weights), values), [1 / 8, 3 / 8, 1 / 2, 0])


def test_group_dro_is_the_papers_loop(g):
    loss, q = GroupDRO(step_size=0.3, num_groups=4), np.full(4, 0.25)
    for _ in range(20):
        values = torch.rand(6, generator=g, dtype=torch.float64) * 5
        groups = torch.randint(4, (6,), generator=g)
        found = loss(values, groups)
        means = np.array([values[groups == k].mean().item() if (groups == k).any() else 0.0 for k in range(4)])
        q = q * np.exp(0.3 * means)
        q = q / q.sum()
        assert found.item() == approx(q @ means, rel=1e-5)
        assert loss.group_weights.tolist() == approx(q.tolist(), rel=1e-5)


def test_group_dro_turns_to_the_worst_group_and_does_not_overflow():
    loss, groups = GroupDRO(step_size=1.0, num_groups=3), torch.tensor([0, 1, 2])
    values = torch.tensor([1e4, 2e4, 0.0], requires_grad=True)
    found = loss(values, groups)
    equal(found, 2e4)
    equal(torch.autograd.grad(found, values)[0], [0, 1, 0])
    assert loss.group_weights.tolist() == [0, 1, 0]


def test_group_dro_goes_back_to_a_group_however_far_its_weight_had_fallen():
    """After -130 and -260 in logarithm below the first, 400 steps of +1 and +2."""
    loss, groups = GroupDRO(step_size=1.0, num_groups=3), torch.tensor([0, 1, 2])
    for _ in range(130):
        loss(torch.tensor([2.0, 1.0, 0.0]), groups)
    assert loss.group_weights.tolist() == [1, 0, 0]
    for _ in range(400):
        loss(torch.tensor([0.0, 1.0, 2.0]), groups)
    assert loss.group_weights.tolist() == [0, 0, 1]
    assert (loss.log_weights - loss.log_weights[2]).tolist() == approx([-540, -270, 0])


def test_group_dro_takes_several_batches_before_it_goes_back():
    """As under gradient accumulation: each batch keeps the weights that it had."""
    loss, groups = GroupDRO(step_size=LOG2, num_groups=2), torch.tensor([0, 1])
    x = tensor([1.0, 0.0]).requires_grad_()
    total = loss(x, groups) + loss(x, groups)
    assert torch.autograd.grad(total, x)[0].tolist() == approx([2 / 3 + 4 / 5, 1 / 3 + 1 / 5])


def test_group_dro_keeps_its_weights_with_the_model_and_in_a_stack():
    loss, groups = GroupDRO(step_size=1.0, num_groups=2), torch.tensor([0, 1, 0])
    loss(tensor([1.0, 2.0, 4.0]), groups)
    again = GroupDRO(num_groups=2)
    again.load_state_dict(loss.state_dict())
    assert again.group_weights.tolist() == loss.group_weights.tolist() != [0.5, 0.5]

    alone = [GroupDRO(num_groups=2) for _ in range(2)]
    _, buffers = stack_module_state(alone)
    values = torch.tensor([[1.0, 2.0, 3.0], [5.0, 0.0, 1.0]])
    stacked = vmap(lambda b, v: functional_call(alone[0], b, (v, groups)))(buffers, values)
    equal(stacked, [module(v, groups) for module, v in zip(alone, values, strict=True)])
    equal(buffers["log_weights"], torch.stack([module.log_weights for module in alone]))


def test_group_dro_is_differentiable_with_its_weights_held():
    loss, groups = GroupDRO(num_groups=2).eval(), torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda x: loss(x.square(), groups), tensor([1.0, 2.0, 3.0]).requires_grad_())
    assert torch.autograd.gradgradcheck(lambda x: loss(x.square(), groups), tensor([1.0, 2.0, 3.0]).requires_grad_())


# Penalties and learned weights


def test_penalties_by_hand():
    weights = [tensor([[3.0, -4.0]]).requires_grad_(), tensor([0.0, 0.0]).requires_grad_()]
    for penalty, value, slopes in [
        (l1(weights), 7, [[1, -1]]),
        (l2(weights), 25, [[6, -8]]),
        (l2(weights, squared=False), 5, [[0.6, -0.8]]),  # of a tensor of zeros the slope is 0
    ]:
        equal(penalty, value)
        found = torch.autograd.grad(penalty, weights)
        equal(found[0], slopes)
        equal(found[1], [0, 0])
    both = [tensor([3.0, 4.0]), tensor([12.0, 5.0])]
    equal(l2(both, squared=False), 5 + 13)


@pytest.mark.parametrize("penalty", [l1, l2, lambda weights: l2(weights, squared=False)])
def test_a_penalty_on_nothing_says_so(penalty):
    with pytest.raises(ValueError, match="no weights to penalise"):
        penalty([])


def test_uncertainty_by_hand():
    """sigma^2 = 1, then 4: L / 2, then L / 8 + log 2."""
    module, losses = Uncertainty(2), torch.tensor([3.0, 8.0])
    coefficients, penalty = module()
    assert coefficients.tolist() == [0.5, 0.5]
    assert penalty.item() == 0
    with torch.no_grad():
        module.log_variances.copy_(torch.tensor([0.0, math.log(4)]))
    coefficients, penalty = module()
    assert coefficients.tolist() == approx([1 / 2, 1 / 8])
    assert penalty.item() == approx(LOG2)
    assert (coefficients @ losses + penalty).item() == approx(1.5 + 1 + LOG2)


def test_uncertainty_settles_where_the_variance_is_the_loss():
    module, losses = Uncertainty(2), torch.tensor([0.2, 5.0])
    with torch.no_grad():
        module.log_variances.copy_(losses.log())
    coefficients, penalty = module()
    (slopes,) = torch.autograd.grad(coefficients @ losses + penalty, [module.log_variances])
    assert slopes.tolist() == approx([0, 0], abs=1e-6)


def test_uncertainty_does_not_overflow():
    module = Uncertainty(1)
    with torch.no_grad():
        module.log_variances.fill_(-1e4)
    coefficients, penalty = module()
    (coefficients.sum() + penalty).backward()
    assert coefficients.isfinite().all()
    assert module.log_variances.grad.isfinite().all()
