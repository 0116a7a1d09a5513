"""The checkpoints of a run: when they are made, what they hold, which are kept, and the way back to one.

checkpoints/step-00000120/   a place to go on from: model.safetensors, state.pt, data.json, manifest.json
checkpoints/best-00000080/   the best weights so far: model.safetensors, data.json, manifest.json
checkpoints/last, best       symbolic links to the newest of each
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.engine.best import Best
from lossbench.engine.checkpoint import Checkpoint, packed_state, packed_tensors, point, read, write
from lossbench.engine.step import Player
from lossbench.errors import CheckpointError, first_line
from lossbench.optim import Schedule

SHARE = 0.03  # of the time that `auto` spends on checkpoints, at the most
PREFIXES = ("model.", "loss.")  # in model.safetensors, of what `Player.modules` holds

_NAME = re.compile(r"(step|best)-(\d{8,})")


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
        best, player = self.best, self.player
        best_name = f"best-{best.step:08d}" if best.weights else None
        if best_name and not (self.root / best_name).is_dir():
            facts = {"epoch": best.epoch, "step": best.step, "metric": best.metric, "value": best.value}
            self._write(best_name, packed_modules(best.weights), facts)
            point(self.root / "best", best_name)
        state = player.state()
        modules = packed_modules(state.pop("modules"))
        state |= {"best": best.state_dict(), "best_name": best_name, "random": _random_state()}
        packed = packed_state({**state, "progress": self.progress()})
        self._write(f"step-{step:08d}", {**modules, "state.pt": packed}, {"epoch": epoch, "step": step})
        if self.saved is None and not all(map(_is_torchs, player.optimizers)):
            read(self.root / f"step-{step:08d}").state("state.pt")  # what a user's own keeps may be unreadable
        point(self.root / "last", f"step-{step:08d}")
        self.saved = step
        self._prune()
        self.saved_at = time.perf_counter()
        self.cost = self.saved_at - started

    def back(self) -> tuple[int, dict[str, Any]]:
        """Return to the newest whole checkpoint; its step, and the recorder's progress there."""
        checkpoint = newest(self.root, self.warn)
        progress = load(checkpoint, self.player, self.best, self.warn)
        step = int(checkpoint.facts["step"])
        self.forget_after(step)
        return step, progress

    def forget_after(self, step: int) -> None:
        """Delete what was saved after a step that the run goes on from."""
        self.saved = step
        for path in [*found(self.root, "step"), *found(self.root, "best")]:
            if number(path) > step:
                self._delete(path)
        steps, bests = found(self.root, "step"), found(self.root, "best")
        for name, paths in (("last", steps), ("best", bests)):
            if paths:
                point(self.root / name, paths[-1].name)
            else:
                (self.root / name).unlink(missing_ok=True)

    def _write(self, name: str, files: Mapping[str, bytes], facts: Mapping[str, Any]) -> None:
        write(self.root / name, {**files, **self.files}, {**self.facts, **facts})

    def _prune(self) -> None:
        """Keep the newest steps, and the best weights that each of them speaks of."""
        steps = found(self.root, "step")
        for path in steps[: -self.keep]:
            self._delete(path)
        oldest = number(steps[-self.keep :][0])
        bests = found(self.root, "best")
        needed = [path for path in bests if number(path) <= oldest][-1:]
        for path in bests:
            if number(path) < oldest and path not in needed:
                self._delete(path)

    def _delete(self, path: Path) -> None:
        try:
            shutil.rmtree(path)
        except OSError as error:
            self.warn(f"cannot delete the old checkpoint '{path}': {error.strerror}")


def load(
    checkpoint: Checkpoint,
    player: Player,
    best: Best,
    warn: Callable[[str], None],
    *,
    changed: Collection[str] = (),
) -> dict[str, Any]:
    """Put a checkpoint's state into a player and its best weights; returns the progress that was saved with it.

    Args:
        changed: the config keys that differ from what they were. Where the optimizer's settings, the schedule or its
            length are among them, the player's own are kept, moved on to the checkpoint's step.

    Raises:
        CheckpointError: it is of another model or optimizer, or was not written by lossbench.
    """
    try:
        return _load(checkpoint, player, best, warn, changed)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this run: {first_line(error)}") from error


def _load(
    checkpoint: Checkpoint, player: Player, best: Best, warn: Callable[[str], None], changed: Collection[str]
) -> dict[str, Any]:
    state = checkpoint.state("state.pt")
    modules = modules_of(checkpoint, player.modules)
    now = player.state()
    check_shapes(checkpoint.path, modules, now["modules"])
    _check_optimizers(checkpoint.path, state["optimizers"], player.optimizers)
    before = list(state["schedules"])
    anew = [_is_anew(schedule, changed) for schedule in player.schedules]
    for i, schedule_is_anew in enumerate(anew):
        if schedule_is_anew:
            state["optimizers"][i]["param_groups"] = now["optimizers"][i]["param_groups"]
            state["schedules"][i] = now["schedules"][i]
    player.load({**{key: state[key] for key in now if key != "modules"}, "modules": modules})
    for schedule, saved, schedule_is_anew in zip(player.schedules, before, anew, strict=True):
        if schedule_is_anew:
            schedule.fast_forward(saved["taken"])
            if saved["factor"] != 1 and "optim.lr" not in changed:
                schedule.slow_down(saved["factor"])
    best.load_state_dict(state["best"])
    best.weights = _best_weights(checkpoint, state["best_name"], player.modules, best, warn)
    _set_random_state(state["random"])
    progress: dict[str, Any] = state["progress"]
    return progress


def _is_torchs(optimizer: Optimizer) -> bool:
    return type(optimizer).__module__.startswith("torch.optim.")


def _is_anew(schedule: Schedule, changed: Collection[str]) -> bool:
    """Whether a schedule is another one than it was; a longer run is none to one that moves at evaluations."""
    if any(key.startswith(("optim.", "scheduler.")) for key in changed):
        return True
    return schedule.interval != "evaluation" and not {"trainer.epochs", "trainer.steps"}.isdisjoint(changed)


def newest(root: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint in a run's `checkpoints` that is whole.

    Raises:
        CheckpointError: there is none, or none is whole.
    """
    steps = found(root, "step")
    if not steps:
        raise CheckpointError(f"{root.parent} holds no checkpoint to go on from")
    problem = ""
    for path in reversed(steps):
        try:
            checkpoint = whole(path)
        except CheckpointError as error:
            problem = problem or str(error)
            continue
        if problem:
            warn(f"{problem}; using {path.name}")
        return checkpoint
    raise CheckpointError(f"no checkpoint of {root.parent} is whole; the newest: {problem}")


def whole(path: Path) -> Checkpoint:
    """The verified checkpoint in a directory, whose name says its step.

    Raises:
        CheckpointError: it is damaged, or says that it is of another step.
    """
    if not _NAME.fullmatch(path.name):
        raise CheckpointError(f"{path} is no checkpoint: these are called step-N or best-N")
    checkpoint = read(path)
    if checkpoint.facts.get("step") != number(path):
        raise CheckpointError(f"{path} says that it is of step {checkpoint.facts.get('step')}")
    return checkpoint


def found(root: Path, kind: str) -> list[Path]:
    """The directories of a kind, `step` or `best`, in the order of their steps."""
    paths = root.glob(f"{kind}-*") if root.is_dir() else ()
    return sorted((path for path in paths if _NAME.fullmatch(path.name) and path.is_dir()), key=number)


def number(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.partition("-")[2])


def packed_modules(states: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """The state of several modules as files: the tensors, and what a module keeps beside tensors, if it does."""
    whole = {
        prefix + key: value for prefix, state in zip(PREFIXES, states, strict=True) for key, value in state.items()
    }
    tensors = {key: value for key, value in whole.items() if isinstance(value, Tensor)}
    extra = {key: value for key, value in whole.items() if key not in tensors}
    return {"model.safetensors": packed_tensors(tensors), **({"extra.pt": packed_state(extra)} if extra else {})}


def modules_of(checkpoint: Checkpoint, modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
    """The state of each module from these files again, on the CPU."""
    extra = checkpoint.state("extra.pt") if "extra.pt" in checkpoint.facts["files"] else {}
    whole = {**checkpoint.tensors("model.safetensors"), **extra}
    return [
        {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
        for prefix in PREFIXES[: len(modules)]
    ]


def put_weights(checkpoint: Checkpoint, modules: Sequence[nn.Module]) -> None:
    """Put a checkpoint's weights into the model and, where they are given, the losses with parameters of their own.

    Raises:
        CheckpointError: they are another model's.
    """
    saved = modules_of(checkpoint, modules)
    check_shapes(checkpoint.path, saved, [module.state_dict() for module in modules])
    for module, state in zip(modules, saved, strict=True):
        module.load_state_dict(state)


def check_shapes(path: Path, saved: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> None:
    """Refuse the weights of another model.

    Raises:
        CheckpointError: a weight that only one of them has, or of another shape.
    """
    for theirs, ours in zip(saved, now, strict=True):
        for key in {**ours, **theirs}:
            a, b = (state[key].shape if isinstance(state.get(key), Tensor) else None for state in (theirs, ours))
            if (key in theirs, a) != (key in ours, b):
                shapes = [f"shape {tuple(s)}" if s is not None else "none" for s in (a, b)]
                raise CheckpointError(f"{path} is for another model: '{key}' has {shapes[0]} there, {shapes[1]} here")


def _check_optimizers(path: Path, saved: Sequence[Mapping[str, Any]], now: Sequence[Optimizer]) -> None:
    for theirs, ours in zip(saved, now, strict=True):
        sizes = [[len(group["params"]) for group in groups] for groups in (theirs["param_groups"], ours.param_groups)]
        if sizes[0] != sizes[1] or not ours.defaults.keys() <= theirs["param_groups"][0].keys():
            raise CheckpointError(f"{path} is for another optimizer; weights={path} starts a new run from its weights")


def _best_weights(
    checkpoint: Checkpoint, name: str | None, modules: Sequence[nn.Module], best: Best, warn: Callable[[str], None]
) -> list[dict[str, Any]]:
    if name is None:
        return []
    try:
        saved = modules_of(read(checkpoint.path.parent / name), modules)
    except CheckpointError as error:
        warn(f"{error}; the best weights so far are lost, and the next evaluation counts as the best")
        best.forget()
        return []
    device = next(modules[0].parameters()).device
    return [{k: v.to(device) if isinstance(v, Tensor) else v for k, v in part.items()} for part in saved]


def _random_state() -> dict[str, Any]:
    """Of Python and NumPy, for a user's own code; torch's is a function of the step. As tensors: they load fast."""
    version, numbers, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    kind, keys, *rest = state["numpy"]
    with contextlib.suppress(ValueError, TypeError):  # another Python's or NumPy's: not worth a refusal
        random.setstate((version, tuple(numbers.tolist()), gauss))
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
