"""Nested state as torch's `state_dict` gives it: dicts, lists and tuples with tensors for leaves."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def cloned(tree: Any) -> Any:
    """The same state in tensors and containers of its own."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if type(tree) in (dict, OrderedDict):
        return {key: cloned(value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(cloned(value) for value in tree)
    return copy.deepcopy(tree)


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in it."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from tensors(value)


@torch.no_grad()
def all_finite(found: Sequence[Tensor]) -> bool:
    """Whether floating-point tensors of one device hold neither NaN nor Inf; one wait for the device if so."""
    if not found or bool(torch.isfinite(torch.stack(torch._foreach_norm(list(found))).sum())):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in found)  # the norm of finite numbers can overflow
