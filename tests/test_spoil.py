"""Training rows made harder on purpose: how many, which, and that nothing else changes."""

import re
from itertools import product

import numpy as np
import pytest
import torch

from lossbench.data import DatasetOptions, Source, SplitShares, Table, prepare
from lossbench.data.spoil import flipped, label_noise, outliers, subset
from lossbench.errors import ConfigError, DataError

N = 200
POINTS = np.random.default_rng(0).normal(size=(N, 2))
LABELS = np.repeat([0, 1, 2], [100, 60, 40])
SOURCES = {
    "multiclass": Source(POINTS, LABELS, "multiclass"),
    "binary": Source(POINTS, LABELS > 0, "binary"),
    "regression": Source(POINTS, POINTS[:, 0] * 3 + 100, "regression"),
    "multilabel": Source(POINTS, np.eye(3, dtype=int)[LABELS], "multilabel"),
    "soft": Source(POINTS, np.eye(3)[LABELS] * 0.7 + 0.1, "multiclass"),
}
EVERY = np.arange(N)


def ready(task="multiclass", seed=0, stratify=True, **options):
    shares = SplitShares(stratify=stratify)
    return prepare(SOURCES[task], DatasetOptions(split={}, **options), shares, seed, torch.device("cpu"))


def changed(data, task="multiclass"):
    """The training rows whose target is not that of the source."""
    rows = data.train.rows
    target = data.train.target.double()
    if task == "regression":
        target = target * data.task.std + data.task.mean
    return rows[(target - torch.tensor(SOURCES[task].target[rows], dtype=torch.float64)).abs() > 1e-4].tolist()


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("multiclass", {"label_noise": 0.3}),
        ("binary", {"label_noise": 0.3}),
        ("multilabel", {"label_noise": 0.3}),
        ("regression", {"outliers": 0.2}),
        ("multiclass", {"subset": 20}),
        ("multilabel", {"subset": 20}),
        ("soft", {"subset": 20}),
        ("regression", {"subset": 20}),
        ("multiclass", {"imbalance": 0.1}),
        ("binary", {"imbalance": 0.1}),
        ("multiclass", {"sampler": "balanced"}),
        ("multiclass", {"imbalance": 0.5, "subset": 50, "label_noise": 0.3, "sampler": "balanced"}),
    ],
)
def test_validation_and_test_rows_stay_as_they_are(task, options):
    plain, harder = ready(task), ready(task, **options)
    for split, other in ((plain.val, harder.val), (plain.test, harder.test)):
        assert torch.equal(split.rows, other.rows)
        units = [
            s.target * d.task.std + d.task.mean if task == "regression" else s.target
            for s, d in ((split, plain), (other, harder))
        ]
        torch.testing.assert_close(*units, rtol=1e-6 if task == "regression" else 0, atol=0)
    assert set(harder.train.rows.tolist()) <= set(plain.train.rows.tolist())


@pytest.mark.parametrize(
    ("task", "key"), [("multiclass", "label_noise"), ("binary", "label_noise"), ("regression", "outliers")]
)
@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.05, 7), (0.123, 17), (0.5, 70)])
def test_the_share_is_exact_and_seeded(task, key, share, count):
    """Of 140 training rows."""
    data = ready(task, **{key: share})
    assert len(changed(data, task)) == count
    again, other = ready(task, **{key: share}), ready(task, seed=1, **{key: share})
    assert torch.equal(again.train.target, data.train.target)
    assert share == 0 or changed(other, task) != changed(data, task)
    assert set(changed(data, task)) <= set(changed(ready(task, **{key: 0.6}), task))


def test_spoiled_inputs_and_rows_are_those_of_the_clean_data():
    plain, noisy = ready(), ready(label_noise=0.4)
    assert torch.equal(noisy.train.rows, plain.train.rows)
    assert torch.equal(noisy.train.inputs, plain.train.inputs)


def test_each_other_class_is_as_likely():
    """Of 9,000 wrong labels a third goes to each of the three others: 3,000, give or take 4 x 45."""
    target = np.full(10_000, 2, dtype=np.uint8)
    noisy = label_noise(target, np.arange(10_000), 0.9, 4, seed=0)
    counts = np.bincount(noisy, minlength=4)
    assert counts[2] == 1000
    assert abs(np.delete(counts, 2) - 3000).max() < 180


def test_binary_labels_are_flipped():
    target = np.array([0, 1] * 50)
    assert label_noise(target, np.arange(100), 0.999, 2, seed=0).tolist() == (1 - target).tolist()
    assert set(ready("binary", label_noise=0.5).train.target.tolist()) == {0.0, 1.0}


def test_each_of_several_labels_is_flipped_by_itself():
    """Of 2,000 labels 0.2 are flipped: 400, give or take 4 x 18; the others' rows are not touched."""
    target = np.random.default_rng(1).integers(0, 2, (1000, 4))
    train = np.arange(0, 1000, 2)
    wrong = flipped(target, train, 0.2, seed=0) != target
    assert abs(wrong[train].sum() - 400) < 72
    assert not wrong[1::2].any()
    assert abs(wrong[train].sum(0) - 100).max() < 36
    assert np.corrcoef(wrong[train].T)[0, 1:].max() < 0.2
    assert not (wrong & ~(flipped(target, train, 0.3, seed=0) != target)).any()


def test_outliers_are_so_many_deviations_off_to_either_side():
    target, train = np.random.default_rng(2).normal(50, 4, 1000), np.arange(0, 1000, 2)
    moves = (outliers(target, train, 0.2, 10, seed=0) - target) / target[train].std()
    np.testing.assert_allclose(np.abs(moves[moves != 0]), 10)
    assert np.count_nonzero(moves) == 100
    assert 30 < (moves > 0).sum() < 70
    assert not moves[1::2].any()


def test_the_target_s_scale_is_learned_from_what_is_trained_on():
    data = ready("regression", outliers=0.1, outlier_size=20)
    mean, std = data.train.target.mean().item(), data.train.target.std(correction=0).item()
    assert (mean, std) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert data.task.std > 5 * ready("regression").task.std


def test_one_option_s_draw_does_not_depend_on_another():
    """What a row's label becomes, once it is chosen, is the row's own."""
    few, many = ready(label_noise=0.5, subset=60), ready(label_noise=0.5)
    both = set(changed(few)) & set(changed(many))
    assert len(both) > 15
    labels = [dict(zip(data.train.rows.tolist(), data.train.target.tolist(), strict=True)) for data in (few, many)]
    assert all(labels[0][row] == labels[1][row] for row in both)
    assert torch.equal(few.train.rows, ready(subset=60).train.rows)


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        (1000, [70, 42, 28]),
        (140, [70, 42, 28]),
        (20, [10, 6, 4]),
        (100, [50, 30, 20]),
        (4, [2, 1, 1]),
        (3, [1, 1, 1]),
    ],
)
def test_a_subset_keeps_the_classes_shares_and_each_class(size, counts):
    assert ready(subset=size).train.target.bincount().tolist() == counts


def test_subsets_lie_within_one_another_and_are_drawn():
    kept = [set(ready(subset=size).train.rows.tolist()) for size in (10, 30, 90)]
    assert kept[0] < kept[1] < kept[2]
    assert kept[2] != set(ready(subset=90, seed=1).train.rows.tolist())
    assert sorted(kept[1]) == ready(subset=30).train.rows.tolist()
    assert kept[1] != set(ready().train.rows[:30].tolist())


def test_where_classes_do_not_count_a_subset_is_any():
    loose = ready(subset=20, stratify=False)
    assert len(loose.train) == 20
    assert loose.train.target.bincount().tolist() != [10, 6, 4]
    assert len(ready("regression", subset=20).train) == 20
    assert (
        subset(EVERY, None, 20, 3).tolist()
        == subset(EVERY, None, 20, 3).tolist()
        != subset(EVERY, None, 20, 4).tolist()
    )


def test_more_classes_than_a_subset_has_rows():
    """Not always the same ones: two of three classes, by the seed."""
    found = {tuple(np.unique(LABELS[subset(EVERY, LABELS, 2, seed)])) for seed in range(20)}
    assert found == {(0, 1), (0, 2), (1, 2)}


def test_a_subset_of_a_long_tail_is_a_long_tail():
    """The tail is 70, 22 and 7 rows; of it the first 32/70, 10/22 and 4/7, which is where 46 rows end."""
    assert ready(imbalance=0.1).train.target.bincount().tolist() == [70, 22, 7]
    assert ready(imbalance=0.1, subset=46).train.target.bincount().tolist() == [32, 10, 4]


HAS = "and this data set has"
ANY = f"{HAS} any number of labels per example"
REFUSED = [
    ("regression", {"imbalance": 0.1}, f"dataset.imbalance thins classes, {HAS} numbers to predict"),
    ("multilabel", {"imbalance": 0.1}, f"dataset.imbalance thins classes, {ANY}"),
    ("soft", {"imbalance": 0.1}, f"dataset.imbalance thins classes, {HAS} soft labels"),
    ("regression", {"label_noise": 0.1},
     f"dataset.label_noise replaces classes, {HAS} numbers to predict; dataset.outliers spoils those"),
    ("soft", {"label_noise": 0.1}, f"dataset.label_noise replaces classes, {HAS} soft labels"),
    ("multiclass", {"outliers": 0.1},
     f"dataset.outliers moves numbers, {HAS} classes to predict; dataset.label_noise spoils those"),
    ("binary", {"outliers": 0.1},
     f"dataset.outliers moves numbers, {HAS} classes to predict; dataset.label_noise spoils those"),
    ("multilabel", {"outliers": 0.1}, f"dataset.outliers moves numbers, {ANY}; dataset.label_noise spoils those"),
    ("soft", {"outliers": 0.1}, f"dataset.outliers moves numbers, {HAS} soft labels"),
    ("regression", {"sampler": "balanced"},
     f"dataset.sampler=balanced draws each class equally often, {HAS} numbers to predict"),
    ("multilabel", {"sampler": "balanced"}, f"dataset.sampler=balanced draws each class equally often, {ANY}"),
    ("soft", {"sampler": "balanced"}, f"dataset.sampler=balanced draws each class equally often, {HAS} soft labels"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "options", "message"), REFUSED, ids=[f"{case[0]} {case[2]}" for case in REFUSED])
def test_what_means_nothing_for_the_targets_is_refused(task, options, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        ready(task, **options)


def test_everything_else_fits():
    every = {"imbalance": 0.1, "label_noise": 0.1, "outliers": 0.1, "sampler": "balanced"}
    refused = {(task, key) for task, options, _ in REFUSED for key in options}
    for task, key in product(SOURCES, every):
        if (task, key) not in refused:
            ready(task, **{key: every[key]})


def test_one_class_is_refused_with_noise_too():
    source = Source(POINTS, np.zeros(N, int), "multiclass")
    with pytest.raises(DataError, match=r"^every training row has the same target"):
        prepare(source, DatasetOptions(split={}, label_noise=0.1), SplitShares(), 0, torch.device("cpu"))


def test_a_table_keeps_its_weights_and_groups_by_row():
    """What is spoiled is the target; every other column stays with its row."""
    table = Table({"a": POINTS[:, 0], "w": 1.0 + np.arange(N), "g": np.arange(N) % 7})
    source = Source(table, LABELS, "multiclass")
    options = DatasetOptions(split={}, weight="w", group="g", imbalance=0.2, subset=40, label_noise=0.5)
    train = prepare(source, options, SplitShares(), 0, torch.device("cpu")).train
    assert train.weight.tolist() == (1.0 + train.rows).tolist()
    assert train.group.tolist() == (train.rows % 7).tolist()
