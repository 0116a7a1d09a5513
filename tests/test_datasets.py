"""Data sets that need no file: what they hold, and that they are the same each time."""

import numpy as np
import pytest
import torch
from scipy.stats import kurtosis
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import r2_score

from lossbench import catalog
from lossbench.data import Table
from lossbench.data.bundled import breast_cancer, diabetes, digits, wine
from lossbench.data.composed import digits_multilabel
from lossbench.data.synthetic import friedman, synthetic_regression

SETS = {
    wine: (178, 13, "multiclass", [59, 71, 48]),
    breast_cancer: (569, 30, "binary", [212, 357]),
    diabetes: (442, 10, "regression", None),
}


@pytest.mark.parametrize("load", SETS)
def test_tables_that_come_with_scikit_learn(load):
    rows, columns, task, counts = SETS[load]
    source = load()
    assert isinstance(source.features, Table)
    assert (len(source.features), len(source.features.columns), source.task) == (rows, columns, task)
    if counts:
        assert np.bincount(source.target).tolist() == counts
        assert len(source.classes) == len(counts)


def test_strips_hold_one_to_three_digits_and_their_labels():
    """3 strips of 1, 2 and 3 digits for each 6 digits: 1797 = 299 x 6 + 1 + 2, so 299 x 3 + 2."""
    source, single = digits_multilabel(), digits()
    assert (source.features.shape, source.features.dtype) == ((899, 1, 8, 24), np.float32)
    assert (source.target.shape, source.task, source.classes) == ((899, 10), "multilabel", tuple("0123456789"))
    by_pixels = {image.tobytes(): label for image, label in zip(single.features, single.target, strict=True)}
    counts, present = [], np.zeros_like(source.target)
    for strip, row in zip(source.features, present, strict=True):
        found = [place.tobytes() for place in np.split(strip, 3, axis=2) if place.any()]
        counts.append(len(found))
        row[[by_pixels[pixels] for pixels in found]] = 1
    assert np.bincount(counts).tolist() == [0, 300, 300, 299]
    np.testing.assert_array_equal(source.target, present)
    assert source.target.mean(0).min() > 0.15


def test_no_strip_holds_a_digit_of_another():
    places = np.concatenate(np.split(digits_multilabel().features, 3, axis=3))
    used = sorted(place.tobytes() for place in places if place.any())
    assert used == sorted(image.tobytes() for image in digits().features)


def test_every_place_is_used_as_often():
    filled = np.stack(np.split(digits_multilabel().features, 3, axis=3)).any((2, 3, 4)).mean(1)
    np.testing.assert_allclose(filled, 1797 / 899 / 3, atol=0.05)


@pytest.mark.parametrize("load", [digits_multilabel, synthetic_regression])
def test_what_is_drawn_is_the_same_each_time(load):
    first = load()
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    again = load()
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.target, again.target)


def test_the_data_seed_decides_the_synthetic_data():
    assert not (synthetic_regression(data_seed=1).target == synthetic_regression().target).any()


def test_friedmans_function_by_hand():
    """10 sin(pi / 2) + 0 + 10 x 0.5 + 5 x 0.2 = 16; 10 sin 0 + 20 / 4 = 5."""
    x = np.array([[1, 0.5, 0.5, 0.5, 0.2, 9], [0, 1, 0, 0, 0, 9]])
    np.testing.assert_allclose(friedman(x), [16, 5])


def test_the_mean_function_is_scaled_and_can_be_learned():
    source = synthetic_regression(n=4000, std=0)
    assert source.features.shape == (4000, 8)
    assert abs(source.target.mean()) < 0.05
    assert abs(source.target.std() - 1) < 0.05
    model = HistGradientBoostingRegressor(random_state=0).fit(source.features[:3000], source.target[:3000])
    assert r2_score(source.target[3000:], model.predict(source.features[3000:])) > 0.95


def residuals(noise, **options):
    noisy, exact = (synthetic_regression(n=20_000, noise=noise, std=std, **options) for std in (0.5, 0))
    return noisy.features, noisy.target - exact.target


def test_normal_noise_has_the_stated_deviation():
    _, noise = residuals("normal", features=5)
    assert (noise.mean(), noise.std()) == (pytest.approx(0, abs=0.02), pytest.approx(0.5, rel=0.02))
    assert abs(kurtosis(noise)) < 0.2


def test_heteroscedastic_noise_grows_with_the_fifth_input():
    """Deviations of 0.5 (0.1 + 1.8 x5): about 0.5 x 0.19 for x5 below 0.1 and 0.5 x 1.81 above 0.9."""
    x, noise = residuals("heteroscedastic")
    fifth = x[:, 4]
    assert noise[fifth < 0.1].std() == pytest.approx(0.5 * 0.19, rel=0.1)
    assert noise[fifth > 0.9].std() == pytest.approx(0.5 * 1.81, rel=0.1)


def test_students_noise_has_heavy_tails():
    _, noise = residuals("student")
    assert np.quantile(np.abs(noise), 0.5) == pytest.approx(0.5 * 0.765, rel=0.05)  # the quartile of t with 3 degrees
    assert kurtosis(noise) > 3


def test_counts_are_whole_numbers_around_their_rate():
    source = synthetic_regression(n=20_000, noise="counts")
    rate = np.exp(1 + (friedman(source.features) - 14.4) / 4.9)
    assert (source.target == np.floor(source.target)).all()
    assert source.target.min() == 0
    assert ((source.target - rate) / np.sqrt(rate)).var() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("name", ["wine", "digits_imbalanced", "digits_multilabel", "synthetic_regression"])
def test_they_train_from_the_command_line(cli, name):
    code, out, err = cli("train", f"dataset={name}", "trainer.epochs=2", "hydra.run.dir=run")
    assert (code, err) == (0, "")
    assert f"{name}-mlp" in out


def test_the_long_tail_of_digits_imbalanced(cli):
    code, out, _ = cli("train", "dataset=digits_imbalanced", "--cfg", "job")
    assert code == 0
    assert "imbalance: 0.01" in out


def test_every_data_set_has_a_card():
    for card in catalog.cards("dataset"):
        assert card.summary.endswith("."), card.name
        assert card.fits, card.name
