"""Config values against Python signatures: the one place that says what a key may hold.

A function's signature is its declaration: names, types, defaults, and, through `Annotated`, the range of each
number in interval notation, such as `Annotated[float, "[0, 1)"]`; any further text in it is advice for a value of 0.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import re
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lossbench.errors import ConfigError, did_you_mean

_MISMATCH = object()
_ANNOTATED: Any = Annotated
_INTERVAL = re.compile(r"^([\[(])\s*([-+\w.]+)\s*,\s*([-+\w.]+)\s*([\])])$")
_KIND = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The named parameters of a function or of a class's constructor, in order; `*args` and `**kwargs` left out."""
    try:
        found = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}
    return {k: p for k, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def required(target: Callable[..., Any]) -> list[str]:
    """The parameters without a default: for a loss, the fields that it needs."""
    return [k for k, p in parameters(target).items() if p.default is p.empty]


def accepts_any(target: Callable[..., Any]) -> bool:
    """Whether the target takes `**kwargs`, so that unknown keys cannot be refused."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as they are written, with their `Annotated` metadata; empty where they cannot be evaluated."""
    function = target.__init__ if inspect.isclass(target) else target
    for known in (None, vars(collections.abc)):  # torch imports `Callable` and the like for its type checker only
        try:
            # not get_type_hints: before Python 3.11 a default of None makes it hash the metadata, and widen the type
            return inspect.get_annotations(function, locals=known, eval_str=True)
        except Exception:  # a foreign annotation may name what only its type checker imports
            continue
    return {}


def takes_function(hint: Any) -> bool:
    """Whether a type is, or may be, that of a function, which a config names by its import path."""
    return get_origin(hint) is Callable or any(map(takes_function, get_args(hint)))


def noted(target: Callable[..., Any], ranges: Mapping[str, Any]) -> dict[str, Any]:
    """The target's hints, and what `ranges` says of its parameters beyond them.

    Args:
        ranges: by parameter (`lr`), or by target and parameter (`ASGD.alpha`): a tuple of notes, which are added to the
            hint (intervals, and advice for a 0), or a type, which takes the hint's place. Later ones go on from those
            before.
    """
    found = hints(target)
    for key, said in ranges.items():
        owner, _, name = key.rpartition(".")
        if owner in ("", getattr(target, "__name__", "")):
            notes = (found.get(name, Any), *said) if isinstance(said, tuple) else ()
            found[name] = _ANNOTATED[notes] if notes else said
    return found


def bind(
    path: str,
    target: Callable[..., Any],
    given: Mapping[str, Any],
    *,
    filled: Collection[str] = (),
    ranges: Mapping[str, Any] | None = None,
    owner: str | None = None,
) -> dict[str, Any]:
    """Check `given` against `target`'s signature and return the values converted to its types.

    Args:
        path: the config group, for the messages (`optim` gives `optim.lr`).
        filled: parameters that the program supplies where they are missing from `given`, or null.
        ranges: what foreign code does not say of its parameters, as `noted` takes it.
        owner: what has the options, for the message (`adamw`); the target's name by default.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a number out of its range.
    """
    known, annotated = parameters(target), noted(target, ranges or {})
    for key in given:
        if key not in known and not accepts_any(target):
            has = [k for k in known if k not in filled]
            raise ConfigError(no_option(path, str(key), owner or target.__name__, has))
    missing = [k for k in required(target) if k not in given and k not in filled]
    if missing:
        raise ConfigError(f"{path}.{missing[0]} is required; set {path}.{missing[0]}=VALUE")
    values: dict[str, Any] = {}
    for key, value in given.items():
        if value is None and key in filled:
            values[key] = None
            continue
        values[key] = convert(f"{path}.{key}" if path else key, value, annotated.get(key, Any))
    return values


def no_option(path: str, key: str, owner: str, has: Sequence[str]) -> str:
    """The message for a key that its owner does not have."""
    who = owner if owner == path else f"{path}: {owner}"
    return f"{who} has no option '{key}'{did_you_mean(key, has)} (has: {', '.join(has) or 'none'})"


def convert(path: str, value: Any, hint: Any) -> Any:
    """`value` as the type that `hint` asks for; raises ConfigError with the key's path if it is none."""
    result = _convert(value, hint)
    if result is _MISMATCH:
        raise ConfigError(f"{path} must be {describe(hint)}, got {show(value)}{_near(value, hint)}")
    _check_ranges(path, result, hint)
    return result


def describe(hint: Any) -> str:
    """A type in the user's words: `a number`, `one of mean, sum`, `a whole number or null`."""
    origin = get_origin(hint)
    if origin is Annotated:
        return describe(get_args(hint)[0])
    if origin is Literal:
        choices = get_args(hint)
        shown = ", ".join(choice if isinstance(choice, str) else show(choice) for choice in choices)
        return shown if choices in ((False,), (True,)) else f"one of {shown}"
    if origin in (Union, types.UnionType):
        # A tensor is nothing that a config file can hold.
        members = [a for a in get_args(hint) if a is not type(None) and (a in _KIND or get_origin(a))]
        words = list(dict.fromkeys(describe(a) for a in members))
        return " or ".join(words + ["null"] * (type(None) in get_args(hint)))
    if origin is Callable:
        return "a function's import path"
    if _is_list(origin):
        items = [item for item in get_args(hint) if item is not Ellipsis]
        words = list(dict.fromkeys(map(describe, items)))
        fixed = f" of {len(items)}" if origin is tuple and items == list(get_args(hint)) else ""
        return f"a list{fixed} ({', '.join(words)}{' each' if len(words) == 1 else ''})"
    if hint in _KIND:
        return _KIND[hint]
    return "a mapping" if origin in (dict, Mapping) else str(getattr(hint, "__name__", hint))


def intervals(hint: Any) -> list[str]:
    """The intervals written anywhere in a type, such as `[0, 1)`."""
    if isinstance(hint, str):
        return [hint] if _INTERVAL.match(hint) else []
    inner = (*get_args(hint), *getattr(hint, "__metadata__", ()))
    return list(dict.fromkeys(found for part in inner for found in intervals(part)))


def _convert(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _convert(value, args[0])
    if origin is Literal:
        return value if value in args and type(value) in map(type, args) else _MISMATCH
    if origin in (Union, types.UnionType):
        tried = (_convert(value, a) for a in args if a in _KIND or a is type(None) or get_origin(a))
        return next((v for v in tried if v is not _MISMATCH), _MISMATCH)
    if hint is type(None):
        return None if value is None else _MISMATCH
    if hint is bool:
        return value if isinstance(value, bool) else _MISMATCH
    if hint in (int, float):
        return _number(value, hint)
    if hint is str:
        is_text = isinstance(value, (str, int, float)) and not isinstance(value, bool)
        return str(value) if is_text else _MISMATCH
    if origin in (dict, Mapping):
        return dict(value) if isinstance(value, Mapping) else _MISMATCH
    if origin is Callable:
        return value if isinstance(value, str) else _MISMATCH
    if _is_list(origin):
        return _sequence(value, origin, args)
    return value  # a foreign type: its own constructor is the judge


def _is_list(origin: Any) -> bool:
    """Whether a type with this origin is written as a list: a sequence, or any iterable."""
    return inspect.isclass(origin) and (issubclass(origin, Sequence) or origin is Iterable)


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _MISMATCH
    if kind is int:
        return int(value) if isinstance(value, int) or value.is_integer() else _MISMATCH  # 1e3 is a whole number
    try:
        return float(value)
    except OverflowError:  # a whole number with more than 308 digits
        return _MISMATCH


def _sequence(value: Any, origin: type, args: tuple[Any, ...]) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return _MISMATCH
    fixed = origin is tuple and args and args[-1] is not Ellipsis
    if fixed and len(value) != len(args):
        return _MISMATCH
    kinds = args if fixed else [args[0] if args else Any] * len(value)
    items = [_convert(v, k) for v, k in zip(value, kinds, strict=True)]
    if any(v is _MISMATCH for v in items):
        return _MISMATCH
    return tuple(items) if origin is tuple else items


def _check_ranges(path: str, value: Any, hint: Any) -> None:
    """Hold every number in `value` against the intervals written in `hint`."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        texts = [note for note in notes if isinstance(note, str)]
        advice = "".join(f"; {text}" for text in texts if not _INTERVAL.match(text))
        for match in filter(None, map(_INTERVAL.match, texts)):
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    _check_interval(path, number, match, advice)
        _check_ranges(path, value, inner)
    elif get_origin(hint) in (Union, types.UnionType):
        for member in get_args(hint):
            if _convert(value, member) is not _MISMATCH:
                return _check_ranges(path, value, member)
    elif isinstance(value, (list, tuple)) and get_args(hint):
        kinds = get_args(hint) if isinstance(value, tuple) and get_args(hint)[-1] is not Ellipsis else ()
        for i, (number, kind) in enumerate(zip(value, kinds or [get_args(hint)[0]] * len(value), strict=True)):
            _check_ranges(f"{path}[{i}]" if kinds else path, number, kind)
    return None


def _check_interval(path: str, number: float, match: re.Match[str], advice: str) -> None:
    left, low, high, right = match.groups()
    lo, hi = float(low), float(high)
    above = number >= lo if left == "[" else number > lo
    below = number <= hi if right == "]" else number < hi
    if above and below:
        return
    if math.isinf(hi) and not math.isinf(lo) and math.isfinite(number):
        wanted = f"{'at least' if left == '[' else 'greater than'} {low}"
    elif math.isinf(lo) and not math.isinf(hi) and math.isfinite(number):
        wanted = f"{'at most' if right == ']' else 'less than'} {high}"
    elif math.isinf(hi):
        wanted = "a finite number" + ("" if math.isinf(lo) else f", {'at least' if left == '[' else 'above'} {low}")
    else:
        wanted = f"in {match.group()}"
    raise ConfigError(f"{path} must be {wanted}, got {show(number)}{advice if number == 0 else ''}")


def show(value: Any) -> str:
    """A value as YAML has it, text in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show, value))}]"
    return repr(value) if isinstance(value, str) else str(value)


def typed(value: Any) -> str:
    """A value as one types it after `key=`."""
    return value if isinstance(value, str) else show(value)


def _near(value: Any, hint: Any) -> str:
    words = [a for a in literals(hint) if isinstance(a, str)]
    return did_you_mean(value, words) if isinstance(value, str) else ""


def literals(hint: Any) -> list[Any]:
    """The values that a type names, such as those of `Literal["mean", "sum"] | None`."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [word for member in get_args(hint) if get_origin(member) for word in literals(member)]
