"""What the training rows taught, as plain JSON: other data become inputs by it, without the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lossbench.data import encoding as encodings
from lossbench.data import strict
from lossbench.data.encoding import Encoding
from lossbench.data.roles import example_weights
from lossbench.data.rowwise import TIMEOUT, Rowwise
from lossbench.data.source import Source
from lossbench.data.split import Ready, Split
from lossbench.data.target import as_task, as_trained, check_target, class_count, task_of
from lossbench.errors import CheckpointError, ConfigError
from lossbench.tasks import TASKS, Multiclass, Regression, SoftLabels, Task
from lossbench.tasks.output import ONE_OF_MANY, YES_OR_NO
from lossbench.tasks.regression import HEADS

FORMAT = 2
PLACE = "its preprocessing"

_CLASSES: dict[str, strict.Kind] = {
    "classes": strict.count,
    "class_counts": strict.list_of(strict.deviation),
    "output": strict.one_of(*ONE_OF_MANY),
}
_PARAMETERS: dict[str, dict[str, strict.Kind]] = {
    "regression": {
        "mean": strict.number,
        "std": strict.positive,
        "head": strict.one_of("value", *HEADS.values()),
        "levels": strict.list_of(strict.positive),
    },
    "binary": {"output": strict.one_of(*YES_OR_NO)},
    "multilabel": {"labels": strict.count, "output": strict.one_of(*YES_OR_NO)},
    "multiclass": _CLASSES,
    "soft_labels": _CLASSES,
}


@dataclass(frozen=True)
class Fitted:
    """What the training rows taught: how features become inputs, and what the outputs mean.

    Attributes:
        classes: the classes' names in the order of their ids; none where the data set did not name them.
    """

    task: Task
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    encoding: Encoding

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: numbers, text, lists and objects only."""
        return {
            "format": FORMAT,
            "task": {"name": self.task.name, **_plain(asdict(self.task))},  # type: ignore[call-overload]
            "input_shape": list(self.input_shape),
            "classes": list(self.classes),
            "encoding": self.encoding.to_json(),
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Fitted:
        """What `to_json` gave.

        Raises:
            CheckpointError: another format, a wrong or missing key, or values that do not go together.
        """
        version = saved.get("format") if isinstance(saved, Mapping) else None
        if isinstance(version, int) and version != FORMAT:
            raise CheckpointError(
                f"the checkpoint's preprocessing has format {version}, and this lossbench reads format {FORMAT}; "
                "use the version of lossbench that wrote it"
            )
        found = strict.read(
            saved,
            PLACE,
            format=strict.count,
            task=_read_task,
            input_shape=strict.list_of(strict.count),
            classes=strict.list_of(strict.text),
            encoding=encodings.from_json,
        )
        del found["format"]
        fitted = cls(**found)
        if fitted.encoding.input_shape != fitted.input_shape:
            raise strict.damaged(
                PLACE, f"gives inputs of shape {fitted.encoding.input_shape}, not {fitted.input_shape}"
            )
        if len(fitted.classes) not in (0, class_count(fitted.task)):
            raise strict.damaged(PLACE, f"names {len(fitted.classes)} classes for task {fitted.task.name}")
        return fitted

    def split(
        self, source: Source, device: torch.device, *, weight: str | None = None, timeout: float = TIMEOUT
    ) -> Split:
        """Every row of other data, as the model and its losses take them.

        Classes are those of the training, by name where both have names. `weight` names a column of example weights;
        `timeout` is how many seconds to wait for a loader process.

        Raises:
            ConfigError: data for another task, or of another kind.
            DataError: features that cannot be encoded, or a class that the training did not have.
        """
        task = task_of(source)
        hardened = isinstance(self.task, SoftLabels) and task == "multiclass"  # ids are the surest of soft labels
        if task != self.task.name and not hardened:
            raise ConfigError(
                f"the model was trained for task {self.task.name}, and these data are for task {task}; "
                f"dataset.task={self.task.name} states the task of a CSV file"
            )
        features, weights = (source.features, None) if weight is None else example_weights(source.features, weight)
        check_target(source)
        target = as_trained(source, self.task, self.classes)
        inputs = self.encoding.apply(features)
        ready = Ready(inputs, as_task(target, self.task), weights, self.input_shape, timeout)
        return ready.splits(device, np.arange(len(target)))[0]

    def inputs(self, features: Any, device: torch.device) -> Tensor:
        """The model's inputs (N, *input_shape) for features of any rows.

        Raises:
            ConfigError, DataError: as `Encoding.apply`.
        """
        encoded = self.encoding.apply(features)
        if isinstance(encoded, Dataset):
            rows = np.arange(len(encoded))  # type: ignore[arg-type]
            return Rowwise(encoded, rows, self.input_shape).read(rows.tolist()).to(device)
        return torch.from_numpy(encoded).to(device)


def _read_task(saved: Any, place: str) -> Task:
    name = saved.get("name") if isinstance(saved, Mapping) else None
    kinds = _PARAMETERS.get(name) if isinstance(name, str) else None
    if kinds is None:
        raise strict.damaged(place, f"has no name out of {', '.join(_PARAMETERS)}")
    found = strict.read(saved, place, name=strict.text, **kinds)
    task = TASKS[found.pop("name")](**found)
    _refuse_contradictions(task, place)
    return task


def _refuse_contradictions(task: Task, place: str) -> None:
    """A head needs its levels, and classes a count each."""
    if isinstance(task, (Multiclass, SoftLabels)) and len(task.class_counts) != task.classes:
        raise strict.damaged(place, f"has {len(task.class_counts)} class_counts for {task.classes} classes")
    if not isinstance(task, Regression):
        return
    rise = all(a < b for a, b in pairwise((0.0, *task.levels, 1.0)))
    fits = {"value": len(task.levels) <= 1, "quantiles": len(task.levels) > 0}.get(task.head, not task.levels)
    if not (rise and fits):
        raise strict.damaged(place, f"has levels {list(task.levels)} for head {task.head}")
    if task.head == "log_rate" and task.mean <= 0:
        raise strict.damaged(place, f"has a mean of {task.mean:g} for head {task.head}")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: tuples are lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
