"""The task contract: a batch becomes named fields, and a loss fits when its needs are among them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Protocol

from torch import Tensor

Batch = Mapping[str, Tensor]
Fields = dict[str, Tensor]
Model = Callable[[Tensor], Tensor]


class Task(Protocol):
    """Adapts a batch to named fields, and measures a split in ways that do not depend on the training loss.

    Attributes:
        name: as the catalogue has it.
        pair: the fields that stand for a user's `(input, target)`.
        fields: every field that it can provide.
        directions: each metric's better direction, `max` or `min`; the first is the default monitor.
    """

    name: ClassVar[str]
    pair: ClassVar[tuple[str, str]]
    fields: ClassVar[tuple[str, ...]]
    directions: ClassVar[dict[str, str]]

    @property
    def outputs(self) -> int:
        """How many numbers the model gives per example."""
        ...

    def forward(self, model: Model, batch: Batch, needs: Collection[str]) -> Fields:
        """The fields named in `needs`; the model is only called."""
        ...

    def metrics(self, fields: Fields) -> dict[str, Tensor]:
        """Every metric of `directions`, from the fields of `pair` over a whole split."""
        ...


def provide(batch: Batch, made: Mapping[str, Callable[[], Tensor]], needs: Collection[str]) -> Fields:
    """The needed fields, each made only if it is needed; the example weights come along where the data have them."""
    fields = {name: made[name]() for name in needs if name in made}
    if "weight" in batch:
        fields["weight"] = batch["weight"]
    return fields
