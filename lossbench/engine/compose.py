"""Losses put together from others: what `loss=sum`, `uncertainty`, `regularized` and the robust wrappers become.

Each of the functions is called with the pieces of its terms, by name, and gives the pieces of the whole. Penalties
stand outside: a sum can be regularized, a regularized loss cannot be summed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any

import torch
from torch import Tensor

from lossbench.engine.objective import PARAMETERS, Part, Piece, Term, reduce
from lossbench.errors import ConfigError, did_you_mean
from lossbench.losses import combined
from lossbench.tasks import Fields

TINY = 1e-12  # a loss below this is divided by this

Pieces = Mapping[str, Sequence[Piece]]
Amount = Annotated[float, "[0, inf)"]


@dataclass(frozen=True)
class Sum:
    """Pieces with their weights; where `normalize`, each piece's gradient is divided by the piece's own value.

    Dividing the value too would make the total a constant that no one can watch, so it stays as it is.

    Attributes:
        learned: gives the weights, where they are learned, in the place of `weights`.
    """

    pieces: Mapping[str, Piece]
    weights: Mapping[str, float]
    normalize: bool = False
    learned: combined.Uncertainty | None = None

    @cached_property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for piece in self.pieces.values() for name in piece.needs))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(_name(key, name, piece) for key, piece in self.pieces.items() for name in piece.names)

    @property
    def moves(self) -> bool:
        return self.normalize or self.learned is not None or any(piece.moves for piece in self.pieces.values())

    def leaves(self) -> Iterator[Part]:
        for piece in self.pieces.values():
            yield from piece.leaves()
        if self.learned is not None:
            yield Part("log_variance", 1.0, self.learned, ())

    def terms(self, fields: Fields) -> list[Term]:
        weights: Mapping[str, float | Tensor] = self.weights
        if self.learned is not None:
            weights = dict(zip(self.pieces, self.learned()[0].unbind(), strict=True))
        found = []
        for key, piece in self.pieces.items():
            terms = piece.terms(fields)
            factor = 1 / reduce(terms).detach().abs().clamp_min(TINY) if self.normalize else None
            found += [self._term(_name(key, term.name, piece), weights[key], term, factor) for term in terms]
        return found

    def _term(self, name: str, own: float | Tensor, term: Term, factor: Tensor | None) -> Term:
        values, pull = term.values, own * (term.coefficient if term.weight is None else term.weight)
        if factor is not None:
            fixed = values.detach()
            values, pull = fixed + (values - fixed) * factor, pull * factor  # the same value, another gradient
        weight = torch.as_tensor(pull, dtype=values.dtype, device=values.device) if self.moves else None
        return Term(name, own * term.coefficient, values, term.weights, weight)


@dataclass(frozen=True)
class Robust:
    """One loss whose examples are not averaged: `function(values, *fields, weights=...)` gives the batch's scalar."""

    part: Part
    function: Callable[..., Tensor]
    fields: tuple[str, ...]
    moves: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.part.needs, *self.fields)))

    @property
    def names(self) -> tuple[str, ...]:
        return self.part.names

    def leaves(self) -> Iterator[Part]:
        yield self.part
        yield Part(self.part.name, 1.0, self.function, self.fields)

    def terms(self, fields: Fields) -> list[Term]:
        (term,) = self.part.terms(fields)
        if term.values.dim() == 0:
            raise ConfigError(f"loss '{term.name}' gives a scalar, and a robust loss needs a value per example")
        values, weights = term.values, term.weights
        size: Any = values.new_tensor(len(values)) if weights is None else weights.sum()
        if weights is not None:
            counts = weights > 0
            values = values.where(counts, 0) / weights.where(counts, 1)
        scalar = self.function(values, *(fields[name] for name in self.fields), weights=weights)
        return [Term(term.name, term.coefficient, scalar * size, size)]


def weighted_sum(pieces: Pieces, *, weights: Mapping[str, float] | None = None, normalize: bool = False) -> list[Piece]:
    """The sum of its terms times their weights.

    Hyperparameters: `weights` of the terms by name, 1 where none is given; `normalize` divides each term's gradient by
    the term's own value, so that terms of different size pull alike.

    Raises:
        ConfigError: no terms, a weight for a term that is not there, one below 0, or none above.
    """
    given = dict(weights or {})
    for key, value in given.items():
        if key not in pieces:
            has = ", ".join(pieces)
            raise ConfigError(f"loss.weights: there is no term '{key}'{did_you_mean(key, pieces)} (terms: {has})")
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ConfigError(f"loss.weights.{key} must be a number of at least 0, got {value!r}")
    if pieces and not any(given.get(key, 1.0) for key in pieces):
        raise ConfigError("loss.weights are all 0: nothing would be learned")
    return [Sum(_singles(pieces, "sum"), {key: float(given.get(key, 1.0)) for key in pieces}, normalize)]


def uncertainty(pieces: Pieces) -> list[Piece]:
    """The sum of its terms with learned weights: sum_k L_k / (2 sigma_k^2) + log sigma_k.

    Source: Kendall, Gal and Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses".
    """
    found = _singles(pieces, "uncertainty")
    module = combined.Uncertainty(len(found))
    penalty = Part("log_variance", 1.0, lambda _: module()[1], (PARAMETERS,))
    return [Sum(found, {}, learned=module), penalty]


def regularized(pieces: Pieces, *, l1: Amount = 0.001, l2: Amount = 0.001, squared: bool = True) -> list[Piece]:
    """Its one term, plus `l1` x sum of absolute weights + `l2` x sum of squares (elastic net).

    Weights are the model's parameters of two or more dimensions: biases and norms go free.

    Hyperparameters: `l1`, `l2`; `squared`: false takes the sum of the tensors' 2-norms in the place of the squares.
    Source: Zou and Hastie 2005, "Regularization and Variable Selection via the Elastic Net".

    Raises:
        ConfigError: not one term.
    """
    penalties = [
        Part("l1", l1, combined.l1, (PARAMETERS,)),
        Part("l2", l2, partial(combined.l2, squared=squared), (PARAMETERS,)),
    ]
    return [*_only(pieces, "regularized"), *(penalty for penalty in penalties if penalty.coefficient)]


def robust(pieces: Pieces, name: str, function: Callable[..., Tensor], fields: tuple[str, ...]) -> list[Piece]:
    """A robust loss around its one term.

    Raises:
        ConfigError: not one term, or one that is itself put together.
    """
    (part, *others) = _only(pieces, name)
    if others or not isinstance(part, Part):
        raise ConfigError(f"loss '{name}' goes around one plain loss; put it inside of the others")
    return [Robust(part, function, fields)]


def _only(pieces: Pieces, name: str) -> list[Piece]:
    if len(pieces) != 1:
        raise ConfigError(f"loss '{name}' goes around one loss, and has {len(pieces)}: {', '.join(pieces)}")
    return list(next(iter(pieces.values())))


def _singles(pieces: Pieces, name: str) -> dict[str, Piece]:
    """The terms as one piece each."""
    if not pieces:
        raise ConfigError(f"loss '{name}' has no terms; add each as +loss@loss.terms.NAME=LOSS")
    for key, found in pieces.items():
        if len(found) > 1:
            raise ConfigError(f"loss.terms.{key} has penalties of its own; put them around '{name}', not inside")
    return {key: _named(key, found[0]) for key, found in pieces.items()}


def _named(key: str, piece: Piece) -> Piece:
    if isinstance(piece, Part):
        return replace(piece, name=key)
    return replace(piece, part=replace(piece.part, name=key)) if isinstance(piece, Robust) else piece


def _name(key: str, name: str, piece: Piece) -> str:
    """What a term is called in the whole."""
    return key if len(piece.names) == 1 else f"{key}.{name}"
