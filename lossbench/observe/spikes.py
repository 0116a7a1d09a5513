"""Loss spikes: noticed and counted, never acted upon."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median

from lossbench.engine.record import StepRow
from lossbench.observe.recorder import Sink

WINDOW, LEAST = 100, 20  # taken steps that a loss is compared with: at most, and at least
DEVIATIONS, TIMES = 10.0, 5.0
LOGGED = 20  # spikes that are told one by one


class Spikes(Sink):
    """Counts the steps whose loss is far above that of the steps before.

    A spike is a finite loss of a taken step that is more than 10 robust deviations (1.4826 x the median absolute
    deviation) above the median of up to 100 taken steps before it, and more than 5 times that median.

    Args:
        log: takes a line for each of the first spikes.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.count = 0
        self._log = log
        self._recent: deque[tuple[int, float]] = deque()  # step and loss, in time order
        self._sorted: list[float] = []  # the same losses

    def steps(self, rows: Sequence[StepRow]) -> None:
        recent, ordered = self._recent, self._sorted
        for step, _, loss, _, _, _, skipped, _ in rows:
            if skipped or not math.isfinite(loss):
                continue
            size = len(ordered)
            middle = (ordered[(size - 1) // 2] + ordered[size // 2]) / 2 if size >= LEAST else math.inf
            # The cheap half of the condition comes first: it is met by a spike and by hardly any other step.
            if loss > TIMES * abs(middle) and loss - middle > DEVIATIONS * self._deviation(middle):
                self._found(step, loss, middle)
            if size == WINDOW:
                del ordered[bisect_left(ordered, recent.popleft()[1])]
            recent.append((step, loss))
            insort(ordered, loss)

    def rewind(self, step: int) -> None:
        """Forget the losses after `step`; a spike that there was stays counted."""
        while self._recent and self._recent[-1][0] > step:
            del self._sorted[bisect_left(self._sorted, self._recent.pop()[1])]

    def _deviation(self, middle: float) -> float:
        return 1.4826 * median(abs(loss - middle) for loss in self._sorted)

    def _found(self, step: int, loss: float, middle: float) -> None:
        self.count += 1
        if self.count <= LOGGED:
            much = f"{loss / middle:.2g} times the median" if middle > 0 else f"against a median of {middle:.2g}"
            self._log(f"step {step}: loss spike: {loss:.2g}, {much} of the {len(self._sorted)} steps before")
