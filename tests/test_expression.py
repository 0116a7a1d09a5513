"""Arithmetic written as text: the same numbers as Python's own, and nothing else gets through."""

import math
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lossbench.errors import ConfigError
from lossbench.optim.expression import DEEPEST, FUNCTIONS, LONGEST, parse

VALUES = {"t": 0.25, "step": 3.0, "steps": 12.0}


def value(text):
    return parse("scheduler.expression", text, VALUES)(VALUES)


def refusal(text):
    with pytest.raises(ConfigError) as error:
        parse("scheduler.expression", text, VALUES)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.5 * (1 + cos(pi * t))", 0.5 * (1 + math.cos(math.pi * 0.25))),
        ("1 - t", 0.75),
        ("-step + +2", -1.0),
        ("7 // 2 % 2 ** 3", 3.0),
        ("2 ** -1", 0.5),
        ("2 ** 3 ** 2", 512.0),
        ("steps / step", 4.0),
        ("min(t, 0.1, 3) + max(1, step)", 3.1),
        ("abs(-2) + floor(1.7) + ceil(1.2)", 5.0),
        ("exp(1) - e", 0.0),
        ("log(8, 2) + log(1)", 3.0),
        ("sqrt(16) * sin(0) + tan(0)", 0.0),
        ("t < 0.5", 1.0),
        ("0 < t <= 0.2", 0.0),
        ("t == 0.25 != step", 1.0),
        ("step >= 3 and step > 2 and 5", 5.0),
        ("0 or t", 0.25),
        ("0 and 1 / 0", 0.0),
        ("not t", 0.0),
        ("not 0", 1.0),
        ("1 if step < 4 else 1 / 0", 1.0),
        ("  1  ", 1.0),
        ("1_000", 1000.0),
    ],
)
def test_values_by_hand(text, expected):
    found = value(text)
    assert found == pytest.approx(expected)
    assert type(found) is float


@pytest.mark.parametrize(
    "text", ["9 ** 9 ** 9", "1 / 0", "1 % 0", "log(0)", "(-1) ** 0.5", "0 ** -1", "exp(1e4)", "ceil(1e308 * 10)"]
)
def test_what_has_no_value_says_so(text):
    run = parse("scheduler.expression", text, VALUES)
    with pytest.raises((ArithmeticError, ValueError)):
        run(VALUES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepp", "unknown name 'stepp'; did you mean 'step'? (has: t, step, steps, pi, e, and sin,"),
        ("coss(t)", "unknown function 'coss'; did you mean 'cos'? (has: sin, cos,"),
        ("t(3)", "unknown function 't' (has:"),
        ("__import__('os')", "unknown function '__import__' (has:"),
        ("print", "unknown name 'print' (has:"),
        ("cos", "cos is a function; write cos(...)"),
        ("t.real", "'t.real' is not arithmetic"),
        ("().__class__.__mro__[1]", "'().__class__.__mro__[1]' is not arithmetic"),
        ("t.real(1)", "'t.real(1)' is not arithmetic"),
        ("(lambda: 1)()", "'(lambda: 1)()' is not arithmetic"),
        ("[t for t in (1,)]", "is not arithmetic"),
        ("[1]", "'[1]' is not arithmetic"),
        ("t[0]", "'t[0]' is not arithmetic"),
        ("(t := 2)", "is not arithmetic"),
        ("max(*(1, 2))", "max takes 2 or more numbers, got 1"),
        ("cos(x=1)", "'cos(x=1)' is not arithmetic"),
        ("cos()", "cos takes 1 numbers, got 0"),
        ("log(1, 2, 3)", "log takes 1 or 2 numbers, got 3"),
        ("1 in (1,)", "is not arithmetic"),
        ("1 is 1", "is not arithmetic"),
        ("~1", "'~1' is not arithmetic"),
        ("1 << 2", "'1 << 2' is not arithmetic"),
        ("t @ t", "'t @ t' is not arithmetic"),
        ("'a' * 3", "\"'a'\" is not a number"),
        ("True", "'True' is not a number"),
        ("None", "'None' is not a number"),
        ("2j", "'2j' is not a number"),
        ("1e999", "'inf' is too large a number"),
        ("9" * 400, "is too large a number"),
        ("", "'' is not an expression (invalid syntax)"),
        ("1; 2", "'1; 2' is not an expression (invalid syntax)"),
        ("t = 1", "is not an expression"),
        ("1 +", "'1 +' is not an expression"),
        ("\0", "is not an expression"),
        ("\ud800", "is not an expression"),
        ("(" * 300 + ")" * 300, "is not an expression"),
        ("-" * 900 + "1", f"more than {DEEPEST} operations within each other"),
        ("+".join("1" * 200), f"more than {DEEPEST} operations within each other"),
        ("1" + " " * LONGEST + "+ 1", f"is longer than {LONGEST} characters"),
    ],
)
def test_refusals(text, message):
    assert message in refusal(text)


def test_a_chain_as_long_as_it_may_be():
    assert value("+".join(["1"] * DEEPEST)) == DEEPEST


NUMBERS = st.floats(0, 1e6) | st.integers(0, 10**6)
LEAVES = NUMBERS.map(lambda number: (repr(number), float(number))) | st.sampled_from(list(VALUES.items()))
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "<": operator.lt, ">=": operator.ge}


def combined(inner):
    def binary(sign, a, b):
        return f"({a[0]} {sign} {b[0]})", float(SIGNS[sign](a[1], b[1]))

    def either(test, a, b):
        return f"({a[0]} if {test[0]} else {b[0]})", a[1] if test[1] else b[1]

    def called(name, a, b):
        return f"{name}({a[0]}, {b[0]})", {"min": min, "max": max}[name](a[1], b[1])

    return (
        st.builds(binary, st.sampled_from(list(SIGNS)), inner, inner)
        | st.builds(either, inner, inner, inner)
        | st.builds(called, st.sampled_from(["min", "max"]), inner, inner)
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.recursive(LEAVES, combined, max_leaves=12))
def test_nested_arithmetic_is_pythons(pair):
    text, expected = pair
    if len(text) <= LONGEST:
        assert value(text) == expected


WORDS = [*FUNCTIONS, *VALUES, "pi", "e", "if", "else", "and", "or", "not", "is", "in", "lambda", "for", "import", "os"]
SCRAPS = st.sampled_from(
    [*WORDS, *"()[]{}.,:;=+-*/%<>!~@&|^'\"\\ 0123456789_", "**", "//", "==", ":=", "\n", "\t", "é"]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(SCRAPS, max_size=12).map("".join) | st.text(max_size=12))
def test_any_text_is_refused_in_one_line_or_gives_a_float(text):
    try:
        found, said = value(text), ""
    except ConfigError as error:
        found, said = 0.0, str(error)
    except (ArithmeticError, ValueError):
        found, said = 0.0, ""
    assert "\n" not in said
    assert type(found) is float
