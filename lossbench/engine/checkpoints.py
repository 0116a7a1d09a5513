"""The checkpoints of a run: when they are made, what they hold, and which are kept.

checkpoints/step-00000120/          a place to go on from: model.safetensors, state.pt, data.json, manifest.json
checkpoints/best-00000080/          the best weights so far: model.safetensors, data.json, manifest.json
checkpoints/averaged-00000100/      the best averaged weights so far, where weights are averaged: the same files
checkpoints/last, best, averaged    symbolic links to the newest of each
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from lossbench.engine.best import Best
from lossbench.engine.checkpoint import packed_state, point, read, write
from lossbench.engine.random_state import random_state
from lossbench.engine.restore import BESTS, found, load, newest, number
from lossbench.engine.step import Player
from lossbench.engine.weights import packed_modules
from lossbench.optim.foreign import is_torchs

SHARE = 0.03  # of the time that `auto` spends on checkpoints, at the most


@dataclass(frozen=True)
class CheckpointOptions:
    """`trainer.checkpoint.*`."""

    every: Literal["auto", "epoch"] | Annotated[int, "[1, inf)"] | None = "auto"
    minutes: Annotated[float | None, "(0, inf)"] = None
    keep: Annotated[int, "[1, inf)"] = 2


@dataclass
class Checkpoints:
    """Writes the checkpoints of a run into `root`, and finds the way back to them.

    Args:
        averaged: the best averaged weights, where weights are averaged.
        every: optimizer steps between checkpoints; null for `auto` and for none but the last.
        auto: a checkpoint at an evaluation, as often as SHARE of the time allows.
        facts: what each manifest says of the run; `files` goes into each directory.
        progress: what the recorder must go on from.
        warn: says a line to the user.
    """

    root: Path
    player: Player
    best: Best
    progress: Callable[[], dict[str, Any]]
    warn: Callable[[str], None]
    facts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    every: int | None = None
    auto: bool = False
    minutes: float | None = None
    keep: int = 2
    averaged: Best | None = None

    def __post_init__(self) -> None:
        self.saved: int | None = None  # the step of the newest checkpoint
        self.saved_at = time.perf_counter()
        self.cost = 0.03  # seconds, as a first guess

    def due(self, step: int, *, evaluated: bool) -> bool:
        """Whether to save after this step."""
        since = time.perf_counter() - self.saved_at
        if self.every is not None and step % self.every == 0:
            return True
        if self.minutes is not None and since >= 60 * self.minutes:
            return True
        return self.auto and evaluated and since >= self.cost / SHARE

    def save(self, step: int, epoch: int) -> None:
        """Write the state after `step`, and the best weights where they are new; delete what is old.

        Raises:
            ResourceError: there is no room; every earlier checkpoint is as it was.
            CheckpointError: an optimizer or a schedule keeps in its state what cannot be read back.
        """
        if step == self.saved:
            return
        started = time.perf_counter()
        player = self.player
        state = player.state()
        modules = packed_modules(state.pop("modules"))
        for kind, best in zip(BESTS, (self.best, self.averaged), strict=True):
            if best is not None:
                state |= {kind: best.state_dict(), f"{kind}_name": self._save_best(kind, best)}
        state["random"] = random_state()
        packed = packed_state({**state, "progress": self.progress()})
        self._write(f"step-{step:08d}", {**modules, "state.pt": packed}, {"epoch": epoch, "step": step})
        if self.saved is None and not all(map(is_torchs, player.optimizers)):
            read(self.root / f"step-{step:08d}").state("state.pt")  # what a user's own keeps may be unreadable
        point(self.root / "last", f"step-{step:08d}")
        self.saved = step
        self._prune()
        self.saved_at = time.perf_counter()
        self.cost = self.saved_at - started

    def back(self) -> tuple[int, dict[str, Any]]:
        """Return to the newest whole checkpoint; its step, and the recorder's progress there."""
        checkpoint = newest(self.root, self.warn)
        progress = load(checkpoint, self.player, self.best, self.warn, averaged=self.averaged)
        step = int(checkpoint.facts["step"])
        self.forget_after(step)
        return step, progress

    def forget_after(self, step: int) -> None:
        """Delete what was saved after a step that the run goes on from."""
        self.saved = step
        for kind, link in (("step", "last"), *zip(BESTS, BESTS, strict=True)):
            for path in found(self.root, kind):
                if number(path) > step:
                    self._delete(path)
            kept = found(self.root, kind)
            if kept:
                point(self.root / link, kept[-1].name)
            else:
                (self.root / link).unlink(missing_ok=True)

    def _save_best(self, kind: str, best: Best) -> str | None:
        """Write the best weights of a kind where they are new; their directory's name, if there are any."""
        if not best.weights:
            return None
        name = f"{kind}-{best.step:08d}"
        if not (self.root / name).is_dir():
            facts = {"epoch": best.epoch, "step": best.step, "metric": best.metric, "value": best.value}
            self._write(name, packed_modules(best.weights), facts)
            point(self.root / kind, name)
        return name

    def _write(self, name: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        write(self.root / name, {**files, **self.files}, {**self.facts, **facts})

    def _prune(self) -> None:
        """Keep the newest steps, and the best weights that each of them speaks of."""
        steps = found(self.root, "step")
        for path in steps[: -self.keep]:
            self._delete(path)
        oldest = number(steps[-self.keep :][0])
        for kind in BESTS:
            bests = found(self.root, kind)
            needed = [path for path in bests if number(path) <= oldest][-1:]
            for path in bests:
                if number(path) < oldest and path not in needed:
                    self._delete(path)

    def _delete(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except OSError as error:
            self.warn(f"cannot delete the old checkpoint '{path}': {error.strerror}")
