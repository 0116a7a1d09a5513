"""Hooks that look for NaN and Inf in what a model's modules give, and in the gradients that come back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lossbench.engine.tree import tensors

Kind = Literal["nan", "inf", ""]


class Fault(NamedTuple):
    """A module whose output was not finite though its inputs were; the module as in `1 (BatchNorm1d)`."""

    module: str
    kind: Kind
    rows: Tensor | None


class Watch:
    """What was seen in one run of a model, forward and backward.

    Args:
        parameters: those whose gradients are looked at, unless they are frozen now, and their names.
        hooks: takes what removes the hooks.

    Attributes:
        size: of the batch under way.
        faults: in the order of execution, inner modules first, without those that an enclosing module made good.
        rows: the examples at fault, where the first gradient of an output that was not finite has a row for each.
        bad: the parameters whose gradient is not finite, in backward order.
    """

    def __init__(self, model: nn.Module, parameters: Mapping[nn.Parameter, str], hooks: ExitStack) -> None:
        self.parameters, self.hooks = parameters, hooks
        self.bad: dict[nn.Parameter, tuple[str, Kind]] = {}
        self.start(0)
        self._labels: dict[nn.Module, str] = {}
        for name, module in root(model).named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # it takes no hooks; what encloses it is looked at
            self._labels[module] = f"{name or 'the model'} ({type(module).__name__})"
            self._keep(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            self._keep(module.register_forward_hook(self._leave))
        for parameter in parameters:
            if parameter.requires_grad:
                self._keep(parameter.register_post_accumulate_grad_hook(self._arrive))  # type: ignore[no-untyped-call]

    def start(self, size: int) -> None:
        """Before a batch of so many examples."""
        self.size = size
        self.faults: list[Fault] = []
        self.rows: Tensor | None = None
        self._passed = False  # such a gradient
        self._open: list[tuple[bool, int]] = []  # of each call under way: its inputs are finite, faults before it

    def _keep(self, handle: RemovableHandle) -> None:
        self.hooks.callback(handle.remove)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._open.append((not kind_of((args, kwargs)), len(self.faults)))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        finite, before = self._open.pop()
        kind = kind_of(output)
        if not kind:
            del self.faults[before:]  # it coped with them, as softmax does with a mask of -inf
        elif finite:
            self.faults.append(Fault(self._labels[module], kind, rows_of(output, self.size)))
        for tensor in tensors(output):
            if tensor.requires_grad:
                self._keep(tensor.register_hook(self._pass))  # type: ignore[no-untyped-call]

    def _pass(self, gradient: Tensor) -> None:
        if not self._passed and kind_of(gradient):
            self._passed, self.rows = True, rows_of(gradient, self.size)

    def _arrive(self, parameter: nn.Parameter) -> None:
        if kind := kind_of(parameter.grad):
            self.bad[parameter] = self.parameters[parameter], kind


def kind_of(tree: Any) -> Kind:
    """What its floating-point tensors hold that is not finite, NaN before Inf."""
    bad = [t for t in tensors(tree) if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    return "nan" if any(bool(torch.isnan(t).any()) for t in bad) else "inf" if bad else ""


def rows_of(tree: Any, size: int) -> Tensor | None:
    """Which examples, (size,), are not finite in its tensors that have a row for each; None without such a tensor."""
    found = [t.detach() for t in tensors(tree) if t.is_floating_point() and t.dim() and len(t) == size]
    rows = [~torch.isfinite(t).reshape(size, -1).all(1) for t in found]
    return torch.stack(rows).any(0) if rows else None


def root(model: nn.Module) -> nn.Module:
    """The model itself, out of what `torch.compile(model)` gives."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model
