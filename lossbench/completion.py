"""Completion for bash, zsh and fish: sub-commands, and, as Hydra finds them, group options and config keys."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

from lossbench import catalog
from lossbench.commands.usage import OF_EVALUATE, USAGES, read
from lossbench.errors import ConfigError

COMMANDS = ("train", *USAGES, "list", "show", "completion", "--help", "--version")

# `=` separates words in bash unless it is taken out of COMP_WORDBREAKS; loss=<TAB> would then complete nothing.
_BASH = """\
_lossbench() {
    local IFS=$'\\n'
    COMPREPLY=($(lossbench completion query "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _lossbench lossbench
"""

_ZSH = """\
autoload -Uz compinit && compinit
_lossbench() {
    local -a found
    found=(${(f)"$(lossbench completion query "${LBUFFER}" 2>/dev/null)"})
    if (( $#found )); then compadd -S '' -- $found; else _files; fi
}
compdef _lossbench lossbench
"""

_FISH = """\
function __lossbench
    set -l found (lossbench completion query (commandline -cp) 2>/dev/null)
    if test -n "$found"
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c lossbench -f -a '(__lossbench)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def complete(words: Sequence[str]) -> None:
    """`completion SHELL` prints the script to evaluate; `completion query LINE` is what the script asks."""
    if len(words) == 2 and words[0] == "query":
        print("\n".join(suggestions(words[1])))
    elif len(words) == 1 and words[0] in SCRIPTS:
        print(SCRIPTS[words[0]], end="")
    else:
        raise ConfigError(f"completion takes one of {', '.join(SCRIPTS)}, such as: lossbench completion bash")


def suggestions(line: str) -> list[str]:
    """What can follow a command line that ends at the cursor; nothing where files can."""
    _, _, rest = line.partition(" ")
    command, space, rest = rest.lstrip().partition(" ")
    if not space:
        return [name for name in COMMANDS if name.startswith(command)]
    word = "" if rest.endswith(" ") or not rest else rest.split()[-1]
    if command == "train":
        return _train(rest)
    if command in USAGES:
        return _other(command, rest)
    if command == "list":
        return [name for name in catalog.LISTS if name.startswith(word)]
    if command == "show":
        found = [f"{group}={name}" for group in catalog.GROUPS for name in catalog.names(group)]
        return [name for name in found if name.startswith(word)]
    return [name for name in SCRIPTS if name.startswith(word)] if command == "completion" else []


def _other(command: str, line: str) -> list[str]:
    """A command of `lossbench.commands`: its flags and their values, and settings; nothing where files can follow."""
    usage = USAGES[command]
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        return []
    word = words.pop() if words and not line.endswith(" ") else ""
    flag, equals, value = word.partition("=")
    if word.startswith("-") and not equals:
        return sorted(name for name in (*usage.values, *usage.switches, "--help") if name.startswith(word))
    if flag in usage.values:
        return [f"{flag}={choice}" for choice in usage.values[flag] if choice.startswith(value)]
    if words and words[-1] in usage.values:
        return [choice for choice in usage.values[words[-1]] if choice.startswith(word)]
    try:
        asked = read(command, words)
    except ConfigError:
        return []
    if not usage.overrides or (usage.path and not asked.paths):
        return []
    dirs = [f"--config-dir={directory}" for directory in asked.config_dirs]
    found = _train(shlex.join([*dirs, *asked.overrides]) + f" {word}")
    if usage.path:
        return [name for name in found if name.startswith(OF_EVALUATE)]
    return [name for name in found if not name.startswith(("hydra", "sweep."))]


def _train(line: str) -> list[str]:
    """Flags and settings; of a value after a comma, `loss=focal,h`, what stands before the comma stays."""
    from lossbench.flags import known_flags, split_flags

    try:
        words = shlex.split(line)
        word = words.pop() if words and not line.endswith(" ") else ""
        if word.startswith("-"):
            return sorted(flag for flag in known_flags() if flag.startswith(word))
        flags, overrides = split_flags(words)
    except (ValueError, ConfigError):  # an open quote, or a flag that still wants its value: files, as the shell does
        return []
    several = re.fullmatch(r"([^=]+=)([^(\[{]*,)([^,]*)", word)
    if not several:
        return _settings(flags, overrides, word)
    key, before, last = several.groups()
    found = (name.removeprefix(key) for name in _settings(flags, overrides, key + last))
    return [f"{key}{before}{value}" for value in found if value not in before.split(",")]


def _settings(flags: Sequence[str], overrides: Sequence[str], word: str) -> list[str]:
    """Groups, keys and their values: those of a sweep from our files and types, the others from Hydra."""
    key, equals, value = word.partition("=")
    if equals and key in catalog.PLUGINS:
        return [f"{key}={name}" for name in catalog.plugins(key) if name.startswith(value)]
    if equals and key.startswith("sweep."):
        return [f"{key}={choice}" for choice in _of_sweep(key.removeprefix("sweep.")) if choice.startswith(value)]
    ours = [name for name in _of_hydra(overrides, word) if name.startswith(word)]
    return [*_of_groups(flags, overrides, word), *ours]


def _of_sweep(option: str) -> list[str]:
    """The values that an option of `sweep.*` can have, where they are words."""
    from lossbench.signatures import hints, literals
    from lossbench.sweep.options import SweepOptions

    return [word for word in literals(hints(SweepOptions).get(option)) if isinstance(word, str)]


def _of_hydra(overrides: Sequence[str], word: str) -> list[str]:
    """What is set of Hydra itself: where jobs come from, where they run, and the settings of the launcher."""
    group, prefix = "hydra/launcher", "hydra.launcher."
    default = os.environ.get("LOSSBENCH_LAUNCHER", "pool")  # which is what most machines have
    chosen = dict(word.split("=", 1) for word in overrides if "=" in word).get(group, default)
    if word.startswith(prefix):
        return [f"{prefix}{key}=" for key in catalog.plugin_keys(group, chosen)]
    return [*(f"{key}=" for key in catalog.PLUGINS), prefix]


def _of_groups(flags: Sequence[str], overrides: Sequence[str], word: str) -> list[str]:
    """As Hydra finds them."""
    from hydra._internal.core_plugins.bash_completion import BashCompletion

    from lossbench.flags import config_dirs
    from lossbench.naming import register_resolvers
    from lossbench.sweep.expand import options_loader

    register_resolvers()
    try:
        query = " ".join([*overrides, word])
        found = BashCompletion(options_loader(config_dirs(flags)))._query(config_name="config", line=query)
    except Exception:  # a mistake further left: nothing can be said of what follows
        return []
    return [name for name in found if not name.startswith("hydra") and "._target_" not in name]
