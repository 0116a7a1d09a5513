"""Files of inputs for a trained model: what is read from them, and what is said when they do not fit."""

import re
import sys

import numpy as np
import pytest
import torch

from lossbench.data import DatasetOptions, Fitted, Source, SplitShares, Table, prepare
from lossbench.data.bundled import digits
from lossbench.data.csv import csv
from lossbench.data.inputs import read_inputs, read_source
from lossbench.errors import ConfigError, DataError

CPU = torch.device("cpu")
TRAINED = "age,zip,color,y\n" + "".join(
    f"{'NA' if i % 7 == 0 else 20 + i},{i % 3}000,{['red', 'blue', ''][i % 3]},{i % 2}\n" for i in range(40)
)
ROWS = "age,zip,color\n31,1000,red\n,2000,\n55.5,,green\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """What was fitted on a table of a numeric column, one of numbers that are categories, and one of words."""
    path = tmp_path_factory.mktemp("trained") / "train.csv"
    path.write_text(TRAINED)
    return fitted(csv(path=str(path), target="y", categorical=["zip"]))


@pytest.fixture(scope="module")
def images():
    return fitted(digits())


def fitted(source):
    found = prepare(source, DatasetOptions(split={}), SplitShares(), 0, CPU).fitted
    return Fitted.from_json(found.to_json())


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def wanted(table):
    cells = {"age": np.array([31, np.nan, 55.5]), "zip": ["1000", "2000", None], "color": ["red", None, "green"]}
    return table.encoding.apply(
        Table({name: np.array(column, object if name != "age" else None) for name, column in cells.items()})
    )


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("rows.csv", ROWS, {}),
        ("rows.CSV", ROWS.replace(",", ";"), {}),
        ("rows.tsv", ROWS.replace(",", "\t"), {}),
        ("rows.tsv", ROWS.replace(",", "|"), {"delimiter": "|"}),
        ("rows.csv", ROWS.encode("utf-16"), {"encoding": "utf-16"}),
        ("rows.csv", 'id,color,zip,y,age\n1,red,1000,no,31\n2,,2000,?,\n3,green,,"a\nb",55.5\n', {}),
    ],
    ids=["plain", "semicolons", "tabs", "bars", "UTF-16", "other columns in another order"],
)
def test_a_table_is_read_as_the_training_read_it(tmp_path, table, name, text, options):
    features = read_inputs(write(tmp_path / name, text), table, **options)
    assert list(features.columns) == ["age", "zip", "color"]
    np.testing.assert_array_equal(table.inputs(features, CPU).numpy(), wanted(table))


def test_a_single_row_is_enough(tmp_path, table):
    features = read_inputs(write(tmp_path / "one.csv", "age,zip,color\n31,1000,red\n"), table)
    np.testing.assert_array_equal(table.inputs(features, CPU).numpy(), wanted(table)[:1])


@pytest.mark.parametrize(
    ("classes", "cells", "ids"), [("1 2.5 10", "10.0 2.50 01", [2, 1, 0]), ("1 01 x", "x 1 01", [2, 0, 1])]
)
def test_classes_are_known_as_the_training_read_them(tmp_path, classes, cells, ids):
    """Numbers by their value; where one is a word, all by their text."""
    path = write(tmp_path / "train.csv", "a,y\n" + "".join(f"{i},{classes.split()[i % 3]}\n" for i in range(60)))
    trained = fitted(csv(path=str(path), target="y", task="multiclass"))
    write(path, "y,a\n" + "".join(f"{cell},1\n" for cell in cells.split()))
    source = read_source(trained, path=str(path), target="y")
    by_hand = {name: i for i, name in enumerate(trained.classes)}
    assert source.target.tolist() == [by_hand[classes.split()[k]] for k in ids]
    assert len(trained.split(source, CPU)) == 3


def test_labels_are_read_by_the_names_of_their_columns(tmp_path):
    text = "a,wet,dry\n" + "".join(f"{i},{i % 2},{i % 3 % 2}\n" for i in range(60))
    trained = fitted(csv(path=str(write(tmp_path / "train.csv", text)), target=["wet", "dry"]))
    path = write(tmp_path / "rows.csv", "dry,more,a,wet\n1,x,3,1.0\n1,y,4,0\n")
    split = trained.split(read_source(trained, path=str(path), target=["dry", "wet"]), CPU)
    assert split.target.tolist() == [[1, 1], [0, 1]]
    for target, text, kind, message in [
        ("dry", "a,dry\n1,1\n", ConfigError,
         "the model was trained for task multilabel: dataset.target must be a list of columns"),
        (["wet", "dry"], "a,wet,dry\n1,0,1\n1,0,2\n", DataError,
         "the target 'dry', line 3: '2' is not 0 or 1, as each of several labels is"),
        (["wet", "dry"], "a,wet,dry\n1,yes,1\n", DataError,
         "the target 'wet', line 2: 'yes' is not 0 or 1, as each of several labels is"),
        (["wet", "dry"], "a,wet,dry\n1,,1\n", DataError, "the target 'wet' is missing in 1 row, first at line 2"),
        (["wet", "a"], "a,wet,dry\n1,1,1\n", ConfigError,
         "dataset.target names 'a', and the model was trained with that column as a feature"),
    ]:  # fmt: skip
        with pytest.raises(kind, match=f"^{re.escape(message)}$"):
            read_source(trained, path=str(write(path, text)), target=target)


def test_one_target_is_one_column(tmp_path, table):
    message = r"^the model was trained for task binary: dataset\.target must be one column$"
    with pytest.raises(ConfigError, match=message):
        read_source(table, path=str(write(tmp_path / "rows.csv", TRAINED)), target=["y"])


def test_a_tab_separated_header_may_hold_commas(tmp_path):
    """Where .tsv says tab, no count of characters decides."""
    found = fitted(Source(Table({"a,b,c": np.arange(40.0)}), np.arange(40) % 2, "binary"))
    features = read_inputs(write(tmp_path / "rows.tsv", "a,b,c\tid\n3\t1\n"), found)
    assert features.columns["a,b,c"].tolist() == [3]


@pytest.mark.parametrize("zip_type", ["text", "numbers"])
def test_parquet_is_read_as_the_training_read_its_csv(tmp_path, table, zip_type):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    zips = ["1000", "2000", None] if zip_type == "text" else [1000, 2000, None]
    columns = {"id": [1, 2, 3], "color": ["red", None, "green"], "zip": zips, "age": [31.0, None, 55.5]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    features = read_inputs(tmp_path / "rows.parquet", table)
    np.testing.assert_array_equal(table.inputs(features, CPU).numpy(), wanted(table))


def test_what_is_wrong_in_parquet_is_said(tmp_path, table):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    good = {"age": [31.0, None], "zip": ["1", "2"], "color": ["red", "blue"]}
    for columns, message in [
        ({**good, "age": ["old", "31"]}, f"{path}: column 'age' of example 0 is 'old', {NUMBERS}"),
        ({"ages": [1.0], "zip": ["1"], "color": ["red"]},
         f"{path} has no column 'age'; did you mean 'ages'? (has: ages, zip, color)"),
        ({name: [] for name in good}, f"{path} holds 0 examples"),
    ]:  # fmt: skip
        parquet.write_table(pyarrow.table(columns), path)
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            read_inputs(path, table)
    with pytest.raises(DataError, match=rf"^{path} cannot be read as Parquet: "):
        read_inputs(write(path, "age,zip\n"), table)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, table, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"^reading \.parquet files needs pyarrow: pip install pyarrow$"):
        read_inputs(write(tmp_path / "rows.parquet", "x"), table)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("one.npy", np.save),
        ("one.npz", lambda path, array: np.savez(path, anything=array)),
        ("two.npz", lambda path, array: np.savez_compressed(path, ids=np.arange(3), inputs=array)),
        ("two.npz", lambda path, array: np.savez(path, input=array, target=np.arange(3))),
    ],
)
def test_images_are_read_as_the_data_set_gave_them(tmp_path, images, name, save):
    raw = digits().features[:3]
    save(tmp_path / name, raw)
    features = read_inputs(tmp_path / name, images)
    assert features.dtype == np.float32
    assert torch.equal(images.inputs(features, CPU), images.split(digits(), CPU).inputs[:3])


NUMBERS = "and the model was trained on numbers there"
TABLES = (
    "the model was trained on a table of named columns: the input must be a file .csv, .tsv or .parquet, got 'FILE'"
)
ARRAYS = "the model was trained on arrays: the input must be a file .npy or .npz, got 'FILE'"
OBJECTS = (
    "FILE is no file of np.save, or it holds Python objects, which can run code and are never loaded; "
    "save an array of numbers"
)
TABLE_ERRORS = [
    ("rows.npy", "x", ConfigError(TABLES)),
    ("rows.xlsx", "x", ConfigError(TABLES)),
    ("rows", "x", ConfigError(TABLES)),
    ("rows.csv", None, "there is no file 'FILE'"),
    ("rows.csv", "", "FILE is empty"),
    ("rows.csv", "age,zip,color\n", "FILE has no rows below its header"),
    ("rows.csv", "Age,zip,color\n1,2,3\n", "FILE has no column 'age'; did you mean 'Age'? (has: Age, zip, color)"),
    ("rows.csv", "age,zip,color\n1,2,3\n\n\nold,2,3\n", f"FILE, line 5: column 'age' is 'old', {NUMBERS}"),
    ("rows.csv", "age;zip;color\n1,5;2;3\n", f"FILE, line 2: column 'age' is '1,5', {NUMBERS}"),
    ("rows.csv", "age,zip,color\n1,2,3\ninf,2,3\n", "FILE: column 'age', line 3: inf is too large a number"),
    ("rows.csv", "age,zip,color\n1,2\n", "FILE, line 2: 2 values, but the header has 3"),
    ("rows.csv", b"age,zip,color\n1,2,\xe9\n", "FILE is not utf-8-sig text; try --encoding=cp1252 or utf-16"),
]


def save(path, content):
    if callable(content):
        content(path)
    elif content is not None:
        write(path, content)


def refuses(path, trained, wanted, **options):
    kind, message = (type(wanted), str(wanted)) if isinstance(wanted, Exception) else (DataError, wanted)
    with pytest.raises(kind, match=f"^{re.escape(message.replace('FILE', str(path)))}$"):
        read_inputs(path, trained, **options)


@pytest.mark.parametrize(("name", "content", "wanted"), TABLE_ERRORS)
def test_what_is_wrong_with_a_table_is_said(tmp_path, table, name, content, wanted):
    save(tmp_path / name, content)
    refuses(tmp_path / name, table, wanted)


def test_a_wrong_option_is_named_as_the_command_has_it(tmp_path, table):
    path = write(tmp_path / "rows.csv", ROWS)
    refuses(path, table, ConfigError("--delimiter must be auto, tab or one character, got 'ab'"), delimiter="ab")
    refuses(path, table, ConfigError("--encoding: there is no text encoding 'utf9'"), encoding="utf9")


def npy(array, **options):
    return lambda path: np.save(path, array, **options)


IMAGE = np.zeros((2, 1, 8, 8))
ARRAY_ERRORS = [
    ("x.csv", "x", ConfigError(ARRAYS)),
    ("x.parquet", "x", ConfigError(ARRAYS)),
    ("x.npy", None, "there is no file 'FILE'"),
    ("x.npy", b"", "FILE is empty"),
    ("x.npy", b"not an array", OBJECTS),
    ("x.npy", npy(np.array([{}], object), allow_pickle=True), OBJECTS),
    ("x.npz", lambda path: np.savez(path, np.array([{}], object)), OBJECTS),
    ("x.npz", lambda path: np.savez(path, a=IMAGE, b=IMAGE),
     "FILE must hold one array, or one named input or inputs; it has a, b"),
    ("x.npz", lambda path: np.savez(path, input=IMAGE, inputs=IMAGE),
     "FILE must hold one array, or one named input or inputs; it has input, inputs"),
    ("x.npz", lambda path: np.savez(path), "FILE must hold one array, or one named input or inputs; it has none"),
    ("x.npy", npy(IMAGE[0]), "the model takes inputs of shape (N, 1, 8, 8), got (1, 8, 8); "
     "put one example into a batch of its own: array[None]"),
    ("x.npy", npy(IMAGE[..., :7]), "the model takes inputs of shape (N, 1, 8, 8), got (2, 1, 8, 7)"),
    ("x.npy", npy(IMAGE.astype(str)), "FILE must hold numbers, got <U32"),
    ("x.npy", npy(IMAGE + np.nan), "input of example 0 at (0, 0, 0) is nan"),
    ("x.npy", npy(IMAGE[:0]), "FILE holds 0 examples"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "wanted"), ARRAY_ERRORS)
def test_what_is_wrong_with_an_array_is_said(tmp_path, images, name, content, wanted):
    save(tmp_path / name, content)
    refuses(tmp_path / name, images, wanted)


@pytest.mark.parametrize("kept", [100, 200])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_truncated_array_is_said(tmp_path, images, name, kept):
    whole = tmp_path / f"whole{name[1:]}"
    (np.save if name == "x.npy" else np.savez)(whole, IMAGE)
    path = write(tmp_path / name, whole.read_bytes()[:kept])
    with pytest.raises(DataError, match=rf"^{path} cannot be read: \S.*$"):
        read_inputs(path, images)
