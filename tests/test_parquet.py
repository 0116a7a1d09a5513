"""A user's Parquet file: what its types become, and what is said when it is wrong."""

import datetime
import re
import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lossbench.data import DatasetOptions, SplitShares, prepare
from lossbench.data.csv import csv
from lossbench.data.parquet import parquet
from lossbench.errors import ConfigError, DataError

DAY = datetime.date(2020, 2, 3)


@pytest.fixture
def read(tmp_path):
    def reader(columns, **options):
        path = tmp_path / "table.parquet"
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
        return parquet(path=str(path), **{"target": "y", **options})

    return reader


NUMBERS = {
    "whole": pa.array([1, None, 3, 4]),
    "large": pa.array([2**60, None, 3, 4], pa.uint64()),
    "small": pa.array([0.5, None, float("nan"), 4], pa.float32()),
    "half": pa.array(np.array([0.5, 1, 2, 4], np.float16)),
    "money": pa.array([Decimal("1.25"), None, Decimal("3"), Decimal("4")]),
    "flag": pa.array([True, None, False, True]),
    "coded": pa.array([10, None, 30, 10]).dictionary_encode(),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_and_truth_values_are_numbers(read, name):
    column = read({name: NUMBERS[name], "y": [0, 1, 0, 1]}).features.columns[name]
    assert column.dtype == np.float64
    wanted = [np.nan if v is None else float(v) for v in NUMBERS[name].to_pylist()]
    np.testing.assert_array_equal(column, wanted)


WORDS = {
    "text": pa.array(["a", None, "02134", "a"]),
    "large": pa.array(["a", None, "02134", "a"], pa.large_string()),
    "coded": pa.array(["a", None, "02134", "a"]).dictionary_encode(),
}


@pytest.mark.parametrize("name", WORDS)
def test_text_is_words_also_where_it_looks_like_a_number(read, name):
    assert read({name: WORDS[name], "y": [0, 1, 0, 1]}).features.columns[name].tolist() == ["a", None, "02134", "a"]


def test_categorical_columns_of_any_type_are_words(read):
    source = read({"zip": [2134, None, 3], "day": [DAY, None, DAY], "y": [0, 1, 0]}, categorical=["zip", "day"])
    assert source.features.columns["zip"].tolist() == ["2134", None, "3"]
    assert source.features.columns["day"].tolist() == ["2020-02-03", None, "2020-02-03"]


def test_other_types_and_empty_columns_are_left_out_with_a_note(read):
    n = 60
    source = read(
        {
            "n": np.arange(n),
            "day": [DAY] * n,
            "list": [[1, 2]] * n,
            "void": pa.nulls(n),
            "gone": np.arange(n),
            "id": [f"text {i}" for i in range(n)],
            "__index_level_0__": np.arange(n),
            "y": np.arange(n) % 2,
        },
        drop=["gone"],
    )
    assert list(source.features.columns) == ["n"]
    assert source.notes == (
        "column 'day' holds date32[day]: left out (dataset.categorical=[day] reads it as words)",
        "column 'list' holds list<element: int64>: left out (dataset.categorical=[list] reads it as words)",
        "task binary, inferred from column 'y' (2 classes); dataset.task=... states another",
        "column 'void' is empty: left out",
        "column 'id' has a different text in most rows: left out (dataset.categorical=[id] keeps it)",
    )


TARGETS = {
    "two numbers": ([0, 1, 0], "binary", ("0", "1"), [0, 1, 0]),
    "truth values": ([True, False, True], "binary", ("0", "1"), [1, 0, 1]),
    "words": (["b", "a", "c"] * 2, "multiclass", ("a", "b", "c"), [1, 0, 2] * 2),
    "words that are numbers": (["10", "9", "9"] * 2, "binary", ("10", "9"), [0, 1, 1] * 2),
    "whole numbers": ([10, 9, 2] * 2, "multiclass", ("2", "9", "10"), [2, 1, 0] * 2),
    "fractions": ([0.5, 1, 2] * 2, "regression", (), [0.5, 1, 2] * 2),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_the_task_is_inferred_as_for_csv(read, kind):
    cells, task, classes, target = TARGETS[kind]
    source = read({"n": np.arange(len(cells)), "y": cells})
    assert (source.task, source.classes, source.target.tolist()) == (task, classes, target)


def test_a_table_is_the_same_from_csv_and_from_parquet(tmp_path):
    rng = np.random.default_rng(0)
    words = rng.choice(["red", "green"], 40).tolist()
    numbers = rng.normal(size=40).round(3)
    pq.write_table(pa.table({"w": words, "n": numbers, "y": numbers**2}), tmp_path / "t.parquet")
    rows = "".join(f"{w},{n},{n**2}\n" for w, n in zip(words, numbers.tolist(), strict=True))
    (tmp_path / "t.csv").write_text(f"w,n,y\n{rows}")
    sources = [
        csv(path=str(tmp_path / "t.csv"), target="y"),
        parquet(path=str(tmp_path / "t.parquet"), target="y"),
    ]
    one, other = (prepare(s, DatasetOptions(split={}), SplitShares(), 0, torch.device("cpu")) for s in sources)
    assert torch.equal(one.train.inputs, other.train.inputs)
    assert torch.equal(one.train.target, other.train.target)
    assert sources[0].notes == sources[1].notes


def test_columns_of_0_and_1_are_labels(read):
    table = {"n": [1, 2, 3], "a": [0, 1, 1], "b": [True, False, True], "c": [0.0, 1.0, 0.0]}
    source = read(table, target=["a", "b", "c"])
    assert (source.task, source.classes) == ("multilabel", ("a", "b", "c"))
    assert source.target.tolist() == [[0, 1, 0], [1, 0, 1], [1, 1, 0]]


PLAIN = {"a": [1, 2, 3], "y": [0, 1, 0]}
BOTH = "names the target 'y'; take it out of the list"
ERRORS = [
    (PLAIN, {"drop": ["y"]}, ConfigError(f"dataset.drop {BOTH}")),
    (PLAIN, {"target": "yy"}, "dataset.target: no column 'yy'; did you mean 'y'? (has: a, y)"),
    (PLAIN, {"drop": ["c"]}, "dataset.drop: no column 'c' (has: a, y)"),
    (PLAIN, {"categorical": ["c"]}, "dataset.categorical: no column 'c' (has: a, y)"),
    (PLAIN, {"drop": ["a"]}, "FILE: no column is left as a feature beside the target 'y'"),
    (PLAIN | {"y": [0, None, 1]}, {}, "the target 'y' is missing in 1 row, first at row 1"),
    (PLAIN | {"y": [0, float("nan"), 1]}, {}, "the target 'y' is missing in 1 row, first at row 1"),
    (PLAIN | {"y": [1, 1, 1]}, {}, "the target 'y' has one value only, '1': nothing can be learned"),
    (PLAIN | {"y": [DAY] * 3}, {}, "the target 'y' holds date32[day]: a target must be numbers or words"),
    (PLAIN | {"y": ["a", "b", "a"]}, {"task": "regression"},
     "the target 'y' holds words, and dataset.task=regression needs numbers"),
    (PLAIN | {"a": [1, 2, float("-inf")]}, {}, "column 'a', row 2: -inf is too large a number"),
    (pa.Table.from_arrays([pa.array([1, 2])] * 2, ["y", "y"]), {},
     "FILE cannot be read as Parquet: Multiple matches for FieldRef.Name(y) in y: int64"),
    (pa.table({"a": pa.array([], pa.int64()), "y": pa.array([], pa.int64())}), {}, "FILE has no rows"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "options", "wanted"), ERRORS)
def test_what_is_wrong_is_said(read, tmp_path, columns, options, wanted):
    kind, message = (type(wanted), str(wanted)) if isinstance(wanted, Exception) else (DataError, wanted)
    with pytest.raises(kind, match=f"^{re.escape(message.replace('FILE', str(tmp_path / 'table.parquet')))}$"):
        read(columns, **options)


def test_a_file_that_is_not_there_or_is_damaged(tmp_path):
    with pytest.raises(DataError, match=rf"^dataset\.path: there is no file '{tmp_path}/none\.parquet'$"):
        parquet(path=f"{tmp_path}/none.parquet", target="y")
    path = tmp_path / "damaged.parquet"
    pq.write_table(pa.table(PLAIN), path)
    whole = path.read_bytes()
    for damaged in (b"", b"a,y\n1,0\n", whole[: len(whole) // 2], whole[:-10] + bytes(10)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"^{path} cannot be read as Parquet: "):
            parquet(path=str(path), target="y")


def test_without_pyarrow_its_name_is_said(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match=r"needs pyarrow: pip install pyarrow$"):
        parquet(path=__file__, target="y")


def test_it_trains_from_the_command_line(cli, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    pq.write_table(pa.table({"x": x, "w": rng.choice(["p", "q"], 200), "y": x > 0}), tmp_path / "t.parquet")
    words = ("dataset=parquet", "dataset.path=t.parquet", "dataset.target=y", "trainer.epochs=2", "hydra.run.dir=run")
    code, out, err = cli("train", *words)
    assert (code, err) == (0, "")
    assert "parquet-mlp" in out
