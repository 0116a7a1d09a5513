"""Tasks: what a batch offers to a loss, and how a split is measured."""

from __future__ import annotations

from lossbench.tasks.base import Batch, Fields, Task
from lossbench.tasks.binary import Binary
from lossbench.tasks.multiclass import Multiclass
from lossbench.tasks.multilabel import Multilabel
from lossbench.tasks.output import Output
from lossbench.tasks.regression import Regression
from lossbench.tasks.soft_labels import SoftLabels

TASKS: dict[str, type[Task]] = {task.name: task for task in (Regression, Binary, Multilabel, Multiclass, SoftLabels)}

__all__ = [
    "TASKS",
    "Batch",
    "Binary",
    "Fields",
    "Multiclass",
    "Multilabel",
    "Output",
    "Regression",
    "SoftLabels",
    "Task",
]
