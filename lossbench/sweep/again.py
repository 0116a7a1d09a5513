"""Jobs that something outside the sweep has stopped, such as a signal to all processes of a machine."""

from __future__ import annotations

from lossbench.engine.restore import found
from lossbench.saved import FOLDER
from lossbench.sweep.job import Task


class Again:
    """Which of them are gone on with: each once, and where it can be."""

    def __init__(self) -> None:
        self._numbers: set[int] = set()

    def goes_on(self, task: Task) -> bool:
        """Whether the job, which was stopped just now, is to be run again."""
        first = task.number not in self._numbers
        self._numbers.add(task.number)
        return first and can_begin(task)


def can_begin(task: Task) -> bool:
    """Whether its directory holds nothing yet, or a checkpoint to go on from."""
    return not (task.path / "status.json").exists() or bool(found(task.path / FOLDER, "step"))
