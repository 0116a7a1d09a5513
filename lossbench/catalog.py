"""The options of each config group, read from the YAML files alone: neither torch nor Hydra is imported here.

An option's card is the comment at the head of its file: a one-line summary, a `# tasks:` line, for a loss a
`# preset:` line with the experiment to try it on, and more text below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

from lossbench.errors import ConfigError, did_you_mean

GROUPS = ("dataset", "model", "loss", "optim", "scheduler", "trainer", "experiment")
PLUGINS = ("hydra/launcher", "hydra/sweeper")
MANY = 12  # options beyond which a message does not list them
LISTS = {
    "losses": "loss",
    "datasets": "dataset",
    "models": "model",
    "optims": "optim",
    "schedulers": "scheduler",
    "experiments": "experiment",
}


@dataclass(frozen=True)
class Card:
    """What an option's file says of itself."""

    group: str
    name: str
    path: Path
    summary: str
    tasks: str
    preset: str  # the experiment on which to try it
    text: str  # the comment below these
    body: str  # the file below its head comment

    @property
    def fits(self) -> list[str]:
        """The tasks that it names."""
        return re.findall(r"[a-z_]+", self.tasks.split("(")[0])

    @property
    def comments(self) -> dict[str, str]:
        """What the file says of each of its keys, on the key's line and on lines of nothing else below it."""
        found: dict[str, str] = {}
        for line in self.body.splitlines():
            key, comment = re.match(r"\w+(?=:)", line), re.search(r"(?:^|\s)#\s*(.*)", line)
            if key:
                found[key.group()] = comment.group(1) if comment else ""
            elif found and comment and line.lstrip().startswith("#"):
                found[[*found][-1]] += " " + comment.group(1)
        return found


def conf_dir() -> Path:
    """The directory of our config files: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def names(group: str) -> list[str]:
    """The options of a group, sorted."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def plugins(group: str) -> list[str]:
    """The options of one of `PLUGINS`, sorted: ours, and the launcher of Hydra's own."""
    return sorted([*names(group), *(["basic"] if group == "hydra/launcher" else [])])


def plugin_keys(group: str, name: str) -> list[str]:
    """The settings in our file of a plugin, those below others with their path: `ray.init.address`."""
    import yaml

    def walk(found: dict[str, Any], prefix: str) -> list[str]:
        inner = {f"{prefix}{key}": value for key, value in found.items() if key not in ("defaults", "_target_")}
        return [
            k for key, value in inner.items() for k in (walk(value, f"{key}.") if isinstance(value, dict) else [key])
        ]

    path = conf_dir() / group / f"{name}.yaml"
    return walk(yaml.safe_load(path.read_text()), "") if path.exists() else []


def cards(group: str) -> list[Card]:
    """The cards of a group's options, sorted by name."""
    return [card(group, name) for name in names(group)]


def card(group: str, name: str) -> Card:
    """One option's card.

    Raises:
        ConfigError: there is no such group or option.
    """
    if group not in GROUPS:
        raise ConfigError(f"unknown group '{group}'{did_you_mean(group, GROUPS)} (groups: {', '.join(GROUPS)})")
    path = conf_dir() / group / f"{name}.yaml"
    if name not in names(group):
        raise ConfigError(unknown_option(group, name, names(group)))
    return read_card(group, path)


def common(group: str) -> Card:
    """What every option of a group takes beside its own keys: the group's section of `config.yaml`."""
    path = conf_dir() / "config.yaml"
    section = re.search(rf"^{group}:\n((?:  .*\n)+)", path.read_text(), re.MULTILINE)
    return Card(group, "", path, "", "", "", "", dedent(section.group(1)) if section else "")


def read_card(group: str, path: Path) -> Card:
    """The card of any option's file, a user's own too."""
    lines = path.read_text().splitlines()
    head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comments = [line[1:].removeprefix(" ") for line in lines[:head] if not line.startswith("# @")]
    named = dict.fromkeys(("tasks", "preset"), "")
    rest = []
    for line in comments:
        key, colon, value = line.partition(":")
        if colon and key in named:
            named[key] = value.strip()
        else:
            rest.append(line)
    summary, *text = rest or ["-"]
    return Card(
        group,
        path.stem,
        path,
        summary,
        named["tasks"] or "-",
        named["preset"],
        "\n".join(text).strip(),
        "\n".join(lines[head:]),
    )


def choices(group: str) -> str:
    """The options of a group for a message: where they are many, the command that lists them."""
    found = names(group)
    if len(found) <= MANY:
        return ", ".join(found)
    return f"those of `lossbench list {next(kind for kind, listed in LISTS.items() if listed == group)}`"


def unknown_option(group: str, name: str, choices: Iterable[str]) -> str:
    """The message for an option that is not there."""
    kind = next((k for k, v in LISTS.items() if v == group), None)
    found = f"`lossbench list {kind}`" if kind else f"has: {', '.join(choices)}"
    return f"unknown {group} '{name}'{did_you_mean(name, choices)} ({found})"


def losses_for(task: str) -> list[str]:
    """The losses that fit a task."""
    return [c.name for c in cards("loss") if task in c.fits]
