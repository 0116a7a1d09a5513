"""What is minimised: a list of terms, and the one place where values become a scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from lossbench.errors import ConfigError
from lossbench.tasks import Fields

Values = Tensor | tuple[Tensor, Tensor]
Reduction = Literal["mean", "sum"]


class Term(NamedTuple):
    """One loss on one batch: `coefficient` x sum(values) / sum(weights); without weights, each example counts 1."""

    name: str
    coefficient: float
    values: Tensor  # (N,), or () from a loss that reduces for itself
    weights: Tensor | None  # (N,)


@dataclass(frozen=True)
class Part:
    """A loss with its hyperparameters bound, and the fields it takes, in the order of its arguments."""

    name: str
    coefficient: float
    function: Callable[..., Values]
    needs: tuple[str, ...]


class Objective:
    """The parts of a loss, evaluated on the fields of a batch.

    Attributes:
        needs: every field that some part takes.
        modules: the parts that have parameters or buffers of their own.
    """

    def __init__(self, parts: Sequence[Part], reduction: Reduction = "mean") -> None:
        self.parts, self.reduction = tuple(parts), reduction
        self.needs = tuple(dict.fromkeys(name for part in parts for name in part.needs))
        self.modules = nn.ModuleList(part.function for part in parts if isinstance(part.function, nn.Module))

    def terms(self, fields: Fields) -> list[Term]:
        """Each part's values, times the examples' own weights where the data have them."""
        terms = []
        for part in self.parts:
            result = part.function(*(fields[name] for name in part.needs))
            values, weights = result if isinstance(result, tuple) else (result, None)
            if "weight" in fields:
                if values.dim() == 0:
                    raise ConfigError(
                        f"loss '{part.name}' gives a scalar, and dataset.weight needs a value per example"
                    )
                values = values * fields["weight"]
                weights = fields["weight"] if weights is None else weights * fields["weight"]
            terms.append(Term(part.name, part.coefficient, values, weights))
        return terms


def reduce(terms: Sequence[Term], reduction: Reduction = "mean") -> Tensor:
    """The scalar to minimise: the sum over terms of coefficient x sum(values) / sum(weights).

    Equal to torch's own `reduction="mean"` wherever torch has the loss. Where all weights are 0 it is NaN, as there.
    """
    total: Tensor | None = None
    for term in terms:
        if reduction == "sum":
            value = term.values.sum()
        elif term.weights is None:
            value = term.values.mean()
        else:
            value = term.values.sum() / term.weights.sum()
        value = value if term.coefficient == 1 else term.coefficient * value
        total = value if total is None else total + value
    if total is None:
        raise ValueError("an objective without terms")
    return total


def sums(term: Term, examples: int) -> tuple[Tensor, Tensor | int]:
    """Coefficient x sum(values), and what it is to be divided by, for a mean over several batches.

    A loss that reduces for itself stands for each of the batch's examples.
    """
    values = term.values if term.values.dim() else term.values * examples
    return term.coefficient * values.sum(), examples if term.weights is None else term.weights.sum()
