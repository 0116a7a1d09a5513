"""Parameters that are frozen for the first epochs of a run."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

Held = tuple[int, Sequence[nn.Parameter]]  # the first step, from 1, that trains these


class Thaw:
    """Freezes parameters until their first step, as a function of the step alone: a step that is run again, or one
    that a resumed run begins with, trains what it would have.

    A frozen parameter has no gradient, and the optimizer keeps nothing for it.
    """

    def __init__(self, held: Sequence[Held] = ()) -> None:
        self.held = held
        self.thawed = [True] * len(held)
        self.begin(0)

    def begin(self, step: int) -> bool:
        """Stand at a step; true if some parameters are trained from here on that were not."""
        now = [step >= first for first, _ in self.held]
        if now == self.thawed:
            return False
        more = any(new and not old for new, old in zip(now, self.thawed, strict=True))
        for thawed, (_, parameters) in zip(now, self.held, strict=True):
            for parameter in parameters:
                parameter.requires_grad_(thawed)
                parameter.grad = parameter.grad if thawed else None
        self.thawed = now
        return more
