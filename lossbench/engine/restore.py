"""The way back to a checkpoint: which of a run's are there and whole, and what is put where."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lossbench.engine.best import Best
from lossbench.engine.checkpoint import Checkpoint, read
from lossbench.engine.random_state import set_random_state
from lossbench.engine.step import Player
from lossbench.engine.weights import check_shapes, modules_of
from lossbench.errors import CheckpointError, first_line
from lossbench.optim import Schedule
from lossbench.optim.foreign import settings_of

BESTS = ("best", "averaged")  # directories and links of the best weights, and of the best averaged ones

_NAME = re.compile(r"(step|best|averaged)-(\d{8,})")


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
        raise CheckpointError(f"{path} is no checkpoint: these are called step-N, best-N or averaged-N")
    checkpoint = read(path)
    if checkpoint.facts.get("step") != number(path):
        raise CheckpointError(f"{path} says that it is of step {checkpoint.facts.get('step')}")
    return checkpoint


def found(root: Path, kind: str) -> list[Path]:
    """The directories of a kind, `step` or one of BESTS, in the order of their steps."""
    paths = root.glob(f"{kind}-*") if root.is_dir() else ()
    return sorted((path for path in paths if _NAME.fullmatch(path.name) and path.is_dir()), key=number)


def number(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(path.name.partition("-")[2])


def load(
    checkpoint: Checkpoint,
    player: Player,
    best: Best,
    warn: Callable[[str], None],
    *,
    averaged: Best | None = None,
    changed: Collection[str] = (),
) -> dict[str, Any]:
    """Put a checkpoint's state into a player and its best weights; returns the progress that was saved with it.

    Args:
        averaged: the best averaged weights, where weights are averaged. They begin anew where the checkpoint's
            average does not go on.
        changed: the config keys that differ from what they were. Where the optimizer's settings, the schedule or its
            length are among them, the player's own are kept, moved on to the checkpoint's step.

    Raises:
        CheckpointError: it is of another model or optimizer, or was not written by lossbench.
    """
    try:
        return _load(checkpoint, player, best, averaged, warn, changed)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint.path} does not fit this run: {first_line(error)}") from error


def _load(
    checkpoint: Checkpoint,
    player: Player,
    best: Best,
    averaged: Best | None,
    warn: Callable[[str], None],
    changed: Collection[str],
) -> dict[str, Any]:
    state = checkpoint.state("state.pt")
    modules = modules_of(checkpoint, player.modules)
    now = player.state()
    check_shapes(checkpoint.path, modules, now["modules"])
    _check_optimizers(checkpoint.path, state["optimizers"], player.optimizers)
    before = list(state["schedules"])
    anew = [_is_anew(schedule, changed) for schedule in player.schedules]
    for i, (schedule_is_anew, optimizer) in enumerate(zip(anew, player.optimizers, strict=True)):
        if schedule_is_anew or _other_settings(changed):
            theirs, ours = (tree["optimizers"][i]["param_groups"] for tree in (state, now))
            groups = _set_anew(theirs, ours, optimizer, changed)
            if schedule_is_anew:
                state["schedules"][i] = now["schedules"][i]
            else:  # it goes on from the rates that it stands at
                groups = [{**new, "lr": old["lr"]} for new, old in zip(groups, theirs, strict=True)]
            state["optimizers"][i]["param_groups"] = groups
    average_goes_on = player.average is not None and player.average.goes_on(state.get("average"))
    if "average" in now and not average_goes_on:
        state["average"] = now["average"]
    player.load({**{key: state[key] for key in now if key != "modules"}, "modules": modules})
    for schedule, saved, schedule_is_anew in zip(player.schedules, before, anew, strict=True):
        if schedule_is_anew:
            schedule.fast_forward(saved["taken"], int(checkpoint.facts["step"]))
            if saved["factor"] != 1 and "optim.lr" not in changed:
                schedule.slow_down(saved["factor"])
    _load_best("best", best, checkpoint, state, player.modules, warn)
    if averaged is not None:
        averaged.forget()
        if average_goes_on:
            _load_best("averaged", averaged, checkpoint, state, player.modules, warn)
    set_random_state(state["random"])
    progress: dict[str, Any] = state["progress"]
    return progress


def _is_anew(schedule: Schedule, changed: Collection[str]) -> bool:
    """Whether a schedule is another one than it was.

    One that follows a metric cannot be made anew where it stands: only another schedule or rate makes it start over.
    """
    if any(key.startswith("scheduler.") for key in changed):
        return True
    if schedule.follows:
        return any(key.startswith("optim.") and key.endswith("lr") for key in changed)
    lengths = {"trainer.epochs", "trainer.steps", *(["trainer.eval_every"] * (schedule.interval == "evaluation"))}
    return _other_settings(changed) or not lengths.isdisjoint(changed)


def _other_settings(changed: Collection[str]) -> bool:
    return any(key.startswith("optim.") for key in changed)


def _set_anew(
    theirs: Sequence[Mapping[str, Any]],
    ours: Sequence[Mapping[str, Any]],
    optimizer: Optimizer,
    changed: Collection[str],
) -> list[dict[str, Any]]:
    """Parameter groups with today's settings; what an optimizer counts in its groups, as some do, goes on."""
    named = {"lr", *(key.rpartition(".")[2] for key in changed)}  # some take their settings under no name
    counted = optimizer.defaults.keys() - settings_of(optimizer) - named
    settings = ({key: value for key, value in group.items() if key not in counted} for group in ours)
    return [{**group, **new} for group, new in zip(theirs, settings, strict=True)]


def _check_optimizers(path: Path, saved: Sequence[Mapping[str, Any]], now: Sequence[Optimizer]) -> None:
    for theirs, ours in zip(saved, now, strict=True):
        names = [
            ", ".join(str(g.get("name")) for g in groups) for groups in (theirs["param_groups"], ours.param_groups)
        ]
        if names[0] != names[1] and len(ours.param_groups) + len(theirs["param_groups"]) > 2:
            raise CheckpointError(
                f"{path} has the parameter groups {names[0]}, and this run would have {names[1]}; "
                f"weights={path} starts a new run from its weights"
            )
        sizes = [[len(group["params"]) for group in groups] for groups in (theirs["param_groups"], ours.param_groups)]
        settings = ours.defaults.keys() & ours.param_groups[0].keys()  # loading a state adds to the defaults alone
        if sizes[0] != sizes[1] or not settings <= theirs["param_groups"][0].keys():
            raise CheckpointError(f"{path} is for another optimizer; weights={path} starts a new run from its weights")


def _load_best(
    kind: str,
    best: Best,
    checkpoint: Checkpoint,
    state: Mapping[str, Any],
    modules: Sequence[nn.Module],
    warn: Callable[[str], None],
) -> None:
    """Put in place what a state says of the best weights of a kind, and the weights themselves."""
    best.load_state_dict(state[kind])
    name, best.weights = state[f"{kind}_name"], []
    if name is None:
        return
    try:
        saved = modules_of(read(checkpoint.path.parent / name), modules)
    except CheckpointError as error:
        warn(f"{error}; the {kind} weights so far are lost, and the next evaluation counts as the best")
        best.forget()
        return
    device = next(modules[0].parameters()).device
    best.weights = [{k: v.to(device) if isinstance(v, Tensor) else v for k, v in part.items()} for part in saved]
