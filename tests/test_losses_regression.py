"""The regression losses against numbers derived by hand, torch, scikit-learn and SciPy, and their limits."""

import inspect
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from loss_checks import equal, mean, same_with_gradient, tensor
from scipy.integrate import quad
from scipy.special import k1
from sklearn.linear_model import SGDRegressor
from sklearn.metrics import mean_pinball_loss
from torch.func import functional_call, grad, stack_module_state, vmap

from lossbench.losses import (
    AdaptiveRobust,
    epsilon_insensitive,
    gaussian_nll,
    huber,
    log_cosh,
    mae,
    mse,
    mse_mae,
    multi_quantile,
    poisson_nll,
    quantile,
    smooth_l1,
)
from lossbench.losses.adaptive import adaptive_robust, log_partition
from lossbench.losses.shape import exp_linear

ERRORS = tensor([0.5, -2.0, 0.0])  # pred - target
TARGET = tensor([1.0, -3.0, 7.0])
ZERO = tensor([0.0])

of_error = pytest.mark.parametrize(
    "loss",
    [
        smooth_l1,
        log_cosh,
        mse_mae,
        epsilon_insensitive,
        partial(epsilon_insensitive, squared=True),
        partial(quantile, quantile=0.3),
        partial(adaptive_robust, shape=0.5),
        partial(adaptive_robust, shape=-1.0, scale=0.3),
        AdaptiveRobust(learn=False, shape=0.0),
    ],
)
smooth = pytest.mark.parametrize(
    "loss",
    [
        log_cosh,
        mse,
        *(partial(adaptive_robust, shape=a, scale=0.7) for a in (2.0, 1.999, 1.0, 1e-3, 0.0, -2.0, -math.inf)),
        AdaptiveRobust().double(),
    ],
)


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pred(g):  # (40,)
    return 2 * torch.randn(40, generator=g, dtype=torch.float64)


@pytest.fixture
def target(g):  # (40,)
    return torch.randn(40, generator=g, dtype=torch.float64)


def slope(loss, *at):
    """The gradient of the sum by the first argument."""
    return grad(lambda x: loss(x, *at[1:]).sum())(at[0])


def error_of(loss):
    """As a function of the error."""
    return lambda e: loss(e, torch.zeros_like(e))


# Numbers by hand


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        (smooth_l1, [0.125, 1.5, 0]),  # 0.5^2 / 2; 2 - 1/2
        (partial(smooth_l1, beta=4.0), [0.03125, 0.5, 0]),  # both below beta: e^2 / 8
        (partial(smooth_l1, beta=0.25), [0.375, 1.875, 0]),  # both above: |e| - 1/8
        (partial(smooth_l1, beta=0.0), [0.5, 2, 0]),
        (mse_mae, [0.7 * 0.25 + 0.3 * 0.5, 0.7 * 4 + 0.3 * 2, 0]),
        (partial(mse_mae, mse_weight=2.0, mae_weight=1.0), [1, 10, 0]),
        (epsilon_insensitive, [0.4, 1.9, 0]),
        (partial(epsilon_insensitive, epsilon=1.0), [0, 1, 0]),
        (partial(epsilon_insensitive, epsilon=1.0, squared=True), [0, 1, 0]),
        (partial(epsilon_insensitive, squared=True), [0.16, 3.61, 0]),
        # the first prediction is too high, the second too low
        (partial(quantile, quantile=0.9), [0.05, 1.8, 0]),
        (partial(quantile, quantile=0.25), [0.375, 0.5, 0]),
        # s = e^2 / c^2 = 1/4, 4, 0
        (partial(adaptive_robust, shape=2.0), [0.125, 2, 0]),
        (adaptive_robust, [math.sqrt(1.25) - 1, math.sqrt(5) - 1, 0]),
        (partial(adaptive_robust, shape=0.0), [math.log(1.125), math.log(3), 0]),
        (partial(adaptive_robust, shape=-2.0), [2 * 0.25 / 4.25, 1, 0]),
        (partial(adaptive_robust, shape=-math.inf), [1 - math.exp(-0.125), 1 - math.exp(-2), 0]),
        (partial(adaptive_robust, shape=0.0, scale=0.5), [math.log(1.5), math.log(9), 0]),  # s = 1, 16, 0
        (partial(adaptive_robust, shape=1.0, scale=2.0), [math.sqrt(1.0625) - 1, math.sqrt(2) - 1, 0]),
        # b = 1.5, a = 0.5: 3 ((s / 1.5 + 1)^(1/4) - 1)
        (partial(adaptive_robust, shape=0.5), [3 * ((7 / 6) ** 0.25 - 1), 3 * ((11 / 3) ** 0.25 - 1), 0]),
        (partial(adaptive_robust, shape=4.0), [(0.125 + 1) ** 2 / 2 - 0.5, 4, 0]),  # b = 2: ((s / 2 + 1)^2 - 1) / 2
    ],
)
def test_of_the_error_by_hand(loss, values):
    equal(loss(TARGET + ERRORS, TARGET), values)


def test_log_cosh_by_hand():
    """At log k it is log((k + 1/k) / 2)."""
    equal(log_cosh(tensor([math.log(2), -math.log(4)]), tensor([0.0, 0.0])), [math.log(1.25), math.log(2.125)])


def test_multi_quantile_by_hand():
    """Predictions 0, 1, 2 of 1 at 0.1, 0.5, 0.9: 0.1 x 1, 0 and (1 - 0.9) x 1; of 3: 0.3, 1, 0.9."""
    values = multi_quantile(tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), tensor([1.0, 3.0]))
    equal(values, [0.2 / 3, 2.2 / 3])


def test_poisson_nll_by_hand():
    """exp(x) - k x at rate 2; Stirling's 3 log 3 - 3 + log(6 pi) / 2 counts from k = 2 on."""
    log_rate, counts = tensor(3 * [math.log(2)]), tensor([0.0, 1.0, 3.0])
    plain = [2.0, 2 - math.log(2), 2 - 3 * math.log(2)]
    equal(poisson_nll(log_rate, counts), plain)
    plain[2] += 3 * math.log(3) - 3 + math.log(6 * math.pi) / 2
    equal(poisson_nll(log_rate, counts, full=True), plain)


def test_gaussian_nll_by_hand():
    """Error 2 at variance 4: (log 4 + 1) / 2; error 3 at variance 1: 9/2; met at variance 0, taken as 1e-6."""
    given = tensor([2.0, -3.0, 1.0]), tensor([0.0, 0.0, 1.0]), tensor([4.0, 1.0, 0.0])
    values = [(math.log(4) + 1) / 2, 4.5, math.log(1e-6) / 2]
    equal(gaussian_nll(*given), values)
    equal(gaussian_nll(*given, full=True), [value + math.log(2 * math.pi) / 2 for value in values])


@of_error
def test_several_outputs_give_their_mean(loss):
    rows = torch.stack([ERRORS, 2 * ERRORS, -ERRORS, 0 * ERRORS])
    equal(loss(rows, torch.ones_like(rows)), [loss(row, torch.ones_like(row)).mean() for row in rows])


def test_several_outputs_of_a_likelihood_give_their_mean(g):
    rows = [torch.rand(4, 3, generator=g, dtype=torch.float64) for _ in range(3)]
    for loss, given in [(gaussian_nll, rows), (poisson_nll, rows[:2])]:
        equal(loss(*given), [loss(*row).mean() for row in zip(*given, strict=True)])


# torch, scikit-learn


@pytest.mark.parametrize("beta", [1.0, 0.3, 0.0])
def test_smooth_l1_is_torchs_with_its_mean(pred, target, beta):
    same_with_gradient(
        lambda x: mean(smooth_l1(x, target, beta=beta)), lambda x: F.smooth_l1_loss(x, target, beta=beta), pred
    )


@pytest.mark.parametrize("full", [False, True])
def test_poisson_nll_is_torchs_with_its_mean_below_30(pred, full):
    counts = torch.arange(40.0, dtype=torch.float64) // 3
    same_with_gradient(
        lambda x: mean(poisson_nll(x, counts, full=full)), lambda x: F.poisson_nll_loss(x, counts, full=full), pred
    )
    far = tensor([-1e4, -50.0, 29.9, 30.0])
    same_with_gradient(
        lambda x: mean(poisson_nll(x, counts[-4:], full=full)),
        lambda x: F.poisson_nll_loss(x, counts[-4:], full=full),
        far,
    )


@pytest.mark.parametrize("full", [False, True])
def test_gaussian_nll_is_torchs_with_its_mean(pred, target, full):
    """By the prediction and by the variance, also where the variance is below eps."""
    variance = target.square()
    variance[::5] = 0
    variance[1::5] *= 1e-6
    ours, theirs = partial(gaussian_nll, full=full, eps=1e-3), partial(F.gaussian_nll_loss, full=full, eps=1e-3)
    same_with_gradient(lambda x: mean(ours(x, target, variance)), lambda x: theirs(x, target, variance), pred)
    same_with_gradient(lambda v: mean(ours(pred, target, v)), lambda v: theirs(pred, target, v), variance)


@pytest.mark.parametrize("level", [0.01, 0.5, 0.8])
def test_quantile_is_scikit_learns(pred, target, level):
    expected = mean_pinball_loss(target.numpy(), pred.numpy(), alpha=level)
    equal(mean(quantile(pred, target, quantile=level)), expected)
    equal(mean(multi_quantile(pred[:, None], target, quantiles=[level])), expected)


@pytest.mark.parametrize("squared", [False, True])
def test_the_gradient_of_epsilon_insensitive_is_scikit_learns(pred, target, squared):
    """One step of plain SGD at rate 1 on the constant feature 1, from weight 0, is minus the gradient at 0."""
    name = "squared_epsilon_insensitive" if squared else "epsilon_insensitive"
    options = {"penalty": None, "fit_intercept": False, "learning_rate": "constant", "eta0": 1.0}
    steps = [
        SGDRegressor(loss=name, epsilon=0.5, **options).partial_fit([[1.0]], [-error]).coef_[0]
        for error in (pred - target).tolist()
    ]
    equal(slope(partial(epsilon_insensitive, epsilon=0.5, squared=squared), pred, target), [-s for s in steps])


# Limits and relations


@pytest.mark.parametrize("d", [0.1, 1.0, 3.0])
def test_huber_is_delta_times_smooth_l1(pred, target, d):
    same_with_gradient(
        lambda x: mean(huber(x, target, delta=d)), lambda x: d * mean(smooth_l1(x, target, beta=d)), pred
    )


def test_a_larger_delta_is_closer_to_half_the_squared_error(pred, target):
    gaps = [mean(mse(pred, target) / 2 - huber(pred, target, delta=d)).item() for d in (0.1, 0.5, 1.0, 2.0, 100.0)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] == 0


def test_pinball_at_one_half_is_half_the_absolute_error(pred, target):
    same_with_gradient(lambda x: mean(quantile(x, target)), lambda x: mean(mae(x, target)) / 2, pred)


def test_the_minimum_of_pinball_is_the_quantile():
    """Of 0, ..., 99 the value 29.5 has 30 % below it: the slopes of both sides cancel there, and only near there."""
    values = torch.arange(100.0, dtype=torch.float64)
    for at, sign in [(28.5, -1), (29.5, 0), (30.5, 1)]:
        found = slope(partial(quantile, quantile=0.3), torch.full_like(values, at), values).sum()
        assert found.round(decimals=9).sign() == sign


def test_multi_quantile_is_the_mean_of_its_quantiles(g, target):
    levels, preds = (0.05, 0.5, 0.6, 0.99), torch.randn(40, 4, generator=g, dtype=torch.float64)
    same_with_gradient(
        lambda x: mean(multi_quantile(x, target, quantiles=levels)),
        lambda x: mean(
            sum(quantile(column, target, quantile=q) for column, q in zip(x.unbind(1), levels, strict=True)) / 4
        ),
        preds,
    )


def test_multi_quantile_refuses_another_number_of_outputs(target):
    with pytest.raises(RuntimeError, match="size of tensor"):
        multi_quantile(torch.zeros(40, 2), target)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (partial(epsilon_insensitive, epsilon=0.0), mae),
        (partial(epsilon_insensitive, epsilon=0.0, squared=True), mse),
        (partial(smooth_l1, beta=0.0), mae),
        (partial(mse_mae, mse_weight=1.0, mae_weight=0.0), mse),
        (partial(mse_mae, mse_weight=0.0, mae_weight=1.0), mae),
        (log_cosh, lambda p, t: p - t + F.softplus(-2 * (p - t)) - math.log(2)),
        (lambda p, t: gaussian_nll(p, t, torch.ones_like(t)), lambda p, t: mse(p, t) / 2),
    ],
)
def test_special_cases(pred, target, ours, theirs):
    same_with_gradient(lambda x: mean(ours(x, target)), lambda x: mean(theirs(x, target)), pred)


def test_log_cosh_keeps_its_digits_in_float32():
    """Near 0 it is e^2 / 2 - e^4 / 12, far out |e| - log 2; its slope is tanh."""
    e = torch.tensor([1e-4, -1e-3, 0.01, 0.3, -1.0, 5.0, 19.9, 20.1, 40.0])
    exact = e.double().cosh().log()
    exact[:3] = (e.double() ** 2 / 2 - e.double() ** 4 / 12)[:3]
    torch.testing.assert_close(error_of(log_cosh)(e).double(), exact, rtol=5e-7, atol=0)
    torch.testing.assert_close(slope(error_of(log_cosh), e), e.tanh(), rtol=5e-7, atol=0)


@pytest.mark.parametrize("edge", [20.0, -20.0])
def test_log_cosh_has_no_step_where_its_two_parts_meet(edge):
    e = tensor([edge * (1 - 1e-12), edge, edge * (1 + 1e-12)])
    equal(error_of(log_cosh)(e), e.abs() - math.log(2))
    equal(slope(error_of(log_cosh), e), e.sign())


@smooth
def test_smooth_ones_have_second_derivatives(loss):
    e = tensor([-30.0, -1.3, -0.02, 1e-5, 0.4, 2.0, 25.0]).requires_grad_()
    assert torch.autograd.gradcheck(error_of(loss), e)
    assert torch.autograd.gradgradcheck(error_of(loss), e)


def test_likelihoods_have_second_derivatives(pred, target):
    inputs = [pred[:6].requires_grad_(), target[:6].requires_grad_(), (target[:6].square() + 0.1).requires_grad_()]
    counts = torch.arange(6.0, dtype=torch.float64)
    for loss, given in [(gaussian_nll, inputs), (lambda x: poisson_nll(x, counts), inputs[:1])]:
        assert torch.autograd.gradcheck(loss, given)
        assert torch.autograd.gradgradcheck(loss, given)


@pytest.mark.parametrize(
    ("loss", "curvature"),
    [
        (mse, 2.0),
        (log_cosh, 1.0),
        (AdaptiveRobust(learn=False), 1.0),
        *((partial(adaptive_robust, shape=a, scale=0.5), 4.0) for a in (2.0, 1.0, 1e-3, 0.0, -2.0, -math.inf)),
    ],
)
def test_the_curvature_at_the_target(loss, curvature):
    """The general robust loss begins as the same parabola for every shape: 1 / scale^2."""
    equal(slope(lambda e: slope(error_of(loss), e), ZERO), [curvature])


# Far out


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (smooth_l1, 2e4 - 0.5),
        (log_cosh, 2e4 - math.log(2)),
        (mse_mae, 0.7 * 4e8 + 0.3 * 2e4),
        (epsilon_insensitive, 2e4 - 0.1),
        (partial(epsilon_insensitive, squared=True), (2e4 - 0.1) ** 2),
        (partial(quantile, quantile=0.9), 0.1 * 2e4),
        (partial(adaptive_robust, shape=2.0), 2e8),
        (partial(adaptive_robust, shape=1.0), math.sqrt(1 + 4e8) - 1),
        (partial(adaptive_robust, shape=0.0), math.log1p(2e8)),
        (partial(adaptive_robust, shape=-2.0), 8e8 / (4e8 + 4)),
        (partial(adaptive_robust, shape=-math.inf), 1.0),
    ],
)
def test_far_out_by_hand(loss, value):
    """An error of 2e4, exactly in float64 and finite with a finite gradient in float32."""
    equal(loss(tensor([1e4]), tensor([-1e4])), [value])
    given = torch.tensor([1e4]), torch.tensor([-1e4])
    torch.testing.assert_close(loss(*given), torch.tensor([value]), rtol=1e-5, atol=0)
    assert slope(loss, *given).isfinite().all()


def test_the_rate_of_a_count_continues_as_a_line():
    """exp(30) (1 + x - 30) - k x, with the slope exp(30) - k, also at 30 itself."""
    x, k = tensor([30.0, 31.0, 1e4]), tensor([5.0, 5.0, 5.0])
    equal(poisson_nll(x, k), math.exp(30) * (x - 29) - 5 * x)
    equal(slope(poisson_nll, x, k), 3 * [math.exp(30) - 5])
    assert poisson_nll(torch.tensor([1e4]), torch.tensor([0.0])).isfinite().all()


@pytest.mark.parametrize("limit", [30.0, 2.0])
def test_exp_linear(limit):
    x = tensor([-1e4, 0.0, limit - 1, limit, limit + 2])
    top = math.exp(limit)
    equal(exp_linear(x, limit), [0.0, 1.0, top / math.e, top, 3 * top])
    equal(slope(lambda v: exp_linear(v, limit), x), [0.0, 1.0, top / math.e, top, top])


def test_gaussian_nll_is_finite_far_out():
    given = torch.tensor([1e4]), torch.tensor([-1e4]), torch.tensor([0.0])
    assert gaussian_nll(*given).item() == pytest.approx((math.log(1e-6) + 4e14) / 2)
    assert all(d.isfinite().all() for d in grad(lambda *x: gaussian_nll(*x).sum(), argnums=(0, 2))(*given))


def test_a_variance_below_eps_can_grow_again():
    by_variance = grad(lambda v: gaussian_nll(tensor([1.0]), ZERO, v).sum())
    assert by_variance(ZERO).item() < 0


# The general robust loss


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 3e-6)])
@pytest.mark.parametrize("step", [1e-12, -1e-12, 1e-9, -1e-9, 1e-7, -1e-7])
def test_nothing_breaks_near_shape_0(pred, target, dtype, rtol, step):
    """A small step in the shape changes value and slope by as little."""
    given = pred.to(dtype), target.to(dtype)
    at, near = (partial(adaptive_robust, shape=shape) for shape in (0.0, step))
    torch.testing.assert_close(near(*given), at(*given), rtol=rtol + 5 * abs(step), atol=0)
    torch.testing.assert_close(slope(near, *given), slope(at, *given), rtol=rtol + 5 * abs(step), atol=0)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("step", [0.0, 1e-12, 1e-16])
def test_nothing_breaks_near_shape_2(pred, target, dtype, rtol, step):
    given = pred.to(dtype), target.to(dtype)
    loss = partial(adaptive_robust, shape=2 - step)
    torch.testing.assert_close(loss(*given), mse(*given) / 2, rtol=rtol, atol=0)
    torch.testing.assert_close(slope(loss, *given), given[0] - given[1], rtol=rtol, atol=0)


def test_a_very_negative_shape_is_welsch(pred, target):
    far = adaptive_robust(pred, target, shape=-1e10)
    torch.testing.assert_close(far, 1 - torch.exp(-mse(pred, target) / 2), rtol=1e-8, atol=0)


def test_a_smaller_shape_lets_outliers_go_further():
    pulls = [
        slope(partial(adaptive_robust, shape=a), tensor([5.0]), ZERO).item() for a in (2, 1.5, 1, 0, -2, -math.inf)
    ]
    assert pulls == sorted(pulls, reverse=True)
    assert pulls[0] == pytest.approx(5)
    assert 0 < pulls[-1] < 1e-4


@pytest.mark.parametrize(
    ("a", "rtol", "atol"),
    [
        (-3.0, 2e-8, 1e-9),
        (0.5, 2e-8, 1e-9),
        (1.0, 2e-8, 1e-9),
        (1.7, 2e-8, 1e-9),
        (1e-7, 1e-6, 1e-8),
        (0.0, 0.05, 0.05),
    ],
)
def test_the_gradient_by_shape_and_scale(a, rtol, atol):
    """By central differences of fourth order. At shape 0 itself it is rough, and good enough to leave it."""
    e, h = tensor([0.01, 0.3, 1.0, 4.0, 100.0]), 1e-3

    def value(shape, scale):
        return adaptive_robust(e, torch.zeros_like(e), shape=shape, scale=scale)

    def differences(at):
        return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)

    by_shape, by_scale = torch.autograd.functional.jacobian(value, (tensor(a), tensor(0.8)))
    torch.testing.assert_close(by_shape, differences(lambda d: value(a + d, 0.8)), rtol=rtol, atol=atol)
    torch.testing.assert_close(by_scale, differences(lambda d: value(a, 0.8 + d)), rtol=2e-8, atol=1e-9)


def rho(x, a):
    """The definition, away from its singular shapes."""
    return abs(a - 2) / a * math.expm1(a / 2 * math.log1p(x * x / abs(a - 2)))


@pytest.mark.parametrize("a", [0.01, 0.3, 1.0, 1.5, 1.99])
def test_the_partition_is_the_integral(a):
    half, _ = quad(lambda u: math.exp(u - rho(math.exp(u), a)), -36, 36, epsabs=1e-14, epsrel=1e-12, limit=500)
    equal(log_partition(tensor(a)), math.log(2 * half))
    assert log_partition(torch.tensor(a)).item() == pytest.approx(math.log(2 * half), rel=1e-6)


@pytest.mark.parametrize(
    ("a", "z"), [(2.0, math.sqrt(2 * math.pi)), (1.0, 2 * math.e * k1(1)), (0.0, math.sqrt(2) * math.pi)]
)
def test_the_partition_by_hand(a, z):
    """The normal distribution, the hyperbolic one, and Cauchy's."""
    equal(log_partition(tensor(a)), math.log(z))


@pytest.mark.parametrize("a", [0.02, 0.7, 1.0, 1.9])
def test_the_gradient_of_the_partition(a):
    """Central differences of fourth order; the step is small beside the distance to 2, where it is not smooth."""
    h = 1e-3
    at = [log_partition(tensor(a + k * h)) for k in (-2, -1, 1, 2)]
    differences = (8 * (at[2] - at[1]) - (at[3] - at[0])) / (12 * h)
    torch.testing.assert_close(grad(log_partition)(tensor(a)), differences, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("a", "c"), [(1.0, 1.0), (0.2, 0.05), (1.9, 30.0)])
def test_the_learned_form_is_a_density(a, c):
    """exp(-loss) integrates to 1, over x = sinh(u) scaled by c; shape and scale begin as they are given."""
    loss = AdaptiveRobust(shape=a, scale=c).double()
    assert loss.shape.item() == pytest.approx(a, rel=1e-6)
    assert loss.scale.item() == pytest.approx(c, rel=1e-6)
    u = torch.linspace(-32, 32, 20001, dtype=torch.float64)
    with torch.no_grad():
        density = torch.exp(-loss(c * u.sinh(), torch.zeros_like(u))) * c * u.cosh()
    assert torch.trapezoid(density, u).item() == pytest.approx(1, abs=1e-9)


def test_the_learned_shape_and_scale_stay_in_their_ranges():
    for raw in (-1e4, 1e4):
        loss = AdaptiveRobust()
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.fill_(raw)
        assert 0 <= loss.shape <= 2
        assert loss.scale >= 0.01
        e = torch.tensor([0.0, 1.0, 1e4])
        values = loss(e, torch.zeros(3))
        assert values.isfinite().all()
        assert all(d.isfinite() for d in torch.autograd.grad(values.sum(), list(loss.parameters())))


def test_it_learns_how_heavy_the_tails_are(g):
    """Fitted to normal noise the shape goes towards 2 and the scale to the noise's; to Cauchy's, towards 0."""
    quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    samples = {
        "normal": 0.5 * torch.special.ndtri(quantiles),
        "cauchy": math.sqrt(2) * 0.5 * torch.tan(math.pi * (quantiles - 0.5)),
    }
    found = {}
    for name, noise in samples.items():
        loss = AdaptiveRobust().double()
        steps = torch.optim.LBFGS(loss.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def closure(loss=loss, noise=noise, steps=steps):
            steps.zero_grad()
            value = mean(loss(noise, torch.zeros_like(noise)))
            value.backward()
            return value

        steps.step(closure)
        found[name] = loss.shape.item(), loss.scale.item()
    assert found["normal"][0] > 1.9
    assert found["cauchy"][0] < 0.1
    assert found["normal"][1] == pytest.approx(0.5, rel=0.05)
    assert found["cauchy"][1] == pytest.approx(0.5, rel=0.05)


def test_a_fixed_one_has_no_parameters_and_is_the_function(pred, target):
    loss = AdaptiveRobust(shape=-math.inf, scale=0.5, learn=False)
    assert not list(loss.parameters())
    assert not loss.state_dict()
    equal(loss(pred, target), adaptive_robust(pred, target, shape=-math.inf, scale=0.5))


@pytest.mark.parametrize("options", [{"shape": 0.0}, {"shape": 2.0}, {"shape": -math.inf}, {"scale": 0.01}])
def test_what_cannot_be_learned_is_refused(options):
    with pytest.raises(ValueError, match="learn=false"):
        AdaptiveRobust(**options)


@pytest.mark.parametrize("loss", [AdaptiveRobust(), adaptive_robust, partial(adaptive_robust, shape=0.0)])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(pred, target, loss, kind):
    pred, target = pred.to(kind), target.to(kind)
    found = loss(pred, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(pred.float(), target.float()), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch 2.10's compiler has some of its own
@pytest.mark.parametrize("loss", [AdaptiveRobust(), AdaptiveRobust(learn=False), adaptive_robust])
def test_it_can_be_compiled_whole(pred, target, loss):
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    equal(compiled(pred, target), loss(pred, target))
    torch.compiler.reset()


def test_shape_and_scale_may_be_tensors_per_example(pred, target):
    shapes, scales = torch.linspace(-3, 2, 40, dtype=torch.float64), torch.linspace(0.1, 2, 40, dtype=torch.float64)
    each = [
        adaptive_robust(p[None], t[None], shape=a.item(), scale=c.item())[0]
        for p, t, a, c in zip(pred, target, shapes, scales, strict=True)
    ]
    equal(adaptive_robust(pred, target, shape=shapes, scale=scales), each)


# Stacked


@of_error
def test_under_vmap(pred, target, loss):
    rows = pred.reshape(4, 10), target.reshape(4, 10)
    equal(vmap(loss)(*rows), torch.stack([loss(p, t) for p, t in zip(*rows, strict=True)]))
    equal(vmap(partial(slope, loss))(*rows), slope(loss, pred, target).reshape(4, 10))


def test_likelihoods_and_quantiles_under_vmap(g):
    wide = torch.rand(4, 10, 3, generator=g, dtype=torch.float64)
    pred, target, variance = wide.unbind(2)
    for loss, given in [
        (partial(gaussian_nll, full=True), (pred, target, variance)),
        (partial(poisson_nll, full=True), (pred, (9 * target).floor())),
        (multi_quantile, (wide, target)),
    ]:
        equal(vmap(loss)(*given), torch.stack([loss(*row) for row in zip(*given, strict=True)]))


def test_learned_ones_can_be_stacked(pred, target):
    losses = [AdaptiveRobust(shape=a, scale=c).double() for a, c in [(0.5, 1.0), (1.5, 0.2)]]
    state, _ = stack_module_state(losses)
    rows = pred.reshape(2, 20), target.reshape(2, 20)
    found = vmap(lambda s, p, t: functional_call(losses[0], s, (p, t)))(state, *rows)
    equal(found, torch.stack([loss(p, t) for loss, p, t in zip(losses, *rows, strict=True)]).detach())


def test_options_of_module_and_function_agree():
    ours, theirs = (inspect.signature(f).parameters for f in (AdaptiveRobust, adaptive_robust))
    assert {k: ours[k].default for k in ("shape", "scale")} == {k: theirs[k].default for k in ("shape", "scale")}


@pytest.mark.parametrize(
    "loss", [mse, mae, huber, smooth_l1, log_cosh, mse_mae, epsilon_insensitive, quantile, poisson_nll]
)
def test_other_shapes_are_refused(loss):
    with pytest.raises(ValueError, match=r"the shapes must be the same, got \(6, 1\) and \(6,\)$"):
        loss(torch.zeros(6, 1), torch.zeros(6))


def test_a_rate_in_half_precision_is_taken_in_float32():
    """exp(12) is above the largest half."""
    found = poisson_nll(torch.tensor([12.0]).half(), torch.tensor([3.0]).half())
    assert found.tolist() == pytest.approx([math.exp(12) - 36])
    assert exp_linear(torch.tensor([12.0]).half()).tolist() == pytest.approx([math.exp(12)])
