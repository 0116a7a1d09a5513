"""What first went non-finite in a step that was refused.

The guard left weights and buffers as they were before the step, so it can be run again, with hooks that look at every
module's output and every gradient. A module is at fault where its output is not finite and its inputs were.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lossbench.engine.buffers import Buffers
from lossbench.engine.names import named_parameters
from lossbench.engine.objective import Term, reduce, sums, total
from lossbench.engine.random_state import random_state_kept
from lossbench.engine.step import Clip, Player, clip_gradients
from lossbench.engine.watch import Fault, Watch, kind_of, rows_of
from lossbench.engine.watch import Kind as Kind
from lossbench.errors import first_line
from lossbench.tasks import Batch

Place = Literal["input", "target", "parameter", "forward", "loss", "gradient", "norm", "update", "nothing"]

_APART = 1024  # examples of a batch whose losses are differentiated one by one
_NAMED = 5  # examples in a sentence
_FIELDS: dict[str, Place] = {"input": "input", "target": "target", "weight": "target"}  # of a batch, and their places


@dataclass(frozen=True)
class Finding:
    """What first went non-finite when a step was run again; as a string, half a sentence for an error line.

    Attributes:
        place: where; `target` is the example weights too, and `update` is for who finds that the optimizer did it.
        name: the batch's field, the parameter, the module (`1 (BatchNorm1d)`), the loss, or the parameter whose
            gradient it is; at `nothing`, the error if the step could not be run again.
        kind: empty if nothing was found.
        examples: the `index` of the examples at fault; empty where it is every one, or they cannot be told apart.
        parameters: those whose gradient is not finite, in backward order; at `norm`, the one with the largest.
        of: how many examples were told apart, in one micro-batch; 0 where they were not.
    """

    place: Place
    name: str = ""
    kind: Kind = ""
    examples: tuple[int, ...] = ()
    parameters: tuple[str, ...] = ()
    of: int = 0

    def __str__(self) -> str:
        who = self._examples()
        if self.place in ("input", "target"):
            return f"the {self.name} of {who or 'the batch'} holds {self.kind}"
        if self.place == "parameter":
            return f"the parameter '{self.name}' held {self.kind} before the step"
        if self.place == "forward":
            name, kind = self.name.rsplit(" ", 1)
            module = self.name if name == "the model" else f"module '{name}' {kind}"
            return f"{module} gave {self.kind}" + (f" for {who}" if who else "")
        if self.place == "loss":
            return f"the loss '{self.name}' is {self.kind}" + (f" at {who}" if who else "")
        if self.place == "gradient":
            return f"the gradient of '{self.name}' is {self.kind}" + (f", from {who}" if who else "")
        if self.place == "norm":
            return f"the gradients are finite but their joint norm overflows; the largest is that of '{self.name}'"
        if self.place == "update":
            return f"the optimizer's update made '{self.name}' {self.kind}"
        if self.name:
            return f"nothing: the step could not be run again ({self.name})"
        return "nothing: the step was finite when it was run again (transient)"

    def _examples(self) -> str:
        names = [str(index) for index in self.examples[:_NAMED]]
        if not names:
            return "every example" if self.of else ""
        if len(self.examples) == 1:
            return f"example {names[0]}"
        more = len(self.examples) - len(names)
        last = f"{more:,} more" if more else names.pop()
        return f"examples {', '.join(names)} and {last} (of {self.of:,})"


def explain(player: Player, step: int, micro_batches: Sequence[Batch]) -> Finding:
    """Run a refused step again, uncompiled, and say what first was not finite.

    What it moves is put back: weights, gradients, buffers and random numbers; the optimizers and the loss scale are
    not asked to do anything. It never raises: an error of the replay is a finding of nothing, under the error's name.

    Args:
        step: its number, from which its random numbers follow.
        micro_batches: those of the step.
    """
    try:
        with _put_back(player), _eager(), torch.enable_grad():
            player.begin(step)
            return _replay(player, micro_batches)
    except Exception as error:
        return Finding("nothing", first_line(error))


def _replay(player: Player, micro_batches: Sequence[Batch]) -> Finding:
    """The step as `Player.step` has it, up to the clipping."""
    names = _names(player)
    broken = next((Finding("parameter", name, kind) for p, name in names.items() if (kind := kind_of(p))), None)
    constant = sum(len(batch["index"]) for batch in micro_batches) if len(micro_batches) > 1 else 0
    parts: list[Tensor] = []
    with ExitStack() as hooks:
        watch = Watch(player.model, {p: names[p] for p in player.parameters}, hooks)
        for batch in micro_batches:
            if found := _backward(player, batch, constant, watch, broken, parts):
                return found
    gradients = {names[p]: p.grad for p in player.parameters if p.grad is not None}
    torch._foreach_mul_(list(gradients.values()), 1 / player.scale.value)
    if constant:
        value, weight = torch.stack(parts).sum(0)
        divisor = torch.ones_like(weight) if player.objective.reduction == "sum" else weight
        if kind := kind_of(value / divisor):
            return Finding("loss", player.objective.parts[0].names[0], kind)
        torch._foreach_mul_(list(gradients.values()), constant / divisor)
    return _of_norm(gradients)


def _backward(
    player: Player, batch: Batch, constant: int, watch: Watch, broken: Finding | None, parts: list[Tensor]
) -> Finding | None:
    """One micro-batch, and what is found in it.

    Args:
        constant: what the sum of the values is divided by where there are several micro-batches, else 0.
        broken: what was found in the parameters.
        parts: takes the sums of values and weights where there are several micro-batches.
    """
    watch.start(len(batch["index"]))
    terms = player.terms(batch)
    count = len(terms)
    if constant:
        found = [sums(term, watch.size) for term in terms]
        value = total(terms, [value for value, _ in found])
        parts.append(torch.stack((value.detach(), torch.as_tensor(found[0][1]).to(value))))
        loss = value / constant
    else:
        terms += player.objective.penalties()
        loss = reduce(terms, player.objective.reduction)
    if kind := kind_of(loss):
        given = None if watch.faults else _of_batch(batch, terms)
        return given or broken or _of_forward(batch, watch.faults) or _of_terms(player, batch, terms, kind)
    scaled = player.scale.scale(loss)
    scaled.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    if not watch.bad:
        return None
    first, (name, kind) = next(iter(watch.bad.items()))
    rows = watch.rows
    if rows is None:
        with suppress(RuntimeError):  # a graph that cannot be walked twice, or not for one parameter
            rows = _apart(scaled, [term.values for term in terms[:count]], first)
    return _finding("gradient", name, kind, batch, rows, tuple(name for name, _ in watch.bad.values()))


def _of_batch(batch: Batch, terms: Sequence[Term]) -> Finding | None:
    """A field that is not finite for an example whose loss is not either: a model may cope with NaN in its input."""
    size = len(batch["index"])
    lost = torch.zeros_like(batch["index"], dtype=torch.bool)
    for term in terms:
        if kind_of(term.values):
            rows = rows_of(term.values, size)
            lost |= torch.ones_like(lost) if rows is None else rows
    for name, place in _FIELDS.items():
        rows = rows_of(batch.get(name), size)
        if rows is not None and bool((rows & lost).any()):
            return _finding(place, name, kind_of(batch[name][rows & lost]), batch, rows & lost)
    return None


def _of_forward(batch: Batch, faults: Sequence[Fault]) -> Finding | None:
    return _finding("forward", *faults[0][:2], batch, faults[0].rows) if faults else None


def _of_terms(player: Player, batch: Batch, terms: Sequence[Term], kind: Kind) -> Finding:
    """The first loss that has a value which is not finite, or whose sum is not."""
    for term in terms:
        if found := kind_of(term.values):
            return _finding("loss", term.name, found, batch, rows_of(term.values, len(batch["index"])))
    names = [term.name for term in terms if kind_of(reduce([term], player.objective.reduction))]
    return Finding("loss", names[0] if names else " + ".join(term.name for term in terms), kind)


def _of_norm(gradients: Mapping[str, Tensor]) -> Finding:
    """The largest gradient where only the joint norm is not finite."""
    bad = {name: kind for name, gradient in gradients.items() if (kind := kind_of(gradient))}
    if bad:  # taking the mean over several micro-batches was too much
        return Finding("gradient", *next(iter(bad.items())), parameters=tuple(bad))
    kind = kind_of(clip_gradients(list(gradients.values()), Clip()))
    if not kind:
        return Finding("nothing")
    norms = {name: float(torch.linalg.vector_norm(g, dtype=torch.float64)) for name, g in gradients.items()}
    largest = max(norms, key=norms.__getitem__)
    return Finding("norm", largest, kind, parameters=(largest,))


def _apart(scaled: Tensor, values: Sequence[Tensor], parameter: Tensor) -> Tensor | None:
    """The examples whose own loss gives a parameter a gradient that is not finite, if they can be told apart."""
    size = len(values[0]) if values[0].dim() else 0
    values = [v for v in values if v.requires_grad]
    if not 0 < size <= _APART or any(v.shape != (size,) for v in values):
        return None
    weights = torch.autograd.grad(scaled, values, retain_graph=True)
    chosen = torch.zeros(size, dtype=torch.bool, device=scaled.device)

    def bad(rows: range) -> bool:
        chosen.zero_()[rows.start : rows.stop] = True
        only = [w.where(chosen, 0) for w in weights]
        (gradient,) = torch.autograd.grad(values, [parameter], only, retain_graph=True, allow_unused=True)
        return bool(kind_of(gradient))

    if bad(range(0)):  # 0 times Inf: one example's fault shows in every other's gradient
        return None
    found = _search(bad, range(size))
    return chosen.zero_().index_fill_(0, torch.tensor(found, device=chosen.device), True) if found else None


def _search(bad: Callable[[range], bool], rows: range) -> list[int]:
    """Each row that is bad alone, by halves: rows that are good together are not looked at one by one."""
    if not bad(rows):
        return []
    half = len(rows) // 2
    return _search(bad, rows[:half]) + _search(bad, rows[half:]) if half else list(rows)


def _finding(
    place: Place, name: str, kind: Kind, batch: Batch, rows: Tensor | None, parameters: tuple[str, ...] = ()
) -> Finding:
    """A finding on a batch's examples, `rows` of which are at fault if they can be told apart."""
    if rows is None or not bool(rows.any()):
        return Finding(place, name, kind, (), parameters)
    every = len(rows) > 1 and bool(rows.all())
    return Finding(place, name, kind, () if every else tuple(batch["index"][rows].tolist()), parameters, len(rows))


def _names(player: Player) -> dict[nn.Parameter, str]:
    """Every parameter's name, those of a loss after its own."""
    names = {named.parameter: named.name for named in named_parameters(player.model, player.objective)}
    return names | {p: f"parameters[{i}]" for i, p in enumerate(player.parameters) if p not in names}


def _eager() -> AbstractContextManager[object]:
    """Compiled code runs uncompiled, and hooks are called."""
    # Nothing has been compiled before dynamo is imported, which takes a second.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


@contextmanager
def _put_back(player: Player) -> Iterator[None]:
    """Leave parameters, gradients, buffers and random numbers as they were; without gradients to start with."""
    held = dict.fromkeys([*player.parameters, *(p for module in player.modules for p in module.parameters())])
    saved = [(p, p.detach().clone(), p.grad) for p in held]
    buffers = Buffers(player.modules)
    devices = {p.device for p in held if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices), random_state_kept():
            for parameter in held:
                parameter.grad = None
            yield
    finally:
        with torch.no_grad():
            for parameter, value, gradient in saved:
                parameter.copy_(value)  # an embedding with max_norm changes its weight in the forward pass
                parameter.grad = gradient
        buffers.restore()
