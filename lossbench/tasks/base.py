"""The task contract: a batch becomes named fields, and a loss fits when its needs are among them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from lossbench.errors import ConfigError
from lossbench.tasks.output import Output

Batch = Mapping[str, Tensor]
Fields = dict[str, Tensor]
Model = Callable[[Tensor], Tensor]


class Task(Protocol):
    """Adapts a batch to named fields, and measures a split in ways that do not depend on the training loss.

    Attributes:
        name: as the catalogue has it.
        pair: the fields that stand for a user's `(input, target)`.
        fields: every field that it can provide.
    """

    name: ClassVar[str]
    pair: ClassVar[tuple[str, str]]
    fields: ClassVar[tuple[str, ...]]

    @property
    def output(self) -> Output:
        """The form of what the model gives: logits, for numbers too, or what its last activation makes of them."""
        ...

    @property
    def outputs(self) -> int:
        """How many numbers the model gives per example."""
        ...

    @property
    def measured(self) -> tuple[str, ...]:
        """The fields that `metrics` takes."""
        ...

    @property
    def directions(self) -> dict[str, str]:
        """Each metric's better direction, `max` or `min`; the first is the default monitor."""
        ...

    def suited(self, needs: Collection[str], *, output: Output | None = None, levels: Sequence[float] = ()) -> Task:
        """The same task with the output form and the head that a loss's needs ask for.

        Args:
            output: `model.output`, where it is stated.
            levels: of the quantiles that the loss stands for.

        Raises:
            ConfigError: needs that do not go together, or not with `output`.
        """
        ...

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        """The fields named in `needs`; the model is only called."""
        ...

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        """Every metric of `directions`, from the `measured` fields of a whole split."""
        ...


def provide(batch: Batch, made: Mapping[str, Callable[[], Tensor]], needs: Collection[str]) -> Fields:
    """The needed fields, each made only if it is needed; the example weights come along where the data have them."""
    fields = {name: made[name]() for name in needs if name in made}
    if "weight" in batch:
        fields["weight"] = batch["weight"]
    return fields


def given(model: Model, batch: Batch) -> Tensor:  # (N, outputs)
    """The model's outputs, at least in float32."""
    raw = model(batch["input"])
    return raw.to(torch.promote_types(raw.dtype, torch.float32))


def groups(batch: Batch, otherwise: Tensor | None = None) -> Tensor:  # (N,) int64
    """The examples' groups: those that the data name, else what the task has instead."""
    found = batch.get("group", otherwise)
    if found is None:
        raise ConfigError("the loss needs groups, and these data name none: set dataset.group=COLUMN")
    return found.long()
