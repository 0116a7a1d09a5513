"""Problems whose curvatures, optima and trajectories are known: what the data say, and what the engine makes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lossbench.build import build
from lossbench.compose import compose
from lossbench.data import Source
from lossbench.data.problems import quadratic, rosenbrock
from lossbench.engine import train
from lossbench.errors import ConfigError, DataError
from lossbench.models.rosenbrock import rosenbrock as point
from lossbench.observe.recorder import DeviceRecorder

WHOLE = ("trainer.device=cpu", "trainer.batch_size=100000", "trainer.eval_every=1000")  # batches of all rows
BOWL = ("experiment=quadratic", "dataset.n=400", "dataset.noise=0", "dataset.condition=20", *WHOLE)
VALLEY = ("experiment=rosenbrock", *WHOLE)


def built(*overrides):
    return build(compose(*overrides))


def trained(run):
    details = len(run.player.columns) - len(run.player.settings)
    recorder = DeviceRecorder([], device=run.device, details=details)
    train(run.player, run.batches, run.length, lambda: {"val": run.evaluate(run.data.val)}, recorder, run.best)
    return run


def weights(run):
    (parameter,) = run.player.model.parameters()
    return parameter.detach().clone().flatten().double()


def mean_squared_error(run):
    """Of the training rows, as a function of the weights of the run's model."""
    (name, parameter), split = next(run.player.model.named_parameters()), run.data.train

    def error(flat):
        moved = {name: flat.reshape(parameter.shape).to(parameter.dtype)}
        pred = torch.func.functional_call(run.player.model, moved, (split.inputs,))
        return (pred.squeeze(1) - split.target).square().mean()

    return error


def hessian(run):
    return torch.autograd.functional.hessian(mean_squared_error(run), weights(run).float()).double()


def least_squares(features, target):
    return np.linalg.lstsq(features, target, rcond=None)[0]


# The quadratic bowl


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"dimensions": 3, "condition": 100}, [1, 0.1, 0.01]),
        ({"dimensions": 1, "condition": 7}, [1]),
        ({"eigenvalues": [0.5, 2e4, 2e-4]}, [2e4, 0.5, 2e-4]),
        ({"eigenvalues": [3, 3]}, [3, 3]),
    ],
)
def test_the_hessian_over_all_rows_has_the_eigenvalues_asked_for(options, wanted, rotate):
    x = quadratic(n=50, rotate=rotate, **options).features
    hessian = 2 * x.T @ x / 50
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian)[::-1], wanted, rtol=1e-7)
    assert np.allclose(hessian, np.diag(hessian.diagonal()), atol=1e-9) == (not rotate or len(set(wanted)) == 1)


def test_the_least_error_over_all_rows_is_the_noise_and_each_direction_has_its_share():
    source = quadratic(n=60, dimensions=4, condition=50, noise=0.25)
    x, y = source.features, source.target
    optimum = least_squares(x, y)
    np.testing.assert_allclose(np.sqrt(np.mean((x @ optimum - y) ** 2)), 0.25)
    np.testing.assert_allclose([x.mean(0).max(), y.mean()], 0, atol=1e-12)  # so that a bias has nothing to learn
    curvatures, axes = np.linalg.eigh(2 * x.T @ x / 60)
    np.testing.assert_allclose(curvatures / 2 * (axes.T @ optimum) ** 2, 0.25)
    np.testing.assert_allclose(y.var(), 1 + 0.25**2)


def test_without_rotation_the_eigenvalues_are_the_axes_in_the_order_given():
    x = quadratic(n=30, eigenvalues=[0.5, 8, 2], rotate=False).features
    np.testing.assert_allclose(x.var(0), [0.25, 4, 1])


def test_the_data_follow_their_own_seed():
    assert np.array_equal(quadratic(data_seed=3).features, quadratic(data_seed=3).features)
    assert not np.array_equal(quadratic(data_seed=3).features, quadratic(data_seed=4).features)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_training_rows_have_about_the_eigenvalues_asked_for(seed):
    run = built("experiment=quadratic", f"seed={seed}", "dataset.condition=100", "dataset.dimensions=5")
    found = torch.linalg.eigvalsh(hessian(run)).flip(0).numpy()
    np.testing.assert_allclose(found, np.geomspace(1, 0.01, 5), rtol=0.04)
    assert (run.data.task.mean, run.data.task.std) == (0.0, 1.0)


def test_a_bias_is_one_more_direction_of_curvature_2():
    run = built(*BOWL, "model.bias=true", "dataset.n=10000")
    x = torch.cat([run.data.train.inputs, torch.ones(len(run.data.train), 1)], 1).double()
    curvatures, axes = torch.linalg.eigh(2 * x.T @ x / len(x))
    assert curvatures[-1] == pytest.approx(2, rel=0.02)
    assert abs(axes[-1, -1]) == pytest.approx(1, abs=0.02)


def test_gradient_descent_contracts_each_direction_by_one_minus_rate_times_eigenvalue():
    steps, rate = 40, 1.5
    run = built(*BOWL, "optim=sgd", f"optim.lr={rate}", f"trainer.steps={steps}")
    x, y = run.data.train.inputs.double(), run.data.train.target.double()
    curvatures, axes = torch.linalg.eigh(2 * x.T @ x / len(x))
    assert 2 / curvatures.max() > rate
    optimum = torch.from_numpy(least_squares(x.numpy(), y.numpy()))
    start = axes.T @ (weights(run) - optimum)
    end = axes.T @ (weights(trained(run)) - optimum)
    torch.testing.assert_close(end, start * (1 - rate * curvatures) ** steps, rtol=1e-4, atol=1e-5)
    error = (end.square() * curvatures / 2).sum().sqrt()  # over the training rows
    assert run.evaluate(run.data.train)["rmse"] == pytest.approx(float(error), rel=1e-3)


def test_gradient_descent_beyond_two_over_the_largest_eigenvalue_grows():
    run = built(*BOWL, "optim=sgd", "optim.lr=2.2", "trainer.steps=60")
    before = run.evaluate(run.data.train)["rmse"]
    assert trained(run).evaluate(run.data.train)["rmse"] > 10 * before


def test_lbfgs_is_at_the_bottom_of_the_bowl_in_a_few_steps():
    run = trained(built(*BOWL, "optim=lbfgs", "optim.lr=1", "trainer.steps=5"))
    assert run.evaluate(run.data.test)["rmse"] < 1e-4


# Rosenbrock's valley


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("dimensions", "value"), [(2, 24.2), (3, 24.2 + 484), (4, 24.2 + 484 + 24.2)])
def test_the_loss_at_the_start_is_rosenbrocks_function_over_its_residuals(seed, dimensions, value):
    run = built(*VALLEY, f"seed={seed}", f"dataset.dimensions={dimensions}")
    torch.testing.assert_close(weights(run), torch.tensor([-1.2, 1, -1.2, 1]).double()[:dimensions])
    for split in (run.data.train, run.data.val, run.data.test):
        found = run.evaluate(split)
        assert found["rmse"] ** 2 == pytest.approx(value / (2 * (dimensions - 1)), rel=1e-5)
        assert found["loss"] == pytest.approx(found["rmse"] ** 2, rel=1e-5)


def test_the_first_step_is_along_the_gradient_by_hand():
    run = trained(built(*VALLEY, "optim=sgd", "optim.lr=0.001", "trainer.steps=1"))
    # f' = (-400 a (b - a^2) - 2 (1 - a), 200 (b - a^2)) at (-1.2, 1), over two residuals
    wanted = torch.tensor([-1.2 + 0.001 * 215.6 / 2, 1 + 0.001 * 88 / 2])
    torch.testing.assert_close(weights(run).float(), wanted)


def test_the_optimum_is_at_ones_with_the_curvatures_by_hand():
    run = built(*VALLEY)
    at = torch.ones(2)
    assert mean_squared_error(run)(at) == 0
    found = torch.autograd.functional.hessian(mean_squared_error(run), at)
    torch.testing.assert_close(found, torch.tensor([[802.0, -400.0], [-400.0, 200.0]]) / 2)


def test_the_noise_is_what_is_left_at_the_optimum():
    run = built(*VALLEY, "dataset.noise=0.5", "dataset.copies=10000", "optim.lr=0.0001", "trainer.steps=1")
    with torch.no_grad():
        next(run.player.model.parameters()).fill_(1)
    assert run.evaluate(run.data.train)["rmse"] == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("shares", [(), ("dataset.split.val=0.3", "dataset.split.test=0.4")])
def test_each_split_has_each_residual_equally_often(shares):
    run = built(*VALLEY, "dataset.dimensions=4", *shares)
    for split in (run.data.train, run.data.val, run.data.test):
        assert len(set(split.inputs.sum(0).flatten().tolist())) == 1


def test_lbfgs_reaches_the_optimum():
    run = trained(built(*VALLEY, "optim=lbfgs", "optim.lr=1", "trainer.steps=10"))
    torch.testing.assert_close(weights(run), torch.ones(2).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("shape", "outputs"), [((4,), 1), ((3, 1), 1), ((2, 3, 3), 1), ((2, 1), 3)])
def test_the_point_takes_its_own_data_only(shape, outputs):
    with pytest.raises(ConfigError, match=r"model 'rosenbrock' (takes the residuals|gives one number)"):
        point(input_shape=shape, outputs=outputs)


def test_each_example_is_a_residual_with_its_target():
    source = rosenbrock(dimensions=3, copies=10)
    model = point(input_shape=(2, 2), outputs=1)
    with torch.no_grad():
        model.x.copy_(torch.tensor([0.5, 2.0, 3.0]))
        found = model(torch.from_numpy(source.features[:4]).float())
    torch.testing.assert_close(found, torch.tensor([[0.5], [2.0], [10 * 1.75], [10 * -1.0]]))
    assert source.target[:4].tolist() == [1, 1, 0, 0]


# What the problems rest on


def test_numbers_that_stay_as_they_are_are_measured_and_predicted_so(cli):
    words = ("experiment=quadratic", "dataset.n=200", "dataset.noise=3", "trainer.device=cpu")
    assert cli("train", *words, "trainer.epochs=3", "hydra.run.dir=run")[0] == 0
    recorded = json.loads(Path("run/summary.json").read_text())["metrics"]["test"]
    assert recorded["loss"] == pytest.approx(recorded["rmse"] ** 2, rel=1e-5)
    code, out, _ = cli("evaluate", "run", "--split", "test", "--json", "-")
    assert (code, json.loads(out)["metrics"]["test"]["rmse"]) == (0, pytest.approx(recorded["rmse"], rel=1e-5))
    np.save("x.npy", np.concatenate([np.eye(10), np.zeros((1, 10))]))
    assert cli("predict", "run", "--input", "x.npy", "--output", "found.npz")[0] == 0
    found = np.load("found.npz")["prediction"]  # the weights, and 0 for a row of zeros
    assert found[10] == 0
    source = quadratic(n=200, noise=3, condition=1000)
    assert np.mean((source.features @ found[:10] - source.target) ** 2) == pytest.approx(10, rel=0.3)
    assert cli("train", *words, "trainer.epochs=4", "resume=run")[0] == 0


def test_standardising_the_target_changes_its_scale_and_nothing_else():
    kept, scaled = (built(*BOWL, f"dataset.standardize_target={word}") for word in ("false", "true"))
    task = scaled.data.task
    torch.testing.assert_close(kept.data.train.target, task.in_units(scaled.data.train.target), rtol=1e-5, atol=1e-5)
    assert task.std == pytest.approx(float(kept.data.train.target.double().std(correction=0)))
    torch.testing.assert_close(kept.data.train.inputs, scaled.data.train.inputs)


def test_strata_are_one_number_for_each_example():
    with pytest.raises(DataError, match=r"strata have shape \(2,\), and there are 3 targets"):
        Source(np.zeros((3, 1)), np.arange(3.0), "regression", strata=np.zeros(2))
