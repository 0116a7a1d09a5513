"""The flags of `lossbench train`: Hydra's, anywhere on the command line, each checked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lossbench.errors import ConfigError, did_you_mean

EXCLUSIVE = ("run", "multirun", "cfg", "info")
# We have our own completion and config, and a rerun reads a pickle.
REMOVED = ("--shell-completion", "-sc", "--config-path", "-cp", "--experimental-rerun")


def known_flags() -> dict[str, Any]:
    """Every flag, long and short, and what argparse knows of it."""
    from hydra._internal.utils import get_args_parser

    return {k: v for k, v in get_args_parser()._option_string_actions.items() if k not in REMOVED}


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, which it wants first, and the overrides, in the order given.

    Raises:
        ConfigError: a flag that we do not have, one without its value, or two that exclude each other.
    """
    known = known_flags()
    flags: list[str] = []
    overrides: list[str] = []
    modes: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name = word.partition("=")[0]
        if name not in known:
            raise ConfigError(f"there is no flag '{name}'{did_you_mean(name, known)} (lossbench train --help)")
        flags += [name, *_flag_value(known[name], word, rest)]
        if known[name].dest in EXCLUSIVE:
            modes[known[name].dest] = name
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes.values())} exclude each other; choose one")
    if "--resolve" in flags and "cfg" not in modes:
        raise ConfigError("--resolve goes with --cfg, such as: lossbench train --cfg job --resolve")
    return flags, overrides


def _flag_value(flag: Any, word: str, rest: list[str]) -> list[str]:
    """What follows the flag in its own word or, taken away there, in `rest`."""
    name, equals, value = word.partition("=")
    choices = flag.choices or ()
    if flag.nargs == 0:
        if equals:
            raise ConfigError(f"{name} takes no value")
        return []
    if not equals and flag.nargs == "?":
        value = rest.pop(0) if rest and rest[0] in choices else flag.const
    elif not equals:
        if not rest or rest[0].startswith("-"):
            raise ConfigError(f"{name} needs a value")
        value = rest.pop(0)
    if choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got '{value}'")
    return [value]


def config_dirs(words: Sequence[str]) -> list[Path]:
    """The user's own config directories among the flags."""
    named = [word.partition("=")[2] for word in words if word.startswith(("--config-dir=", "-cd="))]
    return [Path(d) for d in (*named, *(after for word, after in pairwise(words) if word in ("--config-dir", "-cd")))]
