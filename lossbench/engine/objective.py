"""What is minimised: a list of terms, and the one place where values become a scalar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lossbench.engine.course import Moving
from lossbench.errors import ConfigError
from lossbench.tasks import Fields

Values = Tensor | tuple[Tensor, Tensor]
Reduction = Literal["mean", "sum"]

PARAMETERS = "parameters"  # the field of penalties: the model's weights


class Term(NamedTuple):
    """One loss on one batch: `coefficient` x sum(values) / sum(weights); without weights, each example counts 1.

    Attributes:
        values: (N,); or () from a loss that reduces for itself.
        weights: (N,), or () where the values are.
        weight: what its gradient is multiplied by, where that changes from step to step.
    """

    name: str
    coefficient: float | Tensor
    values: Tensor
    weights: Tensor | None
    weight: Tensor | None = None


class Piece(Protocol):
    """A loss as the engine holds it: a `Part`, or a composition of such.

    Attributes:
        needs: the fields that it takes.
        names: of its terms.
        moves: whether their weights change from step to step.
    """

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def moves(self) -> bool: ...

    def leaves(self) -> Iterator[Part]:
        """The plain losses that it is made of, and what else has settings or parameters of its own."""
        ...

    def terms(self, fields: Fields) -> list[Term]:
        """Its terms on the fields of a batch."""
        ...


@dataclass(frozen=True)
class Part:
    """A loss with its hyperparameters bound, and the fields it takes, in the order of its arguments."""

    name: str
    coefficient: float
    function: Callable[..., Values]
    needs: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def moves(self) -> bool:
        return False

    def leaves(self) -> Iterator[Part]:
        yield self

    def terms(self, fields: Fields) -> list[Term]:
        """Its values, times the examples' own weights where the data have them."""
        result = self.function(*(fields[name] for name in self.needs))
        values, weights = result if isinstance(result, tuple) else (result, None)
        if "weight" in fields and self.needs != (PARAMETERS,):
            if values.dim() == 0:
                raise ConfigError(f"loss '{self.name}' gives a scalar, and dataset.weight needs a value per example")
            values = values * fields["weight"]
            weights = fields["weight"] if weights is None else weights * fields["weight"]
        return [Term(self.name, self.coefficient, values, weights)]


class Objective:
    """The parts of a loss, evaluated on the fields of a batch.

    Args:
        parameters: the model's weights, for penalties on them.

    Attributes:
        needs: every field that some part takes.
        modules: the parts that have parameters or buffers of their own.
        columns: what is recorded of each step beside the total: `loss/TERM`, the mean of each term of several, without
            its coefficient; `weight/TERM`, where it moves; and the hyperparameters that follow a course, as the config
            calls them.
    """

    def __init__(
        self, parts: Sequence[Piece], reduction: Reduction = "mean", parameters: Sequence[Tensor] = ()
    ) -> None:
        self.parts, self.reduction, self.parameters = tuple(parts), reduction, tuple(parameters)
        self.needs = tuple(dict.fromkeys(name for part in parts for name in part.needs if name != PARAMETERS))
        functions = [leaf.function for part in parts for leaf in part.leaves()]
        self.modules = nn.ModuleList(f for f in functions if isinstance(f, nn.Module))
        self._moving = [f for f in functions if isinstance(f, Moving)]
        names = [name for part in parts for name in part.names]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise ConfigError(f"two terms of the loss are called '{twice}'; give one of them another name")
        moving = [name for part in parts if part.moves for name in part.names]
        self._detailed = len(names) > 1 or bool(moving)
        details = [*(f"loss/{name}" for name in names), *(f"weight/{name}" for name in moving)]
        self.columns = (*(details if self._detailed else ()), *(key for m in self._moving for key in m.keys))

    def begin(self, step: int) -> None:
        """Move the hyperparameters that follow a course to their values of this step."""
        for moving in self._moving:
            moving.begin(step)

    @property
    def settings(self) -> tuple[float, ...]:
        """The hyperparameters that follow a course, as they stand."""
        return tuple(value for moving in self._moving for value in moving.now.values())

    def terms(self, fields: Fields) -> list[Term]:
        """Every term that depends on the examples."""
        return [term for part in self.parts if part.needs != (PARAMETERS,) for term in part.terms(fields)]

    def penalties(self) -> list[Term]:
        """Every term that depends on the parameters alone."""
        parts = [part for part in self.parts if part.needs == (PARAMETERS,)]
        if not parts:
            return []
        trained = tuple(p for p in self.parameters if p.requires_grad)  # frozen ones are no matter of the training
        return [term for part in parts for term in part.terms({PARAMETERS: trained})]  # type: ignore[dict-item]

    def details(self, terms: Sequence[Term], means: Sequence[Tensor]) -> list[Tensor]:
        """What is recorded of a step's terms, as far as it is on the device: the first of `columns`."""
        if not self._detailed:
            return []
        weights = [term.weight for term in terms if term.weight is not None]
        return [tensor.detach() for tensor in (*means, *weights)]


def mean(term: Term, reduction: Reduction = "mean") -> Tensor:
    """A term without its coefficient: sum(values) / sum(weights), NaN where all weights are 0; or the sum alone."""
    if reduction == "sum":
        return term.values.sum()
    return term.values.mean() if term.weights is None else term.values.sum() / term.weights.sum()


def total(terms: Sequence[Term], means: Sequence[Tensor]) -> Tensor:
    """The sum of the terms' means times their coefficients."""
    if not terms:
        raise ValueError("an objective without terms")
    found = [m if _is_one(t.coefficient) else t.coefficient * m for t, m in zip(terms, means, strict=True)]
    return found[0] if len(found) == 1 else torch.stack(found).sum()


def _is_one(coefficient: float | Tensor) -> bool:
    return not isinstance(coefficient, Tensor) and coefficient == 1


def reduce(terms: Sequence[Term], reduction: Reduction = "mean") -> Tensor:
    """The scalar to minimise: the sum over terms of coefficient x sum(values) / sum(weights).

    Equal to torch's own `reduction="mean"` wherever torch has the loss. Where all weights are 0 it is NaN, as there.
    """
    return total(terms, [mean(term, reduction) for term in terms])


def sums(term: Term, examples: int) -> tuple[Tensor, Tensor | int]:
    """A term's sum(values) without its coefficient, and what to divide it by, for a mean over several batches.

    A loss that reduces for itself stands for each of the batch's examples.
    """
    if term.weights is None:
        values = term.values if term.values.dim() else term.values * examples
        return values.sum(), examples
    return term.values.sum(), term.weights.sum()
