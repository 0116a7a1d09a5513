"""A trained model from a run's directory: its config composed again, its weights from a verified checkpoint.

Nothing that the directory holds is instantiated: the config comes from the settings that the run was started with,
which choose among options by name, and what the checkpoint records of it is only compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lossbench.app import check_choices, check_config_dir
from lossbench.build import build_model
from lossbench.compose import compose
from lossbench.config import Config
from lossbench.data import Fitted
from lossbench.engine.checkpoint import Checkpoint
from lossbench.engine.weights import put_weights
from lossbench.errors import CheckpointError, ConfigError, printable
from lossbench.hydra_errors import translate
from lossbench.models.output import with_output
from lossbench.resume import differences
from lossbench.saved import checkpoint_at, merged, padded, recorded_overrides, run_of
from lossbench.signatures import show


@dataclass(frozen=True)
class Saved:
    """A run's checkpoint, and the config that its model is built from.

    Attributes:
        run: the run's directory.
        fitted: what the training rows taught.
    """

    run: Path
    checkpoint: Checkpoint
    config: Config
    fitted: Fitted

    @property
    def step(self) -> int:
        return int(self.checkpoint.facts["step"])

    def changed(self, group: str, *, added: bool = False) -> list[tuple[str, Any, Any]]:
        """What of a group was otherwise when the run was started: key, old and new value.

        Args:
            added: also keys that it did not have; otherwise these are taken to be new, and to change nothing.

        Raises:
            CheckpointError: the checkpoint does not say how it was.
        """
        recorded, new = self.checkpoint.facts.get("config"), self.config.typed[group]
        old = recorded.get(group) if isinstance(recorded, dict) else None
        if not isinstance(old, dict):
            raise _foreign(self.checkpoint)
        found = differences({group: old}, {group: new})
        return [change for change in found if added or change[0] in _keys(old, group)]

    def model(self, device: torch.device) -> nn.Module:
        """The model with the checkpoint's weights, in evaluation mode.

        Raises:
            CheckpointError: the weights are another model's.
        """
        task = self.fitted.task
        model = with_output(build_model(self.config.model, self.fitted.input_shape, task.outputs), task.output).eval()
        put_weights(self.checkpoint, [model])
        return model.to(device)


def saved(path: Path, checkpoint: str | None, overrides: Sequence[str], config_dirs: Sequence[Path]) -> Saved:
    """The run at a path, with the checkpoint that is asked for, `best` if none is.

    Args:
        overrides: settings in the place of the recorded ones, or beside them.

    Raises:
        CheckpointError: no such run or checkpoint, one that is damaged, or a model that is not the recorded one.
        ConfigError: settings that cannot be.
    """
    run, _ = run_of(path)
    chosen = _checkpoint(path, checkpoint)
    config = _recomposed(merged(recorded_overrides(run), overrides), config_dirs)
    try:
        found = Saved(run, chosen, config, Fitted.from_json(chosen.json("data.json")))
        changes = found.changed("model")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _foreign(chosen) from error
    refuse_changes(run, changes)
    return found


def refuse_changes(run: Path, changes: Sequence[tuple[str, Any, Any]]) -> None:
    """Refuse settings that are no longer what they were in the run.

    Raises:
        CheckpointError: the first one.
    """
    for key, was, now in changes:
        raise CheckpointError(f"{run} was trained with {key}={show(was)}, and it is {show(now)} now: put it back")


def composed(overrides: Sequence[str], config_dirs: Sequence[Path]) -> Config:
    """The config, as `lossbench train` would compose and check it; Hydra's own errors come as they are."""
    check_config_dir(_flags(config_dirs))
    check_choices(overrides)
    return compose(*overrides, config_dirs=config_dirs)


def warn(text: str) -> None:
    """A line for people, where standard output may be for programs."""
    sys.stderr.write(f"lossbench: note: {printable(text)}\n")


def _foreign(checkpoint: Checkpoint) -> CheckpointError:
    return CheckpointError(f"{checkpoint.path} was not written by lossbench, or by another version of it")


def _recomposed(overrides: Sequence[str], config_dirs: Sequence[Path]) -> Config:
    try:
        return composed(overrides, config_dirs)
    except Exception as error:
        found = translate(error, [*_flags(config_dirs), *overrides])
        if found is None:
            raise
        own = str(found).startswith("unknown ") and not config_dirs
        raise type(found)(f"{found}{'; an option of your own needs --config-dir DIR' if own else ''}") from error


def _flags(config_dirs: Sequence[Path]) -> list[str]:
    return [f"--config-dir={directory}" for directory in config_dirs]


def _checkpoint(path: Path, name: str | None) -> Checkpoint:
    _, named = run_of(path)
    if name is None:
        return checkpoint_at(path, "best", warn)
    if named is not None:
        raise ConfigError(f"'{path}' names a checkpoint itself; leave --checkpoint={name} away, or name the run")
    return checkpoint_at(path, padded(name), warn)


def _keys(tree: Any, path: str) -> set[str]:
    """The path of every key."""
    if not isinstance(tree, dict):
        return {path}
    return {path}.union(*(_keys(value, f"{path}.{key}") for key, value in tree.items()))
