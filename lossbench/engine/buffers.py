"""Buffers that can be put back: BatchNorm's running statistics, queues, averages."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Buffers:
    """A copy of the modules' buffers as they were at the last `save`.

    They are found by name, not by object: `self.ema = 0.9 * self.ema + ...` puts a new tensor in the old one's place.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        found = dict.fromkeys(child for module in modules for child in module.modules())
        self._places = [(m, name) for m in found for name, buffer in m._buffers.items() if buffer is not None]
        self._saved: list[Tensor] = [torch.empty_like(self._at(*place)) for place in self._places]
        self.save()

    def __len__(self) -> int:
        return len(self._places)

    @staticmethod
    def _at(module: nn.Module, name: str) -> Tensor:
        buffer = module._buffers[name]
        assert buffer is not None
        return buffer

    @torch.no_grad()
    def save(self) -> None:
        """Remember the buffers as they are."""
        now = [self._at(*place) for place in self._places]
        if not now:
            return
        if all(a.shape == b.shape for a, b in zip(now, self._saved, strict=True)):
            torch._foreach_copy_(self._saved, now)
        else:
            self._saved = [buffer.detach().clone() for buffer in now]

    @torch.no_grad()
    def restore(self, where: Tensor | None = None) -> None:
        """Put the remembered ones back; with a scalar `where`, only if it is true, without asking the device."""
        for place, saved in zip(self._places, self._saved, strict=True):
            now = self._at(*place)
            if now.shape != saved.shape:  # a buffer that grows is for the host gate: a choice needs one shape
                place[0]._buffers[place[1]] = saved.clone() if where is None else now
            else:
                now.copy_(saved if where is None else torch.where(where, saved, now))
