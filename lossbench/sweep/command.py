"""A sweep's command: as it was typed, as `sweep.json` records it, and the short one that goes on with the sweep."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lossbench.errors import ConfigError, did_you_mean
from lossbench.naming import NAME, sweep_name
from lossbench.observe.run_dir import read_json
from lossbench.saved import key_of, may_name_code, still_said
from lossbench.sweep.search.space import as_text

ROOT = "outputs"  # of conf/config.yaml

# What says where the sweep is, and what holds for one call only.
_NOT_RECORDED = ("output_root", "hydra.sweep.dir", "sweep.name", "sweep.retry_failed")
# What may be typed with a sweep's name while the rest is as recorded.
_WITH_A_NAME = re.compile(r"output_root|hydra\.sweep\.dir|sweep\.\w+|hydra/launcher|hydra\.launcher\..+")
# Settings of Hydra's that choose among plugins by name, and give a launcher a number or a word.
_PLUGIN = re.compile(r"\+*(hydra/(sweeper|launcher)=[\w-]+|hydra\.launcher(\.(?!_)\w+)+=[\w.-]*)")
_CHOICE = re.compile(r"(choice|shuffle|sort)\((.*)\)")


def recalled(words: Sequence[str]) -> list[str]:
    """The settings of a call, with the recorded ones in front where it only names a sweep.

    Raises:
        ConfigError: there is no such sweep, one of its recorded settings may name code, or there are two places for it.
    """
    found = _of_the_place(words)
    if found.get("sweep.name") and found.get("hydra.sweep.dir"):
        raise ConfigError("sweep.name and hydra.sweep.dir both say where the sweep is; leave one of them away")
    only_named = all(_WITH_A_NAME.fullmatch(key_of(word)) for word in words)
    directory = named_directory(words) if only_named else None
    if directory is None:
        return list(words)
    if not directory.is_dir():
        near = did_you_mean(directory.name, [path.parent.name for path in directory.parent.glob("*/sweep.json")])
        new = "a new one is told what to go over, such as loss=cross_entropy,focal"
        raise ConfigError(f"there is no sweep in {directory}{near}; {new}")
    command = read_json(directory / "sweep.json", {}).get("command")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ConfigError(f"{directory}/sweep.json does not say how the sweep was started; type its settings again")
    kept = still_said(command, words)
    for word in kept:
        if _may_name_code(word):
            raise ConfigError(f"the sweep was started with {word}, which may name code: type its settings again")
    return [*kept, *words]


def recordable(words: Sequence[str]) -> list[str]:
    """Those settings that a later call by the sweep's name takes."""
    return [word for word in words if key_of(word) not in _NOT_RECORDED]


def named_directory(words: Sequence[str]) -> Path | None:
    """The sweep's directory, if the settings say which.

    Raises:
        ConfigError: a name that is none.
    """
    found = _of_the_place(words)
    if directory := found.get("hydra.sweep.dir"):
        return Path(directory)
    name = sweep_name(found.get("sweep.name"))
    return None if name is None else Path(found.get("output_root") or ROOT) / name


def written_to(words: Sequence[str]) -> Path:
    """Where runs and sweeps are put, or the sweep itself, as far as the settings say."""
    return named_directory(words) or Path(_of_the_place(words).get("output_root") or ROOT)


def resuming(directory: Path, root: str, flags: Sequence[str]) -> str:
    """The command that goes on with the sweep.

    Args:
        root: the config's `output_root`.
        flags: the user's config directories as flags.
    """
    name = os.path.relpath(directory, root)
    if all(map(NAME.fullmatch, name.split("/"))):
        words = [f"sweep.name={name}", *([f"output_root={_quoted(root)}"] if root != ROOT else [])]
    else:
        words = [f"hydra.sweep.dir={_quoted(str(directory))}"]
    return shlex.join(["lossbench", "train", "-m", *flags, *words])


def _of_the_place(words: Sequence[str]) -> dict[str, str | None]:
    """The settings that say where the sweep is, by their keys."""
    said = {key_of(word): word for word in words if key_of(word) in _NOT_RECORDED}
    return {key: _value(word) for key, word in said.items()}


def _may_name_code(word: str) -> bool:
    key, _, value = word.partition("=")
    choice = _CHOICE.fullmatch(value)
    return not _PLUGIN.fullmatch(word) and may_name_code(f"{key}={choice.group(2)}" if choice else word)


def _value(word: str) -> str | None:
    """What a setting sets, without quotes and with what its interpolations stand for; several values are none."""
    (override,) = OverridesParser.create().parse_overrides([word])
    if override.is_sweep_override():
        return None
    found = OmegaConf.create({"value": override.value()})["value"]
    return None if found is None else str(found)


def _quoted(path: str) -> str:
    """As Hydra reads it."""
    return path if re.fullmatch(r"[./][A-Za-z0-9_./-]+", path) else as_text(path)
