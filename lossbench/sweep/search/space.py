"""Search spaces, written as Hydra writes sweeps: `interval`, `range`, `choice`, commas and `glob`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
)

from lossbench.errors import ConfigError, did_you_mean

TAGS = ("log",)
EDGE = 0.1  # the share of an interval, at either end, that counts as its edge

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")  # Hydra reads it as it is, but for a few words


@dataclass(frozen=True)
class Dimension:
    """One key's values.

    Attributes:
        key: as on the command line, with a `+` if it has one.
        kind: `float` or `int` for numbers from `low` to `high`, both of them included; else `choice`.
        log: whether ratios count and not differences.
        step: the distance between neighbours; None where every number is meant.
        choices: what to choose from, as Hydra reads it; empty for numbers.
    """

    key: str
    kind: Literal["float", "int", "choice"]
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def at(self, u: float) -> Any:
        """The value at the share `u` of the way, in [0, 1): equal shares of the way for all that are equally likely."""
        if self.kind == "choice":
            return self.choices[int(u * len(self.choices))]
        if self.kind == "int" and self.log:  # each number has the room of half a step on either side
            return min(
                max(round(_between(self.low - 0.5, self.high + 0.5, u, log=True)), int(self.low)), int(self.high)
            )
        if self.step is not None:
            return self._on_grid(int(u * (round((self.high - self.low) / self.step) + 1)))
        return min(max(_between(self.low, self.high, u, log=self.log), self.low), self.high)

    @property
    def said(self) -> str:
        """The dimension in one word, the same whichever way it was typed."""
        if self.kind == "choice":
            return f"{self.key}={','.join(map(self.text, self.choices))}"
        tags = f"{', log' if self.log else ''}{'' if self.step is None else f', in steps of {self.step:g}'}"
        return f"{self.key}={as_text(self.low)} to {as_text(self.high)}{tags}"

    def word(self, value: Any) -> str:
        """The override that sets the key to the value."""
        return f"{self.key}={self.text(value)}"

    def text(self, value: Any) -> str:
        """The value as an override has it: read by Hydra it is the same value again."""
        if self.kind == "float" and self.step is not None:
            value = self._on_grid(round((value - self.low) / self.step))
        return as_text(value)

    def at_edge(self, value: Any) -> bool:
        """Whether better values may lie beyond: the first or the last number of several, or an interval's outer tenth.

        Choices that are no numbers, or fewer than three, have no edge.
        """
        if self.kind == "choice":
            numbers = len(self.choices) > 2 and all(map(_is_number, self.choices))
            return numbers and value in (min(self.choices), max(self.choices))
        if self.step is not None:
            return value in (self.low, self.high)
        low, high, here = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return not EDGE < (here - low) / (high - low) < 1 - EDGE

    def _on_grid(self, index: int) -> Any:
        """The number of this index, counted from `low`, with no more digits than the steps have."""
        found = Decimal(str(self.low)) + index * Decimal(str(self.step))
        return int(found) if self.kind == "int" else float(found)


def dimension(key: str, text: str, loader: ConfigLoader | None = None) -> Dimension:
    """The values that `key=text` sweeps over.

    Args:
        loader: knows the options, for `glob`.

    Raises:
        ConfigError: nothing to search in; Hydra's own errors come as they are.
    """
    (parsed,) = OverridesParser.create(config_loader=loader).parse_overrides([f"{key}={text}"])
    return _dimension(parsed)


def space(words: Sequence[str], loader: ConfigLoader | None = None) -> tuple[list[Dimension], list[str]]:
    """What the overrides of a command line sweep over, and those that are fixed, as they were typed.

    Raises:
        ConfigError: as `dimension` does.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    fixed = [word for word, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]
    return [_dimension(override) for override in parsed if override.is_sweep_override()], fixed


def as_text(value: Any) -> str:
    """A value as the right side of an override: text that Hydra would read as something else is put in quotes."""
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and value.lower() not in ("true", "false", "null", "inf", "nan")
        return value if plain else QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(as_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{as_text(k)}:{as_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return repr(value)


def _dimension(override: Override) -> Dimension:
    key, typed, value = override.get_key_element(), override.input_line, override.value()
    log = _is_log(value, typed) if isinstance(value, Sweep) else False
    if isinstance(value, IntervalSweep):
        return _interval(key, value, typed, log=log)
    if log:
        raise ConfigError(f"'{typed}': log is for an interval, such as {key}=tag(log,interval(1e-4,1e-1))")
    if isinstance(value, RangeSweep):
        return _range(key, value, typed)
    choices = tuple(map(Override._convert_value, override.sweep_iterator())) if override.is_choice_sweep() else ()
    if not choices:
        raise ConfigError(f"'{typed}' leaves nothing to choose from; write {key}=A,B or {key}=interval(LOW,HIGH)")
    return Dimension(key, "choice", choices=tuple({as_text(choice): choice for choice in choices}.values()))


def _is_log(sweep: Sweep, typed: str | None) -> bool:
    for tag in sorted(sweep.tags):
        if tag not in TAGS:
            raise ConfigError(f"'{typed}': unknown tag '{tag}'{did_you_mean(tag, TAGS)} (known: {', '.join(TAGS)})")
    return "log" in sweep.tags


def _interval(key: str, sweep: IntervalSweep, typed: str | None, *, log: bool) -> Dimension:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"'{typed}': an interval's ends must be finite")
    if low >= high:
        raise ConfigError(f"'{typed}': an interval's low end must be below its high end, got {low:g} and {high:g}")
    if log and low <= 0:
        raise ConfigError(f"'{typed}': on a log scale the low end must be greater than 0, got {low:g}")
    if isinstance(low, int):
        return Dimension(key, "int", low, high, log, step=1)
    return Dimension(key, "float", low, high, log)


def _range(key: str, sweep: RangeSweep, typed: str | None) -> Dimension:
    start, stop, step = sweep.start, sweep.stop, sweep.step
    assert start is not None
    assert stop is not None
    if not all(map(math.isfinite, (start, stop, step))) or step == 0 or (stop - start) / step <= 0:
        raise ConfigError(f"'{typed}' is empty: no number lies in it")
    steps = math.ceil((Decimal(str(stop)) - Decimal(str(start))) / Decimal(str(step))) - 1
    last = Decimal(str(start)) + steps * Decimal(str(step))
    kind: Literal["int", "float"] = "int" if all(isinstance(x, int) for x in (start, stop, step)) else "float"
    ends = (int(last), int(start)) if kind == "int" else (float(last), float(start))
    return Dimension(key, kind, min(ends), max(ends), step=abs(step))


def _between(low: float, high: float, u: float, *, log: bool) -> float:
    return low * (high / low) ** u if log else low + u * (high - low)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
