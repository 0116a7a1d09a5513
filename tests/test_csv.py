"""A user's CSV file: how it is read, what is inferred, and what is said when it is wrong."""

import csv as csv_module
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from lossbench.data import DatasetOptions, SplitShares, Table, prepare
from lossbench.data.csv import csv
from lossbench.data.encoding import learn
from lossbench.errors import ConfigError, DataError

CPU = torch.device("cpu")
PLAIN = "a,b c,y\n1,p,0\n2,q,1\n,p,0\n"


@pytest.fixture
def read(tmp_path):
    def reader(text, **options):
        path = tmp_path / "table.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return csv(path=str(path), **{"target": "y", **options})

    return reader


def lines(*cells, name="y"):
    """A file of two columns: a number per row, and `cells`."""
    return f"n,{name}\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))


LAYOUTS = {
    "plain": (PLAIN, {}),
    "semicolons": (PLAIN.replace(",", ";"), {}),
    "tabs": (PLAIN.replace(",", "\t"), {}),
    "bars": (PLAIN.replace(",", "|"), {}),
    "a stated delimiter": (PLAIN.replace(",", ":"), {"delimiter": ":"}),
    "the word tab": (PLAIN.replace(",", "\t"), {"delimiter": "tab"}),
    "spaces": ("a 'b 'y\n1 p 0\n2 q 1\n? p 0\n".replace("'b '", '"b c" '), {"delimiter": " "}),
    "CRLF": (PLAIN.replace("\n", "\r\n"), {}),
    "CR": (PLAIN.replace("\n", "\r"), {}),
    "no newline at the end": (PLAIN.rstrip("\n"), {}),
    "a byte order mark": ("\ufeff" + PLAIN, {}),
    "UTF-16": (PLAIN.encode("utf-16"), {"encoding": "utf-16"}),
    "quotes": ('"a","b c","y"\n"1","p","0"\n"2","q","1"\n"","p","0"\n', {}),
    "a quoted header with a newline": ('a,"b\nc",y\n1,p,0\n2,q,1\n,p,0\n', {}),
    "space around cells": ("a , b c, y\n1 , p, 0\n 2, q , 1\n , p,0\n", {}),
    "spaces before quotes": ('a, "b c", y\n1, "p", 0\n2, "q", 1\n, "p", 0\n', {}),
    "blank lines": ("\n" + PLAIN.replace("\n", "\n\n") + ",,\n  \n", {}),
    "a comma after every line": (PLAIN.replace("\n", ",\n"), {}),
    "columns without a name": (",a,b c,y,\n0,1,p,0,\n1,2,q,1,\n2,,p,0,\n", {}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_table(read, layout):
    text, options = LAYOUTS[layout]
    source = read(text, **options)
    assert list(source.features.columns) == ["a", "b c"]
    np.testing.assert_array_equal(source.features.columns["a"], [1, 2, np.nan])
    assert source.features.columns["b c"].tolist() == ["p", "q", "p"]
    assert (source.task, source.classes, source.target.tolist()) == ("binary", ("0", "1"), [0, 1, 0])


def test_other_delimiters_inside_a_quoted_header_do_not_count(read):
    source = read('"a,b,c,d";y\n1;0\n2;1\n')
    assert list(source.features.columns) == ["a,b,c,d"]


def test_an_encoding_can_be_stated(read):
    source = read("größe,y\n1,ja\n2,nein\n".encode("cp1252"), encoding="cp1252")
    assert list(source.features.columns) == ["größe"]


@settings(deadline=None)
@given(
    cells=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=20),
    delimiter=st.sampled_from(",;\t|"),
)
def test_text_that_a_csv_writer_writes_is_read_back(tmp_path_factory, cells, delimiter):
    cells = [f"x{cell}" for cell in cells]  # no missing word, no number
    path = tmp_path_factory.mktemp("written") / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv_module.writer(file, delimiter=delimiter)
        writer.writerow(["a", "word", "y"])
        writer.writerows([i, cell, i % 2] for i, cell in enumerate(cells))
    source = csv(path=str(path), target="y", task="binary", categorical=["word"])
    assert source.features.columns["word"].tolist() == [cell.strip() for cell in cells]


def test_words_for_missing_values(read):
    words = ["", " ", "NA", "n/a", "#N/A", "<NA>", "NaN", "-nan", "NULL", "None", "?"]
    numbers = read(lines(*words, *range(20), name="x") + "0,7\n", target="n").features.columns["x"]
    assert np.isnan(numbers[: len(words)]).all()
    assert numbers[len(words) :].tolist() == [*range(20), 7]
    texts = read(lines(*words, *"abc", name="x"), target="n").features.columns["x"]
    assert texts.tolist() == [None] * len(words) + ["a", "b", "c"]


@pytest.mark.parametrize(
    ("cell", "number"),
    [("007", 7), ("1e3", 1000), ("-.5", -0.5), ("+2.", 2), (" 3 ", 3), ("0.1", 0.1), ("1E-3", 0.001)],
)
def test_numbers_are_read_as_floats(read, cell, number):
    assert read(f"x,y\n{cell},0\n1,1\n").features.columns["x"][0] == number


def test_a_categorical_column_keeps_its_text(read):
    source = read("zip,y\n02134,0\n10001,1\n", categorical=["zip"])
    assert source.features.columns["zip"].tolist() == ["02134", "10001"]


def test_a_tenth_of_text_is_a_mistake_and_more_is_a_category(read):
    assert read(lines(*range(8), "a", "b", name="x"), target="n").features.columns["x"].dtype == object
    with pytest.raises(DataError, match="line 11: 'a' is not a number, as nearly all others are"):
        read(lines(*range(9), "a", name="x"), target="n")


TARGETS = {
    "two numbers": (["0", "1", "0"], "binary", ("0", "1"), [0, 1, 0]),
    "two numbers with a point": (["1.0", "0.0", "1"], "binary", ("0", "1"), [1, 0, 1]),
    "minus one and one": (["-1", "1", "-1"], "binary", ("-1", "1"), [0, 1, 0]),
    "two fractions": (["2.5", "1.5", "2.5"], "binary", ("1.5", "2.5"), [1, 0, 1]),
    "two words": (["yes", "no ", "yes"], "binary", ("no", "yes"), [1, 0, 1]),
    "truth values": (["True", "False", "True"], "binary", ("False", "True"), [1, 0, 1]),
    "words": (["b", "a", "c"] * 2, "multiclass", ("a", "b", "c"), [1, 0, 2] * 2),
    "words and numbers": (["b", "10", "9"] * 2, "multiclass", ("10", "9", "b"), [2, 0, 1] * 2),
    "whole numbers": (["10", "9", "2"] * 2, "multiclass", ("2", "9", "10"), [2, 1, 0] * 2),
    "large ids": (["1234568", "1234567", "1"] * 2, "multiclass", ("1", "1234567", "1234568"), [2, 1, 0] * 2),
    "20 whole numbers": ([*range(20)] * 2, "multiclass", tuple(map(str, range(20))), [*range(20)] * 2),
    "21 whole numbers": ([*range(21)] * 2, "regression", (), [*range(21)] * 2),
    "whole numbers that hardly repeat": ([3, 5, 7, 7, 9], "regression", (), [3, 5, 7, 7, 9]),
    "fractions": (["0.5", "1", "2"] * 2, "regression", (), [0.5, 1, 2] * 2),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_the_task_is_inferred_from_the_target(read, kind):
    cells, task, classes, target = TARGETS[kind]
    source = read(lines(*cells))
    assert (source.task, source.classes, source.target.tolist()) == (task, classes, target)
    assert source.notes[0].startswith(f"task {task}, inferred from column 'y'")


@pytest.mark.parametrize(
    ("cells", "task", "target"),
    [
        (["0", "1", "1"], "regression", [0, 1, 1]),
        ([*range(30)] * 2, "multiclass", [*range(30)] * 2),
        (["0", "1", "1"], "multiclass", [0, 1, 1]),
        (["7", "8", "a"] * 10, "multiclass", [0, 1, 2] * 10),
    ],
)
def test_a_stated_task_is_taken(read, cells, task, target):
    source = read(lines(*cells), task=task)
    assert (source.task, source.target.tolist(), source.notes) == (task, target, ())


@pytest.mark.parametrize("task", ["auto", "multilabel"])
def test_columns_of_0_and_1_are_labels(read, task):
    source = read("n,b,a,w\n1,0,1,p\n2,1.0,1,q\n3,1,0,p\n", target=["a", "b"], task=task)
    assert (source.task, source.classes, source.notes) == ("multilabel", ("a", "b"), ())
    assert source.target.tolist() == [[1, 0], [1, 1], [0, 1]]
    assert list(source.features.columns) == ["n", "w"]


def test_columns_are_dropped_or_left_out_with_a_note(read):
    rows = "".join(f"{i},{i},,{i},text {i},{i % 2}\n" for i in range(60))
    source = read("n,gone,void,,id,y\n" + rows, drop=["gone"], task="binary")
    assert list(source.features.columns) == ["n"]
    assert source.notes == (
        "column 4 has no name: left out",
        "column 'void' is empty: left out",
        "column 'id' has a different text in most rows: left out (dataset.categorical=[id] keeps it)",
    )


def test_encoding_is_that_of_scikit_learn(read):
    """Median, flags, scale and one-hot by the training rows, against a pipeline that does the same."""
    rng = np.random.default_rng(0)
    cells = rng.normal(3, 5, (50, 3)).round(3).astype(object)
    cells[rng.random((50, 3)) < 0.2] = ""
    words = rng.choice(["red", "green", "blue", "NA"], (50, 2))
    rows = [",".join(map(str, [*c, *w, i % 2])) for i, (c, w) in enumerate(zip(cells, words, strict=True))]
    table = read("a,b,c,d,e,y\n" + "\n".join(rows)).features
    train = np.arange(0, 50, 2)
    raw = np.array([["(missing)" if v is None else v for v in c] for c in table.columns.values()], object).T
    reference = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler()), [0, 1, 2]),
        (OneHotEncoder(), [3, 4]),
        sparse_threshold=0,
    ).fit(raw[train])
    np.testing.assert_allclose(learn(table, train, True).apply(table), reference.transform(raw), atol=1e-6)


def encode(train_rows, *columns, standardize=True):
    names = [str(i) for i in range(len(columns))]
    arrays = [np.array(c, object if any(isinstance(v, str) for v in c) else float) for c in columns]
    table = Table(dict(zip(names, arrays, strict=True)))
    return learn(table, np.arange(train_rows), standardize).apply(table).tolist()


def test_a_word_that_training_never_saw_is_no_level():
    assert encode(3, ["a", "b", None, "z"]) == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_beyond_32_levels_the_rare_ones_are_pooled_and_the_unseen_with_them():
    """31 levels twice and 9 once: 31 columns and one for the pool."""
    common = [f"{i:02}" for i in range(31)]
    rare = [f"r{i}" for i in range(9)]
    encoded = np.array(encode(71, [*common, *common, *rare, "unseen", "00"]))
    assert encoded.shape == (73, 32)
    assert (encoded.sum(1) == 1).all()
    assert (encoded[62:72] == encoded[62]).all()
    assert not (encoded[62] == encoded[72]).all()


@pytest.mark.parametrize(
    "column",
    [
        [5, 5, 5, 9],
        [0.1, 0.1, 0.1, 4e9],
        [np.nan, np.nan, np.nan, 9],
        [5, 5, 5, np.nan],
        ["a", "a", "a", "b"],
    ],
)
def test_what_never_varies_in_training_tells_nothing_later(column):
    """No weight learned from it, so a new value there must not reach the model."""
    varying = [1, 2, 3, 4]
    encoded = np.array(encode(3, varying, column))
    assert encoded[:, :1].tolist() == encode(3, varying)
    assert not encoded[:, 1:].any()


def test_unscaled_numbers_stay_as_they_are():
    assert encode(3, [1, np.nan, 3, 5], standardize=False) == [[1, 0], [2, 1], [3, 0], [5, 0]]


def test_the_weight_column_goes_along_with_its_rows(read):
    source = read("a,w,y\n" + "".join(f"{i},{i / 10},{i % 2}\n" for i in range(40)), drop=[])
    data = prepare(source, DatasetOptions(split={}, weight="w"), SplitShares(), 0, CPU)
    assert data.input_shape == (1,)
    for split in (data.train, data.val, data.test):
        torch.testing.assert_close(split.weight, split.rows.float() / 10)


GOOD = "a,b,y\n1,p,0\n2,q,1\n3,p,0\n"
BOTH = "names the target 'y'; take it out of the list"
ONCE = "nothing can be learned"
TO_CATEGORY = "mend the file, or set dataset.categorical="
ERRORS = [
    ("", {}, "FILE has no rows below its header"),
    ("a,b,y\n", {}, "FILE has no rows below its header"),
    ("a,a,y\n1,2,3\n", {}, "FILE: the header has 'a' more than once"),
    ("a,y\n1,2\n\n1,2,3\n", {}, "FILE, line 4: 3 values, but the header has 2"),
    ('a,y\n"1\n2",0\n1\n', {}, "FILE, line 4: 1 value, but the header has 2"),
    (
        'a,y\n1,0\n"2,1\n3,0\n',
        {},
        "FILE, line 3: a quote is not closed, or out of place (unexpected end of data)",
    ),
    ('a,y\n"1"2,0\n', {}, "FILE, line 2: a quote is not closed, or out of place (',' expected after '\"')"),
    (b"a,y\n\xe9,0\n", {}, "FILE is not utf-8-sig text; try dataset.encoding=cp1252 or utf-16"),
    (GOOD, {"encoding": "utf9"}, ConfigError("dataset.encoding: there is no text encoding 'utf9'")),
    (GOOD, {"delimiter": ""}, ConfigError("dataset.delimiter must be auto, tab or one character, got ''")),
    (GOOD, {"drop": ["y"]}, ConfigError(f"dataset.drop {BOTH}")),
    (GOOD, {"categorical": ["y"]}, ConfigError(f"dataset.categorical {BOTH}")),
    (GOOD, {"target": "yy"}, "dataset.target: no column 'yy'; did you mean 'y'? (has: a, b, y)"),
    (GOOD, {"drop": ["c"]}, "dataset.drop: no column 'c' (has: a, b, y)"),
    (GOOD, {"categorical": ["c"]}, "dataset.categorical: no column 'c' (has: a, b, y)"),
    (",".join("abcdefghijklmn") + "\n" + "1," * 13 + "1\n", {}, "dataset.target: no column 'y' "
     "(has: a, b, c, d, e, f, g, h, i, j, k, l, ... 2 more)"),
    (GOOD, {"drop": ["a", "b"]}, "FILE: no column is left as a feature beside the target 'y'"),
    ("a,y\n1,0\n2,\n3,NA\n", {}, "the target 'y' is missing in 2 rows, first at line 3"),
    (lines("1", "1"), {}, f"the target 'y' has one value only, '1': {ONCE}"),
    (lines("0.5", "0.5"), {"task": "regression"}, f"the target 'y' has one value only, '0.5': {ONCE}"),
    (lines("1", "2", "3"), {"task": "binary"}, "dataset.task=binary, but the target 'y' has 3 values"),
    (lines(*"abcda"), {}, "the target 'y' has 4 different values in 5 rows: is it the right column?"),
    (lines("1", "b", "1"), {"task": "regression"}, "the target 'y', line 3: 'b' is not a number"),
    (lines("1", "inf", "1"), {}, "the target 'y', line 3: inf is too large a number"),
    (
        lines(*range(20), "oops " * 20),
        {},
        "the target 'y', line 22: 'oops oops oops oops oops oops oops oops ...' is not a number, "
        "as nearly all others are; mend the file, or set dataset.task=multiclass",
    ),
    (
        lines(*range(20), '"x\ny"', name="b"),
        {"target": "n"},
        f"column 'b', line 22: 'x y' is not a number, as nearly all others are; {TO_CATEGORY}[b]",
    ),
    (
        "a;y\n1,5;0\n2,5;1\n",
        {},
        f"column 'a', line 2: '1,5' is not a number (write 1234.5); {TO_CATEGORY}[a]",
    ),
    (
        "a,y\n1_000,0\n2,1\n",
        {},
        f"column 'a', line 2: '1_000' is not a number (write 1234.5); {TO_CATEGORY}[a]",
    ),
    (GOOD, {"target": []},
     ConfigError("dataset.target is an empty list; name a column, or the columns of several labels")),
    (GOOD, {"target": ["y", "a", "y"]}, ConfigError("dataset.target names 'y' more than once")),
    (GOOD, {"target": ["y", "a"], "task": "binary"},
     ConfigError("dataset.target names 2 columns: that is dataset.task=multilabel")),
    (GOOD, {"task": "multilabel"},
     ConfigError("dataset.task=multilabel takes a list of columns of 0 and 1: dataset.target=[A,B,C]")),
    (GOOD, {"target": ["y", "a"], "drop": ["a"]},
     ConfigError("dataset.drop names the target 'a'; take it out of the list")),
    (GOOD, {"target": ["y", "c"]}, "dataset.target: no column 'c' (has: a, b, y)"),
    (GOOD, {"target": ["y", "a"]}, "the target 'a', line 3: '2' is not 0 or 1, as each of several labels is"),
    (GOOD, {"target": ["y", "b"]}, "the target 'b', line 2: 'p' is not 0 or 1, as each of several labels is"),
    (GOOD.replace("2,q", ",q"), {"target": ["y", "a"]}, "the target 'a' is missing in 1 row, first at line 3"),
    ("a,y,z\n1,0,0\n2,1,0\n", {"target": ["y", "z"]}, "the target 'z' has one value only, '0': nothing can be learned"),
    ("y,z\n1,0\n0,1\n", {"target": ["y", "z"]}, "FILE: no column is left as a feature beside the targets y, z"),
    ("a,y\n1,0\n-Infinity,1\n", {}, "column 'a', line 3: -inf is too large a number"),
    ("a,y\n1e39,0\n2,1\n", {}, "column 'a', line 2: 1e+39 is too large a number"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "wanted"), ERRORS)
def test_what_is_wrong_is_said_with_its_place(read, tmp_path, text, options, wanted):
    kind, message = (type(wanted), str(wanted)) if isinstance(wanted, Exception) else (DataError, wanted)
    with pytest.raises(kind, match=f"^{re.escape(message.replace('FILE', str(tmp_path / 'table.csv')))}$"):
        read(text, **options)


def test_a_file_that_is_not_there_or_is_a_directory(tmp_path):
    with pytest.raises(DataError, match=rf"^dataset\.path: there is no file '{tmp_path}/none\.csv'$"):
        csv(path=f"{tmp_path}/none.csv", target="y")
    with pytest.raises(DataError, match=rf"^dataset\.path: cannot read '{tmp_path}': Is a directory$"):
        csv(path=str(tmp_path), target="y")
