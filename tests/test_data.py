"""Sources become splits: which rows, in what scale, and what is refused."""

import re
from itertools import chain

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lossbench.data import DatasetOptions, Source, SplitShares, Table, prepare
from lossbench.data.split import split_rows
from lossbench.data.spoil import long_tail
from lossbench.errors import ConfigError, DataError
from lossbench.tasks import Binary, Multiclass, Multilabel, Regression, SoftLabels

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [100, 60, 40])
COUNTS = (70.0, 42.0, 28.0)  # of the training rows
POINTS = RNG.normal([1, -5], [2, 0.1], (200, 2))


def ready(source, seed=0, val=0.15, test=0.15, stratify=True, **options):
    shares = SplitShares(val, test, stratify)
    return prepare(source, DatasetOptions(split={}, **options), shares, seed, torch.device("cpu"))


def classes(features=POINTS, target=LABELS, **more):
    return Source(features, target, "multiclass", **more)


def rows(data):
    return [split.rows.tolist() for split in (data.train, data.val, data.test)]


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize(
    ("val", "test", "sizes"),
    [(0.15, 0.15, (140, 30, 30)), (0.1, 0.25, (130, 20, 50)), (0.004, 0.5, (99, 1, 100))],
)
def test_splits_have_their_shares_and_every_row_is_in_one(val, test, sizes, stratify):
    task = "regression" if val < 0.01 else "multiclass"  # one row cannot hold three classes
    data = ready(Source(POINTS, LABELS, task), val=val, test=test, stratify=stratify)
    assert tuple(map(len, (data.train, data.val, data.test))) == sizes
    assert sorted(chain(*rows(data))) == list(range(200))


def test_classes_keep_their_shares():
    """100, 60 and 40 rows in 70 %, 15 % and 15 %."""
    data = ready(classes())
    counts = [split.target.bincount().tolist() for split in (data.train, data.val, data.test)]
    assert counts == [[70, 42, 28], [15, 9, 6], [15, 9, 6]]
    assert ready(classes(), stratify=False).val.target.bincount().tolist() != [15, 9, 6]


def test_the_seed_alone_decides_the_split():
    table = Table({"a": POINTS[:, 0], "w": np.ones(200)})
    torch.manual_seed(1)
    first = rows(ready(classes()))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert rows(ready(classes(POINTS * 7), standardize=False, workers=2)) == first
    assert rows(ready(classes(table), weight="w")) == first
    assert rows(ready(classes(), imbalance=0.1))[1:] == first[1:]
    for split, other in zip(first, rows(ready(classes(), seed=1)), strict=True):
        assert split != other


@pytest.mark.parametrize("form", ["array", "table", "images"])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_training_inputs_know_nothing_of_held_out_rows(form, task):
    def scaled(values):
        features = {
            "array": lambda: values,
            "table": lambda: Table({"a": values[:, 0], "b": np.where(values[:, 1] > -5, "x", "y")}),
            "images": lambda: np.tile(values[:, :, None, None], (1, 1, 3, 3)),
        }[form]()
        data = ready(Source(features, LABELS if task == "multiclass" else values[:, 0], task))
        return torch.cat([data.train.inputs.flatten(1), data.train.target[:, None]], 1)

    train, val, test = rows(ready(classes()))
    if task == "regression":
        train, val, test = rows(ready(Source(POINTS, POINTS[:, 0], task)))
    plain = scaled(POINTS)
    for held_out in (val, test):
        changed = POINTS.copy()
        changed[held_out[0]] = [1e4, 1e4]
        assert torch.equal(scaled(changed), plain)
    changed = POINTS.copy()
    changed[train[0]] = [1e4, 1e4]
    assert not torch.equal(scaled(changed), plain)


def test_features_and_regression_targets_are_standardised_by_the_training_rows():
    target = POINTS[:, 0] * 3 + 100
    data = ready(Source(POINTS, target, "regression"))
    train, val, _ = rows(data)
    mean, std = POINTS[train].mean(0), POINTS[train].std(0)
    torch.testing.assert_close(data.val.inputs.double(), torch.tensor((POINTS[val] - mean) / std), atol=1e-5, rtol=0)
    assert data.task == Regression(target[train].mean(), pytest.approx(target[train].std()))
    wanted = (target[val] - target[train].mean()) / target[train].std()
    torch.testing.assert_close(data.val.target.double(), torch.tensor(wanted), atol=1e-5, rtol=0)


def test_images_are_scaled_by_channel():
    """A pixel that is bright in one training image only would be blown up, scaled by itself."""
    images = RNG.normal([[[10]], [[-3]]], [[[4]], [[0.5]]], (200, 2, 5, 5)).astype(np.float32)
    data = ready(classes(images))
    assert data.input_shape == (2, 5, 5)
    inputs = data.train.inputs
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(inputs.std((0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)
    pixel = images[data.train.rows, 0]
    torch.testing.assert_close(inputs[:, 0], torch.tensor((pixel - pixel.mean()) / pixel.std()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("constant", [0.1, 1e9, 0])
def test_a_feature_that_never_varies_in_training_becomes_nothing(constant):
    points = np.column_stack([POINTS, np.full(200, constant)])
    test = rows(ready(classes()))[2]
    points[test[0], 2] = -7e8
    data = ready(classes(points))
    assert not any(split.inputs[:, 2].any() for split in (data.train, data.val, data.test))


def test_large_numbers_keep_their_differences():
    """Seconds since 1970, a minute apart: float32 steps by 128 there, so the scale must come before it."""
    seconds = 1.7e9 + 60.0 * np.arange(200)
    inputs = ready(classes(seconds[:, None])).train.inputs
    assert len(inputs.unique()) == 140


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8, np.int64, bool])
def test_inputs_are_float32_and_unscaled_on_request(dtype):
    points = (POINTS > 0).astype(dtype)
    data = ready(classes(points), standardize=False)
    assert torch.equal(data.train.inputs, torch.tensor(points[data.train.rows], dtype=torch.float32))


@pytest.mark.parametrize(
    ("task", "target", "kind", "dtype"),
    [
        ("multiclass", LABELS, Multiclass(3, COUNTS), torch.int64),
        ("multiclass", LABELS.astype(np.uint8), Multiclass(3, COUNTS), torch.int64),
        ("multilabel", np.eye(3, dtype=int)[LABELS], Multilabel(3), torch.float32),
        ("multilabel", np.eye(3)[LABELS] == 1, Multilabel(3), torch.float32),
        ("binary", LABELS > 0, Binary(), torch.float32),
        ("binary", (LABELS > 0).astype(int), Binary(), torch.float32),
        ("binary", torch.tensor(LABELS > 0).float(), Binary(), torch.float32),
    ],
)
def test_labels_become_what_the_losses_take(task, target, kind, dtype):
    data = ready(Source(POINTS, target, task))
    assert (data.task, data.train.target.dtype) == (kind, dtype)
    np.testing.assert_array_equal(data.train.target, np.asarray(target)[data.train.rows])


@pytest.mark.parametrize("target", [np.eye(3)[LABELS] * 0.7 + 0.1, torch.eye(3)[LABELS]])
def test_rows_of_floats_are_soft_labels(target):
    data = ready(classes(target=target))
    assert isinstance(data.task, SoftLabels)
    assert data.task.class_counts == pytest.approx(np.asarray(target)[data.train.rows].sum(0).tolist())
    np.testing.assert_allclose(data.val.target, np.asarray(target)[data.val.rows], rtol=1e-6)


def test_what_was_fitted_goes_with_the_data():
    data = ready(Source(POINTS, LABELS, "multiclass", tuple("abc")), timeout=5)
    assert (data.task, data.input_shape, data.classes) == (Multiclass(3, COUNTS), (2,), ("a", "b", "c"))
    assert (data.fitted.task, data.fitted.input_shape, data.fitted.classes) == (data.task, (2,), data.classes)
    everything = data.fitted.inputs(POINTS, torch.device("cpu"))
    assert torch.equal(everything[data.test.rows], data.test.inputs)


def test_the_time_to_wait_for_a_loader_process_goes_with_the_inputs():
    class Rows(Dataset):
        def __len__(self):
            return 200

        def __getitem__(self, row):
            return torch.ones(2)

    splits = ready(classes(Rows()), timeout=5)
    assert {split.inputs.timeout for split in (splits.train, splits.val.take(torch.arange(3)))} == {5}


def test_classes_without_rows_count():
    assert ready(Source(POINTS, LABELS, "multiclass", tuple("abcd"))).task == Multiclass(4, (*COUNTS, 0.0))


@pytest.mark.parametrize(
    ("imbalance", "counts"),
    [
        (1, [80, 80, 80]),
        (0.25, [80, 40, 20]),  # 80 x 0.25^(0, 1/2, 1)
        (0.01, [80, 8, 1]),  # the last is 0.8
        (0.0001, [80, 1, 1]),  # 0.8 and 0.008: no class dies out
    ],
)
def test_a_long_tail_by_hand(imbalance, counts):
    source = classes(RNG.normal(size=(300, 2)), np.arange(300) % 3)
    data = ready(source, val=0.1, test=0.1, imbalance=imbalance)
    assert data.train.target.bincount().tolist() == counts
    assert data.val.target.bincount().tolist() == [10, 10, 10]
    fewer = ready(source, val=0.1, test=0.1, imbalance=imbalance / 2)
    assert set(fewer.train.rows.tolist()) <= set(data.train.rows.tolist())


def test_the_rows_of_a_long_tail_are_drawn():
    kept = {imbalance: ready(classes(), imbalance=imbalance).train for imbalance in (1, 0.2)}
    thinned, whole = (split.rows[split.target == 2].tolist() for split in (kept[0.2], kept[1]))
    assert thinned != whole[: len(thinned)]
    first, again, other = (long_tail(np.arange(200), LABELS, 0.2, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_a_class_that_is_small_already_is_not_thinned_to_its_share_twice():
    """70, 42 and 28 training rows; the tail allows 70, 49.5 and 35."""
    assert ready(classes(), imbalance=0.5).train.target.bincount().tolist() == [70, 42, 28]


def test_an_outlier_beyond_all_others_is_refused():
    points = POINTS * 1e-20
    row = rows(ready(classes()))[2][0]
    points[row, 1] = 1e30
    with pytest.raises(DataError, match=rf"^input of example {row} is .*e\+5\d once scaled: an outlier beyond"):
        ready(classes(points))


def test_weights_of_held_out_rows_alone_teach_nothing():
    weight = np.ones(200)
    weight[rows(ready(classes()))[0]] = 0
    with pytest.raises(DataError, match=r"^dataset.weight=w is 0 for every training row"):
        ready(table(w=weight), weight="w")


def test_groups_are_the_column_s_values_in_order():
    """Of every row, those of training alone or not; the column is no feature."""
    for column, names in [
        (np.array(["b", "a", "c", "a"] * 50, dtype=object), ("a", "b", "c")),
        (np.array([2.0, 1.0, 10.5, 1.0] * 50), ("1", "2", "10.5")),
        (np.array([2, -1, 10, -1] * 50), ("-1", "2", "10")),
    ]:
        data = ready(table(g=column), group="g")
        assert (data.groups, data.input_shape) == (names, (1,))
        for split in (data.train, data.val, data.test):
            assert split.group.dtype == torch.int64
            assert split.group.tolist() == np.array([1, 0, 2, 0] * 50)[split.rows].tolist()


def test_groups_that_only_held_out_rows_have_are_groups():
    column = np.zeros(200)
    column[rows(ready(classes()))[2]] = 1
    data = ready(table(g=column), group="g")
    assert data.groups == ("0", "1")
    assert (data.train.group.unique().tolist(), data.test.group.unique().tolist()) == ([0], [1])


def test_examples_without_a_group_are_one_together():
    for missing, column in ((None, np.array(["x"] * 200, dtype=object)), (np.nan, np.full(200, 3.0))):
        column[::2] = missing
        data = ready(table(g=column), group="g")
        assert data.groups == (str(column[1]).removesuffix(".0"), "(missing)")
        assert data.train.group.tolist() == (1 - data.train.rows % 2).tolist()


def test_without_groups_there_are_none():
    data = ready(classes())
    assert (data.groups, data.train.group) == ((), None)


def test_weights_and_groups_are_two_columns():
    data = ready(table(w=np.arange(200.0), g=np.arange(200) % 2), weight="w", group="g")
    assert data.input_shape == (1,)
    assert torch.equal(data.train.weight, data.train.rows.float())
    assert torch.equal(data.train.group, data.train.rows % 2)


@pytest.mark.parametrize("stratify", [True, False])
def test_a_published_test_split_is_kept_and_validation_comes_from_the_rest(stratify):
    """The last 50 of 200; of the 150 others a fifth. `test` is not used, so val + test may be anything."""
    labels = np.arange(200) % 3
    data = ready(Source(POINTS, labels, "multiclass", held_out=50), val=0.2, test=0.9, stratify=stratify)
    train, val, test = rows(data)
    assert test == list(range(150, 200))
    assert (len(train), len(val)) == (120, 30)
    assert sorted(train + val) == list(range(150))
    assert (data.val.target.bincount().tolist() == [10, 10, 10]) is stratify
    assert rows(ready(Source(POINTS, labels, "multiclass", held_out=50), val=0.2, seed=1))[1] != val


def test_a_published_test_split_may_lack_classes():
    labels = np.arange(200) % 3
    labels[150:] = 1
    data = ready(Source(POINTS, labels, "multiclass", held_out=50))
    assert data.task.classes == 3
    assert data.test.target.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("task", "target"),
    [
        ("multilabel", np.eye(3)[LABELS]),
        ("multilabel", np.ones((200, 3))),
        ("multiclass", np.full((200, 4), 0.25)),
    ],
)
def test_targets_of_several_numbers_are_split_without_strata(task, target):
    train, val, test = split_rows(Source(POINTS, target, task), SplitShares(), seed=0)
    assert list(map(len, (train, val, test))) == [140, 30, 30]
    assert sorted(chain(train, val, test)) == list(range(200))


def table(**columns):
    return classes(Table({"a": POINTS[:, 0], **columns}))


ONCE = np.eye(1, 200, 7, dtype=int)[0]  # 1 at row 7
NAN = np.where(ONCE, np.nan, 1.0)


def with_nan(shape):
    values = np.zeros(shape)
    values[7, 1] = np.nan
    return values


SAME = "every training row has the same target: nothing can be learned"
FLAT = "no column varies in the training rows: nothing can be learned"
WEIGHTS = "weights are finite numbers of at least 0"
UNSTRATIFIED = "or set dataset.split.stratify=false"
ERRORS = [
    (lambda: ready(classes(np.zeros((0, 2)), np.zeros(0, int))), DataError, "the data set has 0 examples"),
    (lambda: ready(classes(POINTS[:9])), DataError, "9 inputs, but 200 targets"),
    (lambda: ready(classes(POINTS[:, 0])), ConfigError, "inputs must have shape (N, ...), got (200,)"),
    (lambda: ready(classes(target=LABELS[:, None])), ConfigError,
     "targets must have shape (N,), got (200, 1)"),
    (lambda: ready(classes(target=np.eye(3, dtype=int)[LABELS])), ConfigError,
     "targets are rows of whole numbers, of shape (200, 3): pass class ids (N,), as target.argmax(1) gives them of "
     "one-hot rows, or rows of floats that sum to 1"),
    (lambda: ready(Source(POINTS, np.eye(3)[LABELS], "multiclass", ("a", "b"))), ConfigError,
     "2 classes are named, and targets have shape (200, 3)"),
    (lambda: ready(Source(POINTS, np.eye(3)[LABELS] * 1.001, "multiclass")), DataError,
     "the soft label of example 0 sums to 1.001; it must sum to 1"),
    (lambda: ready(Source(POINTS, np.where(POINTS < 0, np.nan, 0.5), "multiclass")), DataError,
     "the soft label of example 0 sums to nan; it must sum to 1"),
    (lambda: ready(Source(POINTS, np.array([[1.5, -0.5]] * 200), "multiclass")), DataError,
     "the soft label of example 0 is -0.5 for class 1: below 0"),
    (lambda: ready(Source(POINTS, np.array([[0.5, 0.5]] * 200), "multiclass")), DataError,
     "every training row has the same target: nothing can be learned"),
    (lambda: ready(Source(POINTS, LABELS, "multilabel")), ConfigError,
     "targets of several labels must have shape (N, K), got (200,)"),
    (lambda: ready(Source(POINTS, np.eye(3)[LABELS] * 2, "multilabel")), DataError,
     f"label {LABELS[0]} of example 0 is 2.0; labels are 0 or 1"),
    (lambda: ready(Source(POINTS, np.eye(3)[LABELS], "regression")), ConfigError,
     "targets must have shape (N,), got (200, 3)"),
    (lambda: ready(classes(target=LABELS / 1)), ConfigError,
     "class ids must be whole numbers, got float64; task 'regression' is for numbers"),
    (lambda: ready(classes(target=LABELS - 1)), DataError,
     "label -1 at example 0, but there are 2 classes: 0 to 1"),
    (lambda: ready(Source(POINTS, LABELS, "multiclass", ("a", "b"))), DataError,
     "label 2 at example 160, but there are 2 classes: 0 to 1"),
    (lambda: ready(Source(POINTS, LABELS, "binary")), DataError,
     "label 2 at example 160, but there are 2 classes: 0 to 1"),
    (lambda: ready(Source(POINTS, LABELS / 2, "binary")), DataError,
     "label 0.5 at example 100, but there are 2 classes: 0 to 1"),
    (lambda: ready(Source(POINTS, NAN, "regression")), DataError, "the target of example 7 is nan"),
    (lambda: ready(Source(POINTS, np.full(200, 0.1), "regression")), DataError, SAME),
    (lambda: ready(classes(target=np.zeros(200, int))), DataError, SAME),
    (lambda: ready(Source(POINTS[:10], [1] + [0] * 9, "binary"), seed=2, stratify=False), DataError, SAME),
    (lambda: ready(classes(with_nan((200, 2)))), DataError, "input of example 7 at (1,) is nan"),
    (lambda: ready(classes(with_nan((200, 2, 3, 3)))), DataError, "input of example 7 at (1, 0, 0) is nan"),
    (lambda: ready(classes(np.full((200, 1), 1e39))), DataError, "input of example 0 at (0,) is 1e+39"),
    (lambda: ready(table(b=np.where(ONCE, np.inf, 1))), DataError, "column 'b' of example 7 is inf"),
    (lambda: ready(classes(Table({"a": np.ones(200)}))), DataError, FLAT),
    (lambda: ready(classes(Table({"a": np.full(200, "x")}))), DataError, FLAT),
    (lambda: Table({"a": np.ones(2), "b": np.ones(3)}), DataError,
     "column 'a' has 2 rows, and column 'b' has 3"),
    (lambda: classes([[1, 2], [3]]), DataError, "inputs differ in shape from one another"),
    (lambda: classes([torch.ones(2), torch.ones(3)]), DataError, "inputs differ in shape from one another"),
    (lambda: classes([None] * 200), DataError, "inputs must be numbers, got object"),
    (lambda: classes(target=["a"] * 200), DataError, "targets must be numbers, got <U1"),
    (lambda: classes(Dataset()), ConfigError,
     "Dataset must have __len__ and __getitem__: a map-style Dataset"),
    (lambda: Source(POINTS, LABELS, "classes"), ConfigError,
     "a Source's task must be one of regression, binary, multilabel, multiclass, got 'classes'"),
    (lambda: ready(classes(), val=0.5, test=0.5), ConfigError,
     "dataset.split: val 0.5 and test 0.5 leave nothing to train on; together they must be below 1"),
    (lambda: ready(Source(POINTS[:2], [1.0, 2.0], "regression")), DataError,
     "2 rows are too few to split into training, validation and test rows"),
    (lambda: ready(Source(POINTS, ONCE, "binary", ("no", "yes"))), DataError,
     f"class 'yes' has 1 row, too few to be in every split; leave it out, {UNSTRATIFIED}"),
    (lambda: ready(classes(), val=0.01), DataError, "a split of 2 rows cannot hold all 3 classes; "
     f"change dataset.split.val and dataset.split.test, {UNSTRATIFIED}"),
    (lambda: ready(Source(POINTS, POINTS[:, 0], "regression"), imbalance=0.1), ConfigError,
     "dataset.imbalance thins classes, and this data set has numbers to predict"),
    (lambda: ready(classes(target=np.repeat([0, 1, 2], [100, 59, 41]), held_out=40)), DataError,
     f"class '2' has 1 row, too few to be in every split; leave it out, {UNSTRATIFIED}"),
    (lambda: ready(Source(POINTS, LABELS, "multiclass", held_out=199)), DataError,
     "1 rows are too few to split into training and validation rows"),
    (lambda: ready(Source(POINTS, LABELS, "multiclass", held_out=300)), DataError,
     "0 rows are too few to split into training and validation rows"),
    (lambda: ready(classes(), group="g"), ConfigError,
     "dataset.group=g names a column, and this data set has none"),
    (lambda: ready(table(gg=LABELS), group="g"), DataError,
     "dataset.group: no column 'g'; did you mean 'gg'? (has: a, gg)"),
    (lambda: ready(classes(Table({"a": np.ones(200)})), group="a"), DataError,
     "no column is left as a feature"),
    (lambda: ready(classes(), weight="w"), ConfigError,
     "dataset.weight=w names a column, and this data set has none"),
    (lambda: ready(table(ww=NAN), weight="w"), DataError,
     "dataset.weight: no column 'w'; did you mean 'ww'? (has: a, ww)"),
    (lambda: ready(table(w=NAN), weight="w"), DataError,
     f"dataset.weight: column 'w' is nan at example 7; {WEIGHTS}"),
    (lambda: ready(table(w=1 - 2 * ONCE), weight="w"), DataError,
     f"dataset.weight: column 'w' is -1 at example 7; {WEIGHTS}"),
    (lambda: ready(table(w=np.full(200, "x")), weight="w"), DataError,
     "dataset.weight: column 'w' holds text; weights are numbers of at least 0"),
    (lambda: ready(table(w=np.zeros(200)), weight="w"), DataError,
     "dataset.weight=w is 0 for every training row: nothing would be learned"),
    (lambda: ready(classes(Table({"a": np.ones(200)})), weight="a"), DataError,
     "no column is left as a feature"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "message"), ERRORS, ids=[case[2] for case in ERRORS])
def test_what_is_wrong_is_said(make, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        make()
