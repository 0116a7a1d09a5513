"""What a picture shows, whatever draws it: curves in panels, and the axes that hold them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_FLAT = 1e-9  # a range so small beside its values is rounding


@dataclass(frozen=True)
class Curve:
    """A line through points in the order of x; where a number is not finite, or has no logarithm, it has a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Curves over one y axis. Curves of one name in several panels look the same."""

    ylabel: str
    curves: Sequence[Curve]
    log_y: bool = False


@dataclass(frozen=True)
class Picture:
    """Panels, one below the other, over one x axis.

    Attributes:
        marks: values of x at which a line goes through all panels, each with its label.
    """

    title: str
    xlabel: str
    panels: Sequence[Panel]
    log_x: bool = False
    marks: Sequence[tuple[float, str]] = ()

    @property
    def names(self) -> list[str]:
        """The curves' names, each once."""
        return list(dict.fromkeys(curve.name for panel in self.panels for curve in panel.curves))

    @property
    def x_scale(self) -> Scale:
        """The x axis: from the first point to the last."""
        found = [x for panel in self.panels for curve in panel.curves for x in curve.x]
        return scale(found + [x for x, _ in self.marks], log=self.log_x)


@dataclass(frozen=True)
class Scale:
    """An axis from `lo` to `hi`, linear or logarithmic."""

    lo: float
    hi: float
    log: bool = False

    def share(self, value: float) -> float | None:
        """How far along the axis a value is, from 0 to 1; None for one that has no place on it."""
        if not drawable(value, log=self.log):
            return None
        lo, hi, at = map(math.log10, (self.lo, self.hi, value)) if self.log else (self.lo, self.hi, value)
        return (at - lo) / (hi - lo)

    def ticks(self, most: int) -> list[float]:
        """Round values along the axis, about `most` at the most."""
        return _log_ticks(self.lo, self.hi, most) if self.log else _multiples(self.lo, self.hi, most)


def drawable(value: float, *, log: bool) -> bool:
    """Whether a value has a place on an axis."""
    return math.isfinite(value) and (value > 0 or not log)


def scale(values: Iterable[float], *, log: bool = False, rounded: int = 0) -> Scale:
    """The axis that holds all values.

    Args:
        rounded: end a linear axis at round values, such as about this many ticks would have.
    """
    found = [value for value in values if drawable(value, log=log)]
    lo, hi = (min(found), max(found)) if found else (1.0, 1.0)
    if hi - lo <= _FLAT * max(abs(lo), abs(hi)):
        lo, hi = (lo / 10, hi * 10) if log else (min(0.0, 2 * lo), max(0.0, 2 * hi))
    if lo == hi:  # nothing but zeros
        hi = 1.0
    if rounded and not log:
        step = _step(lo, hi, rounded)
        lo, hi = math.floor(lo / step + _FLAT) * step, math.ceil(hi / step - _FLAT) * step
    return Scale(lo, hi, log)


def thinned(curve: Curve, most: int = 2000) -> Curve:
    """The curve with about `most` points at the most: of each piece the first, the last, the lowest and the highest."""
    count = len(curve.x)
    if count <= most:
        return curve
    size = math.ceil(4 * count / most)
    kept: list[int] = []
    for start in range(0, count, size):
        piece = range(start, min(start + size, count))
        ends = {piece[0], piece[-1], min(piece, key=curve.y.__getitem__), max(piece, key=curve.y.__getitem__)}
        kept += sorted(ends)
    return Curve(curve.name, [curve.x[i] for i in kept], [curve.y[i] for i in kept])


def number(value: float) -> str:
    """A number for people, to four digits: `0.001`, `4e-9`, `12,000`."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    digits, e, power = f"{value:.4g}".partition("e")
    return f"{digits}e{int(power)}" if e else digits


def _step(lo: float, hi: float, most: int) -> float:
    """A round distance of ticks: 1, 2, 2.5 or 5 times a power of ten."""
    least = (hi - lo) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= least * (1 - _FLAT))


def _multiples(lo: float, hi: float, most: int) -> list[float]:
    step = _step(lo, hi, most)
    first, last = math.ceil(lo / step - _FLAT), math.floor(hi / step + _FLAT)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _log_ticks(lo: float, hi: float, most: int) -> list[float]:
    first, last = math.ceil(math.log10(lo) - _FLAT), math.floor(math.log10(hi) + _FLAT)
    every = math.ceil((last - first + 1) / max(most, 1))
    decades = [10.0**k for k in range(first, last + 1) if k % max(every, 1) == 0]
    if len(decades) > 1:
        return decades
    near = [m * 10.0**k for k in range(first - 1, last + 1) for m in (1, 2, 5)]
    within = [value for value in near if lo * (1 - _FLAT) <= value <= hi * (1 + _FLAT)]
    return within if len(within) > 1 else [lo, hi]
