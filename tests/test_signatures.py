"""Config values against signatures: what is taken, what it becomes, and what a refusal says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
import torch
from torch import Tensor

from lossbench.errors import ConfigError
from lossbench.signatures import accepts_any, bind, convert, describe, hints, parameters, required

Share = Annotated[float, "[0, 1)"]
Positive = Annotated[float, "(0, inf)"]
Advised = Annotated[float, "(0, inf)", "nothing would be learned"]
Count = Annotated[int, "[1, inf)"]
Older = Optional[int]  # noqa: UP045  # libraries write it so
Weights = Annotated[Tensor | float | Sequence[float] | Literal["balanced"] | None, "[0, inf)"]


def refusal(value, hint):
    with pytest.raises(ConfigError) as error:
        convert("group.key", value, hint)
    return str(error.value)


def step(pred, target, *, lr: Positive, decay: Share = 0.0, mode: Literal["min", "max"] = "min"):
    """A target to bind against."""


def loose(x, **rest):
    """Takes any key."""


@dataclass
class Options:
    steps: Count = 10
    name: str | None = None


# What is taken


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, 1),
        (1e3, int, 1000),
        (-2.0, int, -2),
        (1, float, 1.0),
        (0.5, float, 0.5),
        (True, bool, True),
        ("a", str, "a"),
        (7, str, "7"),
        (None, int | None, None),
        (None, Older, None),
        (3.0, Older, 3),
        (3, int | float, 3),
        (0.5, int | float, 0.5),
        ("epoch", Literal["epoch"] | Count, "epoch"),
        (5.0, Literal["epoch"] | Count, 5),
        ("x", Literal["x", 1, None], "x"),
        (1, Literal["x", 1, None], 1),
        (None, Literal["x", 1, None], None),
        ([1, 2], list[float], [1.0, 2.0]),
        ((1, 2), list[int], [1, 2]),
        ([1, 2], Sequence[float], [1.0, 2.0]),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        ([], list[int], []),
        ([[1, 2], [3]], list[list[float]], [[1.0, 2.0], [3.0]]),
        ([1, None], list[int | None], [1, None]),
        ({"a": 1}, dict[str, int], {"a": 1}),
        ({"a": 1}, Mapping[str, Any], {"a": 1}),
        (0.25, Share, 0.25),
        (0, Share, 0.0),
        (0.5, Weights, 0.5),
        ([1, 2], Weights, [1.0, 2.0]),
        ("balanced", Weights, "balanced"),
        (None, Weights, None),
        ("anything", Any, "anything"),
        ("cpu", torch.device, "cpu"),  # a foreign type's own constructor is the judge
    ],
)
def test_taken(value, hint, expected):
    found = convert("key", value, hint)
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(found, (list, tuple)):
        assert [type(v) for v in found] == [type(v) for v in expected]


# What is refused, and with what words


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (0.5, int, "group.key must be a whole number, got 0.5"),
        ("3", int, "group.key must be a whole number, got '3'"),
        (True, int, "group.key must be a whole number, got true"),
        (math.inf, int, "group.key must be a whole number, got inf"),
        (math.nan, int, "group.key must be a whole number, got nan"),
        ("0.1", float, "group.key must be a number, got '0.1'"),
        (False, float, "group.key must be a number, got false"),
        (None, float, "group.key must be a number, got null"),
        ([0.1], float, "group.key must be a number, got [0.1]"),
        (1, bool, "group.key must be true or false, got 1"),
        ("yes", bool, "group.key must be true or false, got 'yes'"),
        (True, str, "group.key must be text, got true"),
        (None, str, "group.key must be text, got null"),
        ("x", int | None, "group.key must be a whole number or null, got 'x'"),
        ("x", float | bool, "group.key must be a number or true or false, got 'x'"),
        ([1], dict[str, int], "group.key must be a mapping, got [1]"),
        (3, list[float], "group.key must be a list (a number each), got 3"),
        ("ab", list[str], "group.key must be a list (text each), got 'ab'"),
        (["a", 1], list[int], "group.key must be a list (a whole number each), got ['a', 1]"),
        ("minn", Literal["min", "max"], "group.key must be one of min, max, got 'minn'; did you mean 'min'?"),
        ("maxx", Literal["min", "max"], "group.key must be one of min, max, got 'maxx'; did you mean 'max'?"),
        ("zzz", Literal["min", "max"], "group.key must be one of min, max, got 'zzz'"),
        (True, Literal[1, 2], "group.key must be one of 1, 2, got true"),
        (["min"], Literal["min", "max"], "group.key must be one of min, max, got ['min']"),
        (
            "balance",
            Weights,
            "group.key must be a number or a list (a number each) or one of balanced or null, got 'balance'; "
            "did you mean 'balanced'?",
        ),
        (
            "epochs",
            Literal["epoch"] | Count,
            "group.key must be one of epoch or a whole number, got 'epochs'; did you mean 'epoch'?",
        ),
    ],
)
def test_refused_type(value, hint, message):
    assert refusal(value, hint) == message


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        (1.0, Share, "group.key must be in [0, 1), got 1.0"),
        (-0.1, Share, "group.key must be in [0, 1), got -0.1"),
        (math.nan, Share, "group.key must be in [0, 1), got nan"),
        (math.inf, Share, "group.key must be in [0, 1), got inf"),
        (0, Positive, "group.key must be greater than 0, got 0.0"),
        (-1, Positive, "group.key must be greater than 0, got -1.0"),
        (math.nan, Positive, "group.key must be a finite number, above 0, got nan"),
        (math.inf, Positive, "group.key must be a finite number, above 0, got inf"),
        (-math.inf, Positive, "group.key must be a finite number, above 0, got -inf"),
        (0, Count, "group.key must be at least 1, got 0"),
        (math.inf, Annotated[float, "(-inf, inf)"], "group.key must be a finite number, got inf"),
        (math.nan, Annotated[float, "(-inf, inf)"], "group.key must be a finite number, got nan"),
        (-2, Annotated[int, "[-1, 5]"], "group.key must be in [-1, 5], got -2"),
        (0, Advised, "group.key must be greater than 0, got 0.0; nothing would be learned"),
        (-1, Advised, "group.key must be greater than 0, got -1.0"),  # the advice is for a value of 0
        (0, Annotated[float | None, "(0, inf)"], "group.key must be greater than 0, got 0.0"),
        (0, Literal["epoch"] | Count, "group.key must be at least 1, got 0"),
        (0, Count | None, "group.key must be at least 1, got 0"),
        ([0.5, -1.0], Weights, "group.key must be at least 0, got -1.0"),
        ([0.5, math.nan], Weights, "group.key must be a finite number, at least 0, got nan"),
        ([0.9, 1.0], Annotated[tuple[float, float], "[0, 1)"], "group.key must be in [0, 1), got 1.0"),
        ([0.9, 1.0], list[Share], "group.key must be in [0, 1), got 1.0"),
        ([[0.9], [1.0]], list[list[Share]], "group.key must be in [0, 1), got 1.0"),
        ([0.9, 1.0], tuple[Positive, Share], "group.key[1] must be in [0, 1), got 1.0"),
        (0.5, Annotated[float, "(-inf, 0]"], "group.key must be at most 0, got 0.5"),
        (0, Annotated[float, "(-inf, 0)"], "group.key must be less than 0, got 0.0"),
        (math.nan, Annotated[float, "(-inf, 0)"], "group.key must be in (-inf, 0), got nan"),
    ],
)
def test_refused_range(value, hint, message):
    assert refusal(value, hint) == message


@pytest.mark.parametrize("value", [[1], [1, 2, 3], []])
def test_a_tuple_has_its_length(value):
    assert refusal(value, tuple[float, float]).startswith("group.key must be a list")


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("interval", "inside"),
    [("[0, 1]", (0, 0.5, 1)), ("(0, 1]", (0.5, 1)), ("[0, 1)", (0, 0.5)), ("(0, 1)", (0.5,)), ("[1e-3, 1]", (0.5, 1))],
)
def test_brackets_take_the_end_and_parentheses_do_not(interval, inside, value):
    hint = Annotated[float, interval]
    if value in inside:
        assert convert("key", value, hint) == value
    else:
        assert refusal(value, hint) == f"group.key must be in {interval}, got {value}"


def test_a_number_without_a_range_may_be_anything():
    assert math.isnan(convert("key", math.nan, float))
    assert convert("key", -math.inf, float) == -math.inf


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (float, "a number"),
        (Share, "a number"),
        (int | None, "a whole number or null"),
        (Literal["a", None], "one of a, null"),
        (tuple[int, ...], "a list (a whole number each)"),
        (tuple[float, float], "a list of 2 (a number each)"),
        (tuple[float | None, float], "a list of 2 (a number or null, a number)"),
        (Literal[False], "false"),
        (Weights, "a number or a list (a number each) or one of balanced or null"),
    ],
)
def test_described_in_the_users_words(hint, words):
    assert describe(hint) == words


# A signature


def test_a_signature_says_its_parameters_fields_and_hints():
    assert list(parameters(step)) == ["pred", "target", "lr", "decay", "mode"]
    assert required(step) == ["pred", "target", "lr"]
    assert hints(step)["decay"] == Share
    assert list(parameters(loose)) == ["x"]
    assert accepts_any(loose)
    assert not accepts_any(step)
    assert list(parameters(Options)) == ["steps", "name"]
    assert hints(Options)["steps"] == Count


def test_bind_converts_and_leaves_defaults_out():
    found = bind("optim", step, {"lr": 1, "mode": "max"}, filled=("pred", "target"))
    assert found == {"lr": 1.0, "mode": "max"}
    assert type(found["lr"]) is float


def test_bind_takes_a_class_by_its_constructor():
    assert bind("trainer", Options, {"steps": 1e3, "name": None}) == {"steps": 1000, "name": None}
    with pytest.raises(ConfigError, match=r"^trainer.steps must be at least 1, got 0$"):
        bind("trainer", Options, {"steps": 0})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"lr": 1, "decya": 0},
            "optim: step has no option 'decya'; did you mean 'decay'? (has: lr, decay, mode)",
        ),
        ({"lr": 1, "zzz": 0}, "optim: step has no option 'zzz' (has: lr, decay, mode)"),
        # what the program fills in is not offered
        ({"lr": 1, "targe": 0}, "optim: step has no option 'targe' (has: lr, decay, mode)"),
        ({"decay": 0}, "optim.lr is required; set optim.lr=VALUE"),
        ({}, "optim.lr is required; set optim.lr=VALUE"),
        ({"lr": None}, "optim.lr must be a number, got null"),
        ({"lr": "fast"}, "optim.lr must be a number, got 'fast'"),
        ({"lr": 0}, "optim.lr must be greater than 0, got 0.0"),
        ({"lr": 1, "mode": "mix"}, "optim.mode must be one of min, max, got 'mix'; did you mean 'min'?"),
    ],
)
def test_bind_refuses(given, message):
    with pytest.raises(ConfigError) as error:
        bind("optim", step, given, filled=("pred", "target"))
    assert str(error.value) == message
    assert error.value.code == 2


def test_bind_names_the_owner_and_what_is_missing_first():
    with pytest.raises(ConfigError, match=r"^loss: focal has no option 'gama'"):
        bind("loss", step, {"gama": 2}, owner="focal")
    with pytest.raises(ConfigError, match=r"^optim.pred is required"):
        bind("optim", step, {"lr": 1})
    with pytest.raises(ConfigError, match=r"^x: <?\w+>? has no option 'a' \(has: none\)$"):
        bind("x", lambda: None, {"a": 1}, owner="nothing")


def test_bind_without_a_group_names_the_key_alone():
    with pytest.raises(ConfigError, match=r"^steps must be a whole number, got 'x'$"):
        bind("", Options, {"steps": "x"})


def test_null_stands_for_what_the_program_fills_in():
    assert bind("optim", step, {"lr": None}, filled=("pred", "target", "lr")) == {"lr": None}
    assert bind("optim", step, {}, filled=("pred", "target", "lr")) == {}
    # a value given all the same is checked
    with pytest.raises(ConfigError, match=r"greater than 0"):
        bind("optim", step, {"lr": -1}, filled=("pred", "target", "lr"))


def test_unknown_keys_pass_where_the_target_takes_any():
    assert bind("model", loose, {"x": 1, "depth": 3}) == {"x": 1, "depth": 3}


def test_ranges_of_foreign_code():
    """torch says no ranges of its own; a range that is given holds for each number of a list."""
    ranges = {"lr": ("(0, inf)", "nothing would be learned"), "betas": ("[0, 1)",)}

    def check(**given):
        return bind("optim", torch.optim.Adam, given, filled=("params",), ranges=ranges)

    assert check(lr=1, betas=[0.9, 0.99])["betas"] == (0.9, 0.99)
    with pytest.raises(ConfigError, match=r"^optim.lr must be greater than 0, got 0.*; nothing would be learned$"):
        check(lr=0)
    with pytest.raises(ConfigError, match=r"^optim.betas must be in \[0, 1\), got 1"):
        check(betas=[0.9, 1])
    with pytest.raises(ConfigError, match=r"^optim.betas must be a list"):
        check(betas=0.9)
    with pytest.raises(ConfigError, match=r"has no option 'beta'; did you mean 'betas'\?"):
        check(beta=0.9)


def test_ranges_of_one_class_among_others():
    """An option's name may mean other things to another class, or have other intervals at each place of a list."""

    class Other:
        def __init__(self, params, alpha: float = 0.0, etas: tuple[float, ...] = ()) -> None: ...

    etas = tuple[Annotated[float, "(0, 1)"], Annotated[float, "(1, inf)"]]
    ranges = {"alpha": ("(-inf, 5]",), "RMSprop.alpha": ("[0, 1)",), "Rprop.etas": etas}

    def refused(target, **given):
        with pytest.raises(ConfigError) as caught:
            bind("optim", target, given, filled=("params",), ranges=ranges)
        return str(caught.value)

    assert refused(torch.optim.RMSprop, alpha=2) == "optim.alpha must be in [0, 1), got 2.0"
    assert refused(torch.optim.RMSprop, alpha=6) == "optim.alpha must be at most 5, got 6.0"
    assert refused(Other, alpha=6) == "optim.alpha must be at most 5, got 6.0"
    assert refused(torch.optim.Rprop, etas=[0.5, 1]) == "optim.etas[1] must be greater than 1, got 1.0"
    assert refused(torch.optim.Rprop, etas=[0.5]) == "optim.etas must be a list of 2 (a number each), got [0.5]"
    given = {"alpha": 2, "etas": [1, 2, 3]}
    assert bind("optim", Other, given, filled=("params",), ranges=ranges)["etas"] == (1.0, 2.0, 3.0)


def test_a_default_of_none_changes_no_hint():
    """On Python 3.10 `typing.get_type_hints` would widen it, and fail where a note cannot be hashed."""
    hint = Annotated[float | None, "[0, 1)", {"of": "a dictionary"}]

    def f(*, x: hint = None, y: Any = None): ...

    assert hints(f) == {"x": hint, "y": Any}
    with pytest.raises(ConfigError, match=r"g.x must be in \[0, 1\), got 2"):
        bind("g", f, {"x": 2})
