"""What the config names by `_target_`: found, held with its arguments, called."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lossbench.errors import ConfigError, LossbenchError, first_line, refuse_memory

# What `build` supplies by name.
FILLED = {
    "dataset": (),
    "model": ("input_shape", "outputs"),
    "loss": ("num_classes", "num_groups"),
    "optim": ("params", "embeddings"),
    "scheduler": (
        *("optimizer", "mode", "max_lr", "base_lr", "moves", "T_max", "T_0", "total_steps", "total_iters"),
        *("milestones", "step_size_up", "timescale"),
    ),
}


@dataclass(frozen=True)
class Call:
    """A group's choice: what to call, with what, and its name in the catalogue."""

    name: str
    target: Callable[..., Any]
    values: Mapping[str, Any]


def make(group: str, call: Call, filled: Mapping[str, Any] | None = None) -> Any:
    """Call a target, with what the program supplies; what its own constructor refuses is the user's to mend.

    Raises:
        ConfigError: it cannot be called so.
        ResourceError: the memory does not suffice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call.target(**{**call.values, **(filled or {})})
    except LossbenchError:
        raise
    except Exception as error:
        refuse_memory(error)
        raise ConfigError(f"{group} '{call.name}': {first_line(error)}") from error


def locate(group: str, path: Any, key: str = "_target_") -> Callable[..., Any]:
    """The function or class that `_target_`, or another key of the group, names.

    Raises:
        ConfigError: it names none, or its module cannot be imported.
    """
    from hydra._internal.utils import _locate  # hydra.utils.get_object also logs what it raises

    if isinstance(path, str):
        _find_in_current_directory(path.partition(".")[0])
    if not isinstance(path, str):
        raise ConfigError(f"{group}: its YAML file must have _target_: a function's or class's import path")
    try:
        found = _locate(path)
    except (Exception, SystemExit) as error:  # an import runs the user's module: anything can come out of it
        reason = first_line(error.__cause__ or error)
        raise ConfigError(
            f"{group}.{key}: cannot import '{path}' ({reason}); a module of yours is looked for "
            "in the current directory and on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ConfigError(f"{group}.{key}: '{path}' is not a function or class")
    return found  # type: ignore[no-any-return]


def _find_in_current_directory(module: str) -> None:
    """Let a user's own module be found where they stand, if it is found nowhere else.

    Not before: whatever is optional to a library would be looked for there too, in a stranger's directory as well.
    """
    try:
        found = module in sys.modules or importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return
    if not found and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
