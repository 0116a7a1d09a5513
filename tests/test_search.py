"""Search spaces: what Hydra's sweep syntax means, and that a value written as an override is read as the same value."""

import math
from itertools import pairwise

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from lossbench.errors import ConfigError
from lossbench.sweep.expand import options_loader
from lossbench.sweep.search.space import as_text, dimension, space


def read(word):
    return OverridesParser.create().parse_override(word).value()


def values(found, n=64):
    return [found.at(i / n) for i in range(n)]


def test_an_interval_is_uniform_from_end_to_end():
    found = dimension("x", "interval(2,4)")
    assert (found.kind, found.low, found.high, found.log, found.step) == ("float", 2.0, 4.0, False, None)
    assert [found.at(u) for u in (0, 0.25, 0.5)] == [2.0, 2.5, 3.0]


def test_on_a_log_scale_equal_ratios_are_equally_likely():
    found = dimension("optim.lr", "tag(log,interval(1e-4,1))")
    assert [found.at(u) for u in (0, 0.25, 0.5, 0.75)] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])
    assert found.at(math.nextafter(1, 0)) <= 1


def test_whole_numbers_include_both_ends_each_equally_often():
    found = dimension("n", "int(interval(1,4))")
    assert values(found) == [1] * 16 + [2] * 16 + [3] * 16 + [4] * 16


@pytest.mark.parametrize("text", ["tag(log,int(interval(1,100)))", "int(tag(log,interval(1,100)))"])
def test_whole_numbers_on_a_log_scale(text):
    found = values(dimension("n", text), 4096)
    assert {type(n) for n in found} == {int}
    assert (found[0], found[-1]) == (1, 100)
    low = sum(n <= 10 for n in found) / 4096  # from 0.5 to 10.5 of 0.5 to 100.5
    assert low == pytest.approx(math.log(10.5 / 0.5) / math.log(100.5 / 0.5), abs=0.001)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("range(3)", [0, 1, 2]),
        ("range(1,8,3)", [1, 4, 7]),
        ("range(5,0,-2)", [1, 3, 5]),
        ("range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),
        ("shuffle(range(3))", [0, 1, 2]),
        ("sort(range(1,4),reverse=true)", [1, 2, 3]),
    ],
)
def test_a_range_gives_its_numbers(text, wanted):
    found = dimension("x", text)
    assert list(dict.fromkeys(values(found, 1000))) == wanted
    assert [found.word(value) for value in wanted] == [f"x={value}" for value in wanted]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sgd,adamw", ["sgd", "adamw"]),
        ("choice(sgd,adamw)", ["sgd", "adamw"]),
        ("1,1.0,true,null", [1, 1.0, True, None]),
        ("choice(a,a,b)", ["a", "b"]),
        ("'1',1", ["1", 1]),
        ("[1,2],{a:1}", [[1, 2], {"a": 1}]),
        ("sort(3,1,2)", [1, 2, 3]),
        ("'a,b',c", ["a,b", "c"]),
    ],
)
def test_choices_are_those_that_hydra_reads(text, wanted):
    found = dimension("x", text)
    assert list(found.choices) == wanted
    assert list(map(type, found.choices)) == list(map(type, wanted))
    assert list(dict.fromkeys(map(found.text, values(found)))) == list(map(found.text, wanted))


def test_glob_takes_the_options_of_a_group():
    found = dimension("optim", "glob(ada*)", options_loader([]))
    assert {"adam", "adamw", "adagrad"} <= set(found.choices)
    assert "sgd" not in found.choices


def test_the_fixed_settings_stay_as_they_were_typed():
    words = ["loss=focal", "optim=sgd,adamw", "+trainer.x='a,b'", "optim.lr=tag(log,interval(1e-4,1))", "~resume"]
    found, fixed = space(words)
    assert [d.key for d in found] == ["optim", "optim.lr"]
    assert fixed == ["loss=focal", "+trainer.x='a,b'", "~resume"]
    assert dimension("+a.b", "1,2").word(2) == "+a.b=2"


@given(st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none())
def test_numbers_are_read_back_with_all_their_digits(value):
    again = read(f"k={as_text(value)}")
    assert (again, type(again)) == (value, type(value))


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12))
def test_text_is_read_back(value):
    again = read(f"k={as_text(value)}")
    assert (again, type(again)) == (value, str)


@pytest.mark.parametrize(
    "value", ["null", "True", "nan", "1e3", "12", "", " a", "a b", "it's", '"', "a\\", "a\\'b", "x,y"]
)
def test_text_that_hydra_would_take_for_something_else(value):
    assert read(f"k={as_text(value)}") == value
    assert read(f"k={as_text([value, {'k': value}])}") == [value, {"k": value}]


def test_the_name_of_an_option_needs_no_quotes():
    assert as_text("label_smoothing") == "label_smoothing"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("interval(0,1)", {0.0: True, 0.09: True, 0.11: False, 0.89: False, 0.95: True}),
        ("tag(log,interval(1e-4,1))", {1e-4: True, 2e-4: True, 1e-3: False, 0.3: False, 0.5: True}),
        ("int(interval(1,9))", {1: True, 2: False, 8: False, 9: True}),
        ("range(0.1,0.5,0.1)", {0.1: True, 0.2: False, 0.4: True}),
        ("0.1,0.01,1", {0.1: False, 0.01: True, 1: True}),
        ("0.1,0.01", {0.1: False, 0.01: False}),
        ("a,b,c", {"a": False, "c": False}),
        ("true,false", {True: False}),
    ],
)
def test_where_the_edge_is(text, wanted):
    found = dimension("x", text)
    assert {value: found.at_edge(value) for value in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tag(log,interval(0,1))", "on a log scale the low end must be greater than 0, got 0"),
        ("tag(log,interval(-1,1))", "on a log scale the low end must be greater than 0, got -1"),
        ("interval(1,1)", "low end must be below its high end, got 1 and 1"),
        ("int(interval(9,1))", "low end must be below its high end, got 9 and 1"),
        ("interval(0,inf)", "ends must be finite"),
        ("tag(lgo,interval(1,2))", "unknown tag 'lgo'; did you mean 'log'?"),
        ("tag(log,choice(1,2))", "log is for an interval"),
        ("tag(log,range(1,9))", "log is for an interval"),
        ("range(5,5)", "is empty"),
        ("range(1,5,-1)", "is empty"),
        ("range(1,5,0)", "is empty"),
        ("0.1", "nothing to choose from"),
    ],
)
def test_a_space_that_is_none_is_refused(text, said):
    with pytest.raises(ConfigError) as refused:
        dimension("optim.lr", text)
    assert f"'optim.lr={text}'" in str(refused.value)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_empty_glob_is_refused():
    with pytest.raises(ConfigError, match="nothing to choose from"):
        dimension("optim", "glob(zzz*)", options_loader([]))


def test_all_values_of_a_dimension_rise():
    for text in ("interval(-3,5)", "tag(log,interval(1e-9,1e9))", "range(0,1,0.05)", "tag(log,int(interval(1,1000)))"):
        assert all(a <= b for a, b in pairwise(values(dimension("x", text), 1000)))
