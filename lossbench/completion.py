"""Completion for bash, zsh and fish: sub-commands, and, as Hydra finds them, group options and config keys."""

from __future__ import annotations

from collections.abc import Sequence

from lossbench import catalog
from lossbench.errors import ConfigError

COMMANDS = ("train", "list", "show", "completion", "--help", "--version")

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
    compadd -S '' -- ${(f)"$(lossbench completion query "${LBUFFER}" 2>/dev/null)"}
}
compdef _lossbench lossbench
"""

_FISH = """\
complete -c lossbench -f -a '(lossbench completion query (commandline -cp) 2>/dev/null)'
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
    """What can follow a command line that ends at the cursor."""
    _, _, rest = line.partition(" ")
    command, space, rest = rest.lstrip().partition(" ")
    if not space:
        return [name for name in COMMANDS if name.startswith(command)]
    word = "" if rest.endswith(" ") or not rest else rest.split()[-1]
    if command == "train":
        return _train(rest)
    if command == "list":
        return [name for name in catalog.LISTS if name.startswith(word)]
    if command == "show":
        found = [f"{group}={name}" for group in catalog.GROUPS for name in catalog.names(group)]
        return [name for name in found if name.startswith(word)]
    return [name for name in SCRIPTS if name.startswith(word)] if command == "completion" else []


def _train(line: str) -> list[str]:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.core_plugins.bash_completion import BashCompletion
    from hydra._internal.utils import create_config_search_path

    from lossbench.naming import register_resolvers

    register_resolvers()
    loader = ConfigLoaderImpl(create_config_search_path(str(catalog.conf_dir())))
    found = BashCompletion(loader)._query(config_name="config", line=line)
    return [word for word in found if not word.startswith("hydra")]
