"""Where a run's checkpoints are: the directory that a user named, and what in it can be used."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from lossbench import catalog
from lossbench.engine.checkpoint import Checkpoint
from lossbench.engine.restore import found, newest, number, whole
from lossbench.errors import CheckpointError

FOLDER = "checkpoints"

_KEY = re.compile(r"(?!hydra\b)\w+(@\w+)?(\.\w+)*")
_OPTION = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


def run_of(path: Path) -> tuple[Path, str | None]:
    """A run's directory, and the name of the checkpoint in it where the path goes on to one.

    Raises:
        CheckpointError: there is no run.
    """
    whole = path.expanduser().absolute()
    if whole.is_file():
        raise CheckpointError(f"'{path}' is a file; name a run's directory, or one of its {FOLDER}")
    for directory, name in ((whole, None), (whole.parent, None), (whole.parent.parent, whole.name)):
        if (directory / "config.yaml").is_file() and (name or whole in (directory, directory / FOLDER)):
            return directory if path.is_absolute() else Path(os.path.relpath(directory)), name
    raise CheckpointError(f"there is no run in '{path}': a run's directory holds config.yaml and {FOLDER}")


def checkpoint_at(path: Path, prefer: str, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint that a path names; of a run's directory, the `best` or the newest whole (`last`) one.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    run, name = run_of(path)
    root = run / FOLDER
    if name is None and prefer == "last":
        return newest(root, warn)
    chosen = root / padded(name or prefer)
    if not chosen.is_dir():
        steps = [str(number(p)) for p in found(root, "step")]
        has = f"it has steps {', '.join(steps)}" if steps else "it has none"
        if chosen.name == "averaged" and (root / "last").is_dir():
            has = "its weights were not averaged (trainer.average.kind), or not yet"
        raise CheckpointError(f"there is no checkpoint '{name or prefer}' in {root}; {has}")
    try:
        return whole(chosen.resolve())
    except CheckpointError as error:
        others = [kind for kind in ("best", "last") if kind != chosen.name and (root / kind).is_dir()]
        raise CheckpointError(f"{error}; {root / others[0]} may be whole" if others else str(error)) from error


def padded(name: str) -> str:
    """A checkpoint's name as its directory has it: of `step-25`, `step-00000025`."""
    kind, dash, number = name.partition("-")
    return f"{kind}-{int(number):08d}" if dash and number.isdecimal() else name


def recorded_overrides(run: Path) -> list[str]:
    """The settings that a run was started with, as its config.yaml records them.

    Nothing of the recorded config is instantiated: these settings choose among options by name, and one that names
    code (`_target_`) must be typed again.

    Raises:
        CheckpointError: they cannot be read, or name code.
    """
    try:
        lines = (run / "config.yaml").read_text().splitlines()
        head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("# "))]
        words = shlex.split("\n".join(line.removeprefix("# ") for line in head))
    except (OSError, ValueError, StopIteration) as error:
        raise CheckpointError(f"{run / 'config.yaml'} does not say how the run was started") from error
    if words[:2] != ["lossbench", "train"]:
        raise CheckpointError(f"{run / 'config.yaml'} does not say how the run was started")
    return [word for word in words[2:] if key_of(word) not in ("resume", "weights", "hydra.run.dir")]


def merged(recorded: Sequence[str], given: Sequence[str]) -> list[str]:
    """Recorded settings with those typed now in their place; a new choice of a group drops the old one's options.

    Raises:
        CheckpointError: a recorded one may name code.
    """
    kept = still_said(recorded, given)
    for word in kept:
        if may_name_code(word):
            raise CheckpointError(
                f"the run was started with {word}, which may name code: type it again if you trust it"
            )
    return [*kept, *given]


def still_said(recorded: Sequence[str], given: Sequence[str]) -> list[str]:
    """Those recorded settings for which none typed now stands."""
    keys = [key_of(word).replace("/", ".") for word in given]

    def stays(word: str) -> bool:
        key = key_of(word).replace("/", ".")
        return key not in keys and not any(key.startswith(f"{group}.") for group in keys)

    return [word for word in recorded if stays(word)]


def may_name_code(override: str) -> bool:
    """Whether a setting names code, or could bring in a config file of its author's by a path or a key of Hydra's."""
    key, _, value = override.lstrip("+~").partition("=")
    options = value.strip("[]").split(",") if key.partition("@")[0] in catalog.GROUPS else []
    return key.endswith("_target_") or not _KEY.fullmatch(key) or not all(map(_OPTION.fullmatch, options))


def key_of(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").partition("=")[0]
