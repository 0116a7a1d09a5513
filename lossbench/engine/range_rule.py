"""What a learning-rate range test says: where the loss falls fastest, where it leaves its valley, which rate to take.

The curve that is read is not an exponential average, which lags behind by half a decade where a sweep has so few
steps, but a local line: at each rate, the least-squares line through the losses of half a decade on both sides, those
near it counting more (Cleveland 1979, local regression with tricube weights). Its slope is the slope of the loss over
the logarithm of the rate. An exponential average is what ends the sweep, where only the past is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REACH = 0.6  # decades on either side of a rate whose losses its line goes through
MEMORY = 0.4  # decades that the exponential average remembers
EXPLODED = 3.0  # times what was won, or the lowest loss where that is more (then at 4 times the lowest), above it
WON = 0.7  # of the fall, where the valley begins; it ends where half is lost, so that noise on the way does not end it
BEGUN = 0.1  # of the fall, before which a slope is noise of the level beginning
CERTAIN = 4.0  # standard errors that a fall must have
LEAST_FALL = 0.01  # of the loss at the smallest rates
MARGIN = 10.0  # "a decade under divergence"
FEWEST = 8  # steps that a curve can be read from
COARSE = 0.1  # decades of rate in a step, at more than which the loss lags behind

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RangeTest:
    """A range test and what it says.

    Attributes:
        rates, losses: of each step.
        smoothed: the loss by local regression, without lag; what exploded counts as the twofold of what was won.
        steepest: the rate at which the smoothed loss falls fastest over the logarithm of the rate; None where it
            does not fall.
        diverged_at: the rate at which the loss leaves its valley for good; None where it stays in it.
        suggested: to two digits; None where there is nothing to go by.
        reason: why this rate, or why none, in words.
        advice: what is doubtful about the range, if something is.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    diverged_at: float | None
    suggested: float | None
    reason: str
    advice: str = ""


class Watch:
    """Ends a sweep: the exponential average of the loss, bias-corrected as Adam's, has left all that it won behind."""

    def __init__(self, decades_per_step: float) -> None:
        self.kept = math.exp(-decades_per_step / MEMORY)
        self.sum = self.weight = 0.0
        self.first: float | None = None
        self.lowest = math.inf

    def exploded(self, loss: float) -> bool:
        """Take the next loss; whether this is the end."""
        if not math.isfinite(loss):
            return True
        self.sum = self.kept * self.sum + (1 - self.kept) * loss
        self.weight = self.kept * self.weight + (1 - self.kept)
        average = self.sum / self.weight
        self.first = average if self.first is None else self.first
        self.lowest = min(self.lowest, average)
        return average > self.lowest + EXPLODED * max(abs(self.lowest), self.first - self.lowest)


def judged(rates: Sequence[float], losses: Sequence[float], *, stopped: bool) -> RangeTest:
    """What the losses at rising rates say.

    The suggestion is the smaller of the rate of the steepest slope and a tenth of the rate at which the loss
    diverges.

    Args:
        stopped: whether the sweep ended because the loss exploded.
    """
    if len(rates) < FEWEST:
        reason = f"the loss explodes within {len(rates)} steps, at a rate of {rates[-1]:.2g}: start lower"
        diverged_at = rates[-1] if stopped else None
        return RangeTest(tuple(rates), tuple(losses), tuple(losses), None, diverged_at, None, reason)
    x = np.log10(np.asarray(rates, float))
    counted = max(3, int(np.searchsorted(x, x[0] + 1)))  # steps of the first decade
    first = float(np.median(losses[:counted]))
    y = _clipped(np.asarray(losses, float), first)
    fit, slope, error = local_lines(x, y)
    fall = first - float(fit.min())
    start, end = _valley(fit, first, fall)
    low = start + int(fit[start:end].argmin())
    noise = 1.4826 * float(np.median(np.abs(y - fit)))  # the median of |normal| is 1 / 1.4826
    diverged_at = rates[end] if end < len(rates) else rates[-1] if stopped else None
    found = (tuple(rates), tuple(losses), tuple(fit.tolist()))
    doubt = noise * math.hypot(float(error[fit.argmin()]), 1.25 / math.sqrt(counted))  # a median's is 1.25 a mean's
    if fall < max(CERTAIN * doubt, LEAST_FALL * abs(first)):
        return RangeTest(*found, None, rates[-1] if stopped else None, None, _no_fall(rates, stopped))
    falling = np.where(fit[: low + 1] <= first - BEGUN * fall, slope[: low + 1], math.inf)
    steepest = rates[int(falling.argmin())]
    limit = math.inf if diverged_at is None else diverged_at / MARGIN
    suggested = float(f"{min(steepest, limit):.1e}")
    reason, advice = _reason(steepest, diverged_at), _advice(rates, steepest, low)
    return RangeTest(*found, steepest, diverged_at, suggested, reason, advice)


def local_lines(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """At each x the value and the slope of the line through the points near it, and the value's standard error.

    Args:
        x, y: (N,) each; the x differ.

    Returns:
        (N,) each; the error in standard deviations of y.
    """
    d = x[None, :] - x[:, None]
    reach = max(REACH, 2.5 * float(np.diff(x).max()))
    w = (1 - np.clip(np.abs(d) / reach, 0, 1) ** 3) ** 3
    s0, s1, s2 = w.sum(1), (w * d).sum(1), (w * d * d).sum(1)
    det = (s0 * s2 - s1 * s1)[:, None]
    value = w * (s2[:, None] - s1[:, None] * d) / det
    slope = w * (s0[:, None] * d - s1[:, None]) / det
    return value @ y, slope @ y, np.linalg.norm(value, axis=1)


def _valley(fit: Floats, first: float, fall: float) -> tuple[int, int]:
    """From where the loss has won most of its fall to where it has lost half of it again: the first such stretch.

    A loss that cannot explode may come back from a divergence, and fall steeply then.
    """
    start = int(np.argmax(fit <= first - WON * fall))
    lost = np.flatnonzero(fit[start:] > first - fall / 2)
    return start, start + int(lost[0]) if len(lost) else len(fit)


def _clipped(losses: Floats, first: float) -> Floats:
    """The losses, with an end to how high they go: an explosion must not reach back into the valley before it."""
    finite = losses[np.isfinite(losses)]
    kernel = min(5, len(finite))
    lowest = float(np.median(np.lib.stride_tricks.sliding_window_view(finite, kernel), axis=1).min())
    top = first + max(first - lowest, LEAST_FALL * abs(first), 1e-12)
    return np.minimum(np.nan_to_num(losses, nan=top, posinf=top, neginf=top), top)


def _no_fall(rates: Sequence[float], stopped: bool) -> str:
    if stopped:
        return (
            f"the loss does not fall at any rate before it explodes at {rates[-1]:.2g}, or not more than batches "
            "differ (larger ones or more steps would tell): the weights may be trained already, or the range may start "
            "too high"
        )
    return (
        f"the loss does not fall up to a rate of {rates[-1]:.2g}: nothing is learned from these data with this loss, "
        "or the range ends too low or has too few steps"
    )


def _reason(steepest: float, diverged_at: float | None) -> str:
    if diverged_at is None:
        return f"steepest slope, at {steepest:.2g}; no divergence in the range"
    if steepest <= diverged_at / MARGIN:
        return f"steepest slope, at {steepest:.2g}, more than a decade under divergence at {diverged_at:.2g}"
    return f"a decade under divergence at {diverged_at:.2g}; the steepest slope, at {steepest:.2g}, is nearer to it"


def _advice(rates: Sequence[float], steepest: float, low: int) -> str:
    """What the edges of the range, or too few steps, may hide."""
    if math.log10(rates[1] / rates[0]) > COARSE:
        return "with so few steps for so wide a range the loss explodes late, and the suggestion is high: take more"
    if steepest < 10 * rates[0]:  # the decade that says where the loss begins
        return "the loss falls from the first rates on: a range that starts lower would show more"
    if low == len(rates) - 1 and steepest > rates[-1] / 10**REACH:
        return "the loss still falls at the end of the range: one that stops higher would show more"
    return ""
