"""What the training rows taught, kept as JSON: the same inputs later, and what is said where it does not fit."""

import copy
import json
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder
from torch.utils.data import Dataset

from lossbench.data import DatasetOptions, Fitted, Source, SplitShares, Table, prepare
from lossbench.data import encoding as encodings
from lossbench.data.bundled import breast_cancer, digits
from lossbench.data.csv import csv
from lossbench.data.encoding import learn
from lossbench.data.scale import Scale
from lossbench.data.table_encoding import Number, TableEncoding
from lossbench.data.target import as_task
from lossbench.errors import CheckpointError, ConfigError, DataError
from lossbench.tasks import Binary, Multiclass, Regression

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def saved(encoding):
    """By way of a file."""
    return encodings.from_json(json.loads(json.dumps(encoding.to_json(), allow_nan=False)), "encoding")


def ready(source, **options):
    return prepare(source, DatasetOptions(split={}, **options), SplitShares(), 0, CPU)


def fitted(source, **options):
    return ready(source, **options).fitted


def scaled(values, train, axes=(0,)):
    mean = values[train].mean(axes, keepdims=True, dtype=np.float64)
    std = values[train].std(axes, keepdims=True, dtype=np.float64)
    scale = np.divide(1, std, out=np.zeros_like(std), where=std > 1e-12 * np.abs(mean))
    return (values - mean.astype(values.dtype)) * scale.astype(values.dtype)


def by_scikit_learn(table, train, standardize):
    numbers = [c for c in table.columns.values() if c.dtype.kind in "biuf"]
    words = [c for c in table.columns.values() if c.dtype.kind == "O"]
    words = [np.array(["(missing)" if cell is None else cell for cell in c], object) for c in words]
    words = [c for c in words if len(set(c[train])) > 1]
    blocks = []
    if numbers:
        fill = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        values = np.column_stack(numbers)
        filled = fill.fit(values[train]).transform(values)
        blocks.append(scaled(filled, train) if standardize else filled)
    if words:
        levels = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=32, sparse_output=False)
        values = np.column_stack(words)
        blocks.append(levels.fit(values[train]).transform(values))
    return np.hstack(blocks).astype(np.float32)


def gappy(path, rows, numbers, words, gaps):
    """A CSV file of numbers in several scales, of words with few and with many levels, and of gaps in both."""

    def cells(i):
        scale = 10.0 ** RNG.integers(-3, 4, size=numbers)
        found = RNG.normal(1e3 * np.arange(numbers), scale)
        yield from ("NA" if RNG.random() < gaps * (k % 2) else f"{x:.7g}" for k, x in enumerate(found))
        yield from (RNG.choice(["", *(f"level {n}" for n in range(2 + 40 * k))]) for k in range(words))
        yield "constant"
        yield str(i % 3)

    names = [*(f"n{i}" for i in range(numbers)), *(f"w{i}" for i in range(words)), "same", "y"]
    path.write_text("".join(",".join(row) + "\n" for row in (names, *map(cells, range(rows)))))
    return csv(path=str(path), target="y", categorical=[f"w{i}" for i in range(words)]).features


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(
    ("rows", "numbers", "words", "gaps"),
    [(60, 3, 2, 0.3), (500, 2, 3, 0.2), (300, 1, 0, 0), (300, 2, 0, 0.9), (150, 0, 2, 0), (400, 33, 1, 0.05)],
)
def test_a_saved_table_encoding_gives_what_scikit_learn_gives_bit_for_bit(
    tmp_path, rows, numbers, words, gaps, standardize
):
    table = gappy(tmp_path / "table.csv", rows, numbers, words, gaps)
    train = np.sort(RNG.permutation(rows)[: rows // 2])
    encoding = saved(learn(table, train, standardize))
    wanted = by_scikit_learn(table, train, standardize)
    inputs = encoding.apply(table)
    assert inputs.dtype == np.float32
    assert encoding.input_shape == wanted.shape[1:]
    np.testing.assert_array_equal(inputs, wanted)


def test_a_saved_encoding_of_measurements_is_the_same_bit_for_bit():
    table, train = breast_cancer().features, np.arange(0, 569, 2)
    inputs = saved(learn(table, train, True)).apply(table)
    np.testing.assert_array_equal(inputs, by_scikit_learn(table, train, True))


def test_a_saved_encoding_of_images_is_the_same_bit_for_bit():
    images, train = digits().features, np.arange(0, 1797, 2)
    inputs = saved(learn(images, train, True)).apply(images)
    np.testing.assert_array_equal(inputs, scaled(images, train, (0, 2, 3)))


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 4, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8, np.int64, bool])
def test_a_saved_encoding_of_arrays_is_the_same_bit_for_bit(dtype, shape):
    values, train = RNG.normal(3, 20, (80, *shape)).astype(dtype), np.arange(50)
    exact = values.astype(np.float64 if dtype in (np.float64, np.int64) else np.float32)
    axes = (0, 2, 3) if len(shape) == 3 else (0,)
    encoding = saved(learn(values, train, True))
    np.testing.assert_array_equal(encoding.apply(values), scaled(exact, train, axes).astype(np.float32))
    np.testing.assert_array_equal(encoding.apply(exact), encoding.apply(values))
    np.testing.assert_array_equal(saved(learn(values, train, False)).apply(values), values.astype(np.float32))


def test_the_same_numbers_in_another_precision_give_the_same_inputs():
    values = RNG.normal(size=(40, 3)).astype(np.float32)
    encoding = learn(values, np.arange(30), True)
    np.testing.assert_array_equal(encoding.apply(values.astype(np.float64)), encoding.apply(values))


def words(*cells):
    return np.array(cells, dtype=object)


TABLE = Table({"a": np.array([1, 2, 3, np.nan]), "w": words("p", "q", None, "p"), "c": np.array([0, 1, 0, 1])})


def test_other_tables_are_read_by_the_names_of_their_columns():
    """Median 2; levels (missing), p, q in the order of the alphabet; unseen words are in no column."""
    encoding = saved(learn(TABLE, np.arange(4), False))
    other = Table(
        {"new": words("x", "y"), "c": np.array([5, np.nan]), "w": words("q", "unseen"), "a": np.array([np.nan, 7])}
    )
    # a, c, whether a is missing, then the levels; c had no gaps in training, so none is flagged
    assert encoding.apply(other).tolist() == [[2, 5, 1, 0, 0, 1], [7, 0.5, 0, 0, 0, 0]]


def test_a_column_without_any_value_is_missing_whatever_its_type():
    encoding = learn(TABLE, np.arange(4), False)
    other = Table({"a": words(None), "w": np.array([np.nan]), "c": np.array([1])})
    assert encoding.apply(other).tolist() == [[2, 1, 1, 1, 0, 0]]


def changed(**columns):
    return lambda: {**TABLE.columns, **columns}


LACKS = "the model was trained with a column that is not there: no column"
IMAGES = np.zeros((2, 1, 8, 8), np.float32)
REFUSED = [
    ("table", lambda: Table({k: v for k, v in TABLE.columns.items() if k != "w"}), DataError,
     f"{LACKS} 'w' (has: a, c)"),
    ("table", lambda: Table({"age": np.ones(2), "ww": words("p", "q"), "a": np.ones(2), "c": np.ones(2)}), DataError,
     f"{LACKS} 'w'; did you mean 'ww'? (has: age, ww, a, c)"),
    ("table", lambda: Table({**TABLE.columns, "a": words("1", None, "3", "4")}), DataError,
     "column 'a' holds text, and the model was trained on numbers there"),
    ("table", lambda: Table({**TABLE.columns, "w": np.ones(4)}), DataError,
     "column 'w' holds numbers, and the model was trained on text there; "
     "dataset.categorical=[w] reads the column of a CSV file as text"),
    ("table", lambda: Table({**TABLE.columns, "c": np.array([0, 1, np.inf, 0])}), DataError,
     "column 'c' of example 2 is inf"),
    ("table", lambda: IMAGES, ConfigError,
     "the model was trained on a table of named columns, and these data are an array"),
    ("images", lambda: TABLE, ConfigError,
     "the model was trained on arrays of shape (N, 1, 8, 8), and these data are a table of named columns"),
    ("images", lambda: Rows(), ConfigError,
     "the model was trained on arrays of shape (N, 1, 8, 8), and these data are a Rows"),
    ("images", lambda: IMAGES[:, :, :7], DataError,
     "the model takes inputs of shape (N, 1, 8, 8), got (2, 1, 7, 8)"),
    ("images", lambda: IMAGES[0], DataError, "the model takes inputs of shape (N, 1, 8, 8), got (1, 8, 8); "
     "put one example into a batch of its own: array[None]"),
    ("images", lambda: np.float32(1), ConfigError,
     "the model was trained on arrays of shape (N, 1, 8, 8), and these data are a float32"),
    ("images", lambda: np.array(1.0), DataError, "the model takes inputs of shape (N, 1, 8, 8), got ()"),
    ("images", lambda: np.where(np.arange(128).reshape(2, 1, 8, 8) == 9, np.nan, 1), DataError,
     "input of example 0 at (0, 1, 1) is nan"),
    ("images", lambda: np.where(np.arange(128).reshape(2, 1, 8, 8) == 64, -np.inf, 1), DataError,
     "input of example 1 at (0, 0, 0) is -inf"),
    ("dataset", lambda: TABLE, ConfigError,
     "the model was trained on arrays of shape (N, 3), and these data are a table of named columns"),
    ("dataset", lambda: Rows(4), DataError, "example 0 has shape (4,), and the model takes (3,)"),
    ("dataset", lambda: np.full((2, 3), np.nan), DataError, "input of example 0 at (0,) is nan"),
]  # fmt: skip


class Rows(Dataset):
    """Ten examples of as many numbers, all of them the row's number."""

    def __init__(self, size=3):
        self.size = size

    def __len__(self):
        return 10

    def __getitem__(self, row):
        return torch.full((self.size,), float(row))


LEARNED = {
    "table": lambda: learn(TABLE, np.arange(4), True),
    "images": lambda: learn(digits().features, np.arange(100), True),
    "dataset": lambda: learn(Rows(), np.arange(5), True),
}


@pytest.mark.parametrize(("trained", "make", "kind", "message"), REFUSED, ids=[case[3] for case in REFUSED])
def test_features_that_do_not_fit_are_refused(trained, make, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        LEARNED[trained]().apply(make())


def test_a_data_set_that_is_read_row_by_row_stays_as_it_is():
    encoding = saved(learn(Rows(), np.arange(5), True))
    rows = Rows()
    assert encoding.apply(rows) is rows
    np.testing.assert_array_equal(encoding.apply(np.arange(6).reshape(2, 3)), [[0, 1, 2], [3, 4, 5]])


POINTS = RNG.normal([1, -5], [2, 0.1], (60, 2))
THREE = np.repeat([0, 1, 2], 20)
SOURCES = {
    "multiclass": lambda: Source(POINTS, THREE, "multiclass", ("ant", "bee", "cat")),
    "binary": lambda: Source(POINTS, THREE > 0, "binary"),
    "multilabel": lambda: Source(POINTS, np.eye(3)[THREE], "multilabel", ("wet", "dry", "hot")),
    "soft labels": lambda: Source(POINTS, np.eye(3)[THREE] * 0.7 + 0.1, "multiclass", ("ant", "bee", "cat")),
    "regression": lambda: Source(POINTS, POINTS[:, 0] * 3 + 100, "regression"),
    "table": lambda: Source(
        Table({"a": POINTS[:, 0], "w": words(*"pqr" * 20)}), THREE, "multiclass", ("ant", "bee", "cat")
    ),
    "images": digits,
    "measurements": breast_cancer,
    "dataset": lambda: Source(Rows(), THREE[::6], "multiclass"),
}


def dumped(found):
    return json.loads(json.dumps(found.to_json(), allow_nan=False))


def prepared(name):
    return ready(SOURCES[name]()) if name != "dataset" else prepare(
        SOURCES[name](), DatasetOptions(split={}), SplitShares(stratify=False), 0, CPU
    )  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_what_was_fitted_is_the_same_after_a_file(name):
    data = prepared(name)
    again = Fitted.from_json(dumped(data.fitted))
    assert again == data.fitted
    assert (again.task, again.input_shape, again.classes) == (data.task, data.input_shape, data.classes)
    assert again.to_json() == data.fitted.to_json()


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "dataset"])
def test_the_whole_source_as_other_data_is_what_each_split_was(name):
    data = prepared(name)
    whole = Fitted.from_json(dumped(data.fitted)).split(SOURCES[name](), CPU)
    assert whole.rows.tolist() == list(range(len(whole)))
    for split in (data.train, data.val, data.test):
        part = whole.take(split.rows)
        assert torch.equal(part.inputs, split.inputs)
        assert torch.equal(part.target, split.target)
        assert part.target.dtype == split.target.dtype


def test_the_inputs_alone_are_those_of_the_split():
    source = SOURCES["table"]()
    found = fitted(source)
    assert torch.equal(found.inputs(source.features, CPU), found.split(source, CPU).inputs)
    assert prepared("dataset").fitted.inputs(Rows(), CPU).tolist() == [[row] * 3 for row in range(10)]


def test_other_data_that_are_read_row_by_row():
    split = prepared("dataset").fitted.split(Source(Rows(), np.arange(10) % 3, "multiclass"), CPU, timeout=7)
    assert (split.inputs.timeout, split.inputs[4].tolist()) == (7, [4, 4, 4])


def test_classes_are_found_by_their_names():
    found = Fitted.from_json(dumped(fitted(SOURCES["multiclass"]())))
    other = Source(POINTS[:4], [0, 1, 1, 0], "multiclass", ("cat", "ant"))
    assert found.split(other, CPU).target.tolist() == [2, 0, 0, 2]
    unused = Source(POINTS[:2], [1, 1], "multiclass", ("dog", "bee"))
    assert found.split(unused, CPU).target.tolist() == [1, 1]
    nameless = Source(POINTS[:3], [2, 0, 1], "multiclass")
    assert found.split(nameless, CPU).target.tolist() == [2, 0, 1]
    yes = fitted(Source(POINTS, THREE > 0, "binary", ("no", "yes")))
    target = yes.split(Source(POINTS[:2], [0, 1], "binary", ("yes", "no")), CPU).target
    assert (target.tolist(), target.dtype) == ([1, 0], torch.float32)


def test_labels_are_found_by_their_names():
    found = Fitted.from_json(dumped(fitted(SOURCES["multilabel"]())))
    other = Source(POINTS[:2], [[0, 1, 1], [1, 0, 0]], "multilabel", ("dry", "hot", "wet"))
    assert found.split(other, CPU).target.tolist() == [[1, 0, 1], [0, 1, 0]]
    nameless = Source(POINTS[:1], [[0, 1, 1]], "multilabel")
    assert found.split(nameless, CPU).target.tolist() == [[0, 1, 1]]


def test_class_ids_are_soft_labels_too():
    found = Fitted.from_json(dumped(fitted(SOURCES["soft labels"]())))
    target = found.split(Source(POINTS[:2], [1, 0], "multiclass", ("bee", "cat")), CPU).target
    assert (target.tolist(), target.dtype) == ([[0, 0, 1], [0, 1, 0]], torch.float32)


@pytest.mark.parametrize("head", [{"head": "quantiles", "levels": (0.1, 0.9)}, {"head": "log_rate"}])
def test_heads_and_forms_are_kept(head):
    found = fitted(SOURCES["regression"]())
    found = replace(found, task=replace(found.task, **head))
    assert Fitted.from_json(dumped(found)) == found
    sure = fitted(SOURCES["multilabel"]())
    sure = replace(sure, task=replace(sure.task, output="sigmoid"))
    assert Fitted.from_json(dumped(sure)) == sure


def test_rates_are_of_counts():
    found = fitted(SOURCES["regression"]())
    rates = replace(found, task=found.task.suited(["log_rate", "counts"]))
    counts = Source(POINTS[:3], [0, 2.5, 1], "regression")
    assert rates.task.in_units(rates.split(counts, CPU).target).tolist() == pytest.approx([0, 2.5, 1], abs=1e-4)
    below = Source(POINTS[:3], [0, 2, -1.2], "regression")
    message = "^the loss needs counts of 0 or more, and the target of example 2 is -1.2$"
    with pytest.raises(DataError, match=message):
        rates.split(below, CPU)
    assert len(found.split(below, CPU)) == 3


def test_other_targets_are_standardised_by_the_training():
    """(target - mean) / std of the training rows, by hand."""
    found = Fitted(Regression(100.0, 4.0), (2,), (), learn(POINTS, np.arange(60), False))
    assert found.split(Source(POINTS[:2], [100.0, 110.0], "regression"), CPU).target.tolist() == [0, 2.5]


def test_other_data_bring_their_weights():
    table = Table({"a": POINTS[:, 0], "w": np.arange(60.0)})
    found = fitted(Source(table, THREE, "multiclass"), weight="w")
    assert found.split(Source(table, THREE, "multiclass"), CPU, weight="w").weight.tolist() == list(range(60))
    assert found.split(Source(table, THREE, "multiclass"), CPU).weight is None


def other(*target, names=(), task="multiclass"):
    return Source(POINTS[: len(target)], target, task, names)


OTHERS = [
    (other(0.5, 1, task="regression"), ConfigError, "the model was trained for task multiclass, and these data are for "
     "task regression; dataset.task=multiclass states the task of a CSV file"),
    (other(0, 1, names=("ant", "dog")), DataError,
     "class 'dog' of example 1 is not among the 3 classes that the model was trained on (ant, bee, cat)"),
    (other(0, 1, 3), DataError,
     "class '3' of example 2 is not among the 3 classes that the model was trained on (ant, bee, cat)"),
    (other(0, -1), DataError, "label -1 at example 1, but there are 1 classes: 0 to 0"),
    (other([0.5, 0.5, 0]), ConfigError, "the model was trained for task multiclass, and these data are for "
     "task soft_labels; dataset.task=multiclass states the task of a CSV file"),
    (other(), DataError, "the data set has 0 examples"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "kind", "message"), OTHERS, ids=[case[2] for case in OTHERS])
def test_other_data_for_another_task_or_of_other_classes_are_refused(source, kind, message):
    if not len(source.target):
        object.__setattr__(source, "target", np.zeros(0, int))
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        fitted(SOURCES["multiclass"]()).split(source, CPU)


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        ((), 2, "targets have 2 columns, and the model was trained on 3"),
        (("wet", "dry"), 2, "these data lack 'hot', and the model was trained on 3 classes (wet, dry, hot)"),
        (("wet", "dry", "hot", "icy"), 4, "these data have 'icy', and the model was trained on 3 classes "
         "(wet, dry, hot)"),
    ],
)  # fmt: skip
def test_other_labels_are_refused(names, columns, message):
    found = fitted(SOURCES["multilabel"]())
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        found.split(Source(POINTS[:1], np.ones((1, columns)), "multilabel", names), CPU)


def places(node, path=()):
    """The path of every value in a JSON tree."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def put(tree, path, change):
    """A copy of the tree in which `change` was called with what holds the value at `path`, and its key."""
    top = {"": copy.deepcopy(tree)}
    holder, key = top, ""
    for step in path:
        holder, key = holder[key], step
    change(holder, key)
    return top.get("")


def remove(holder, key):
    del holder[key]


def replace_by(value):
    return lambda holder, key: holder.__setitem__(key, value)


@pytest.mark.parametrize("name", ["table", "regression", "images", "dataset"])
def test_a_damaged_file_is_said_and_never_a_traceback(name):
    """Each value in turn is taken away or made another: only what is as good as it was may be read."""
    good = dumped(prepared(name).fitted)
    words_only = {"kind", "dtype", "name"}
    for path in places(good):
        for change in (remove, *map(replace_by, (None, "x", -1, 10**6, 0.5, True, [], {}, [[1]], float("nan")))):
            try:
                found = Fitted.from_json(put(good, path, change))
            except CheckpointError:
                continue
            assert change is not remove or isinstance(path[-1], int), f"{path} is not missed"
            assert found.encoding.input_shape == found.input_shape
            assert not path or path[-1] not in words_only or good["task"]["name"] == found.task.name


NUMBERS = {"name": "regression", "mean": 0, "std": 1, "head": "value", "levels": []}
DAMAGED = [
    ((), replace_by([]), "its preprocessing is not an object"),
    (("task",), remove, "its preprocessing has no 'task'"),
    (("extra",), replace_by(1), "its preprocessing has an unknown key 'extra'"),
    (("task", "name"), replace_by("ranking"), "its preprocessing.task has no name out of "
     "regression, binary, multilabel, multiclass, soft_labels"),
    (("task", "classes"), replace_by(2.5), "its preprocessing.task.classes is not a whole number of at least 0"),
    (("task", "classes"), replace_by(4), "its preprocessing.task has 3 class_counts for 4 classes"),
    (("task", "output"), replace_by("sigmoid"), "its preprocessing.task.output is not one of logits, softmax, "
     "log_softmax"),
    (("classes",), replace_by(["ant", "bee"]), "its preprocessing names 2 classes for task multiclass"),
    (("task",), replace_by({**NUMBERS, "std": 0}), "its preprocessing.task.std is not above 0"),
    (("task",), replace_by({**NUMBERS, "head": "mode"}), "its preprocessing.task.head is not one of value, quantiles, "
     "variance, log_rate"),
    (("task",), replace_by({**NUMBERS, "head": "quantiles", "levels": [0.9, 0.1]}), "its preprocessing.task has levels "
     "[0.9, 0.1] for head quantiles"),
    (("task",), replace_by({**NUMBERS, "head": "quantiles"}), "its preprocessing.task has levels [] for head "
     "quantiles"),
    (("task",), replace_by({**NUMBERS, "levels": [1.5]}), "its preprocessing.task has levels [1.5] for head value"),
    (("task",), replace_by({**NUMBERS, "head": "variance", "levels": [0.5]}), "its preprocessing.task has levels "
     "[0.5] for head variance"),
    (("task",), replace_by({**NUMBERS, "head": "log_rate"}), "its preprocessing.task has a mean of 0 for head "
     "log_rate"),
    (("classes", 0), replace_by(7), "its preprocessing.classes[0] is not text"),
    (("input_shape",), replace_by([7]), "its preprocessing gives inputs of shape (4,), not (7,)"),
    (("encoding", "kind"), replace_by("pickle"), "its preprocessing.encoding has no kind out of table, array, dataset"),
    (("encoding", "scale", "std", 0), replace_by(-1), "its preprocessing.encoding.scale.std[0] is below 0"),
    (("encoding", "scale", "mean"), replace_by([1, 2]), "its preprocessing.encoding.scale has a mean and a std of "
     "different lengths"),
    (("encoding", "numbers", 0, "flag"), replace_by(True), "its preprocessing.encoding.scale has 1 numbers, not 2"),
    (("encoding", "numbers", 0, "fill"), replace_by(float("inf")), "its preprocessing.encoding.numbers[0].fill is not "
     "a finite number"),
    (("encoding", "numbers", 0, "fill"), replace_by(10**400), "its preprocessing.encoding.numbers[0].fill is not a "
     "finite number"),
    (("task", "classes"), replace_by(10**400), "its preprocessing.task.classes is too large a number"),
    (("classes", 0), replace_by("a\ud800"), "its preprocessing.classes[0] is not whole text"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "change", "what"), DAMAGED, ids=[case[2] for case in DAMAGED])
def test_where_a_file_is_damaged_is_said(path, change, what):
    message = f"the checkpoint is damaged ({what}); use another one, or train again"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        Fitted.from_json(put(dumped(fitted(SOURCES["table"]())), path, change))


@pytest.mark.parametrize("std", [5e-324, 1e-300])
def test_a_deviation_that_blows_up_is_an_outlier_and_no_warning(std):
    numbers = Table({"a": np.array([1.0, 2.0])})
    scale = Scale((0.0,), (std,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="once scaled: an outlier beyond all others"):
            TableEncoding((Number("a", 0.0, False),), scale, ()).apply(numbers)
        with pytest.raises(DataError, match="once scaled"):
            as_task(np.array([1.0, 2.0]), Regression(0.0, std))


def test_another_format_is_said():
    newer = {**dumped(fitted(SOURCES["table"]())), "format": 3, "more": 1}
    with pytest.raises(
        CheckpointError, match=r"^the checkpoint's preprocessing has format 3, and this lossbench reads format 2;"
    ):
        Fitted.from_json(newer)


def test_tasks_keep_their_numbers():
    kinds = [fitted(SOURCES[name]()).task for name in ("multiclass", "binary", "regression")]
    assert kinds[:2] == [Multiclass(3, (14.0, 14.0, 14.0)), Binary()]
    assert (kinds[2].mean, kinds[2].std) == (pytest.approx(103, abs=2), pytest.approx(6, abs=2))
