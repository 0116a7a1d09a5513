"""Hydra's, OmegaConf's and YAML's exceptions as one line that says what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lossbench import catalog
from lossbench.errors import ConfigError, LossbenchError, did_you_mean
from lossbench.flags import config_dirs

_NO_KEY = re.compile(r"Could not override '([^']+)'")
_NO_ITEM = re.compile(r"Could not delete from config\. '([^']+)' does not exist")
_CHOSEN_TWICE = re.compile(r"Multiple values for (\S+)\. To override")
_RANGE_WITHIN = re.compile(r"Error merging override (\S+?)=[{\[].*\b(interval|range|choice|glob|tag|sort|shuffle)\(")
_FUNCTIONS = {
    "interval": "interval(1e-4,1e-1)",
    "range": "range(0,5)",
    "choice": "choice(a,b)",
    "glob": "glob(*)",
    "tag": "tag(log,interval(1e-4,1e-1))",
}
_MALFORMED = re.compile(rf"({'|'.join(_FUNCTIONS)})\(.*\)$")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=']+)=(.*)'\n")


def translate(error: BaseException, arguments: Sequence[str]) -> LossbenchError | None:
    """The error of ours that says what a foreign one means; None where it is not about the user's input."""
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, LossbenchError):
            return link
    for link in chain:
        if isinstance(link, yaml.MarkedYAMLError):
            return ConfigError(_broken_yaml(link))
    for link in chain:
        if isinstance(link, MissingConfigException) and link.missing_cfg_file is not None:
            return ConfigError(_missing_option(link))
        if isinstance(link, OverrideParseException):
            return ConfigError(_unreadable(link.override))
        if match := _NO_KEY.search(str(link)):
            return ConfigError(_no_key(match.group(1), arguments))
        if match := _NO_ITEM.search(str(link)):
            return ConfigError(f"there is no '{match.group(1)}' to take away, or it is null")
        if match := _CHOSEN_TWICE.search(str(link)):
            return ConfigError(f"{match.group(1)} is chosen once; write {match.group(1)}=NAME, without '+'")
        if match := _AMBIGUOUS.search(str(link)):
            count = match.group(2).count(",") + 1
            return ConfigError(
                f"{match.group(1)} has {count} values; add -m to sweep over them, or quote them as one: "
                f"\"{match.group(1)}='{match.group(2)}'\""
            )
        if match := _RANGE_WITHIN.match(str(link)):
            return ConfigError(f"{match.group(1)}: a range within it is put in quotes, '{match.group(2)}(...)'")
        if "does not support sweep type" in str(link):
            return ConfigError("a sweep goes over values, such as optim.lr=0.1,0.01 or 'seed=range(0,3)'")
        if isinstance(link, ValueError) and "Config group override" in str(link):
            return ConfigError("a config group must be given the name of an option")
        if isinstance(link, UnicodeDecodeError):
            return ConfigError(f"a config file is not UTF-8 text ({link})")
        if isinstance(link, RecursionError):
            return ConfigError("the config refers to itself: an interpolation loop")
    if isinstance(error, (HydraException, OmegaConfBaseException, yaml.YAMLError)):
        return ConfigError(" ".join(str(error).split("\n")[0].split()))
    return None


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__ or link.__context__
    return found


def _broken_yaml(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}: " if mark else ""
    return f"{where}not valid YAML ({error.problem})"


def _missing_option(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if group in catalog.GROUPS:
        return catalog.unknown_option(group, name, error.options or ())
    if group in catalog.PLUGINS:
        return catalog.unknown_option(group, name, catalog.plugins(group))
    if group == "hydra/launcher/plugin":  # which our own option of that name builds on
        return f'hydra/launcher={name} is a plugin that is not installed: pip install "lossbench[{name.split("_")[0]}]"'
    return f"there is no config '{error.missing_cfg_file}'{did_you_mean(name, error.options or ())}"


def _unreadable(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals:
        if key in catalog.GROUPS:
            return f"choose one: {key}=NAME, out of {catalog.choices(key)}"
        return f"'{override}' is not a setting; write key=value"
    if not value:
        return f"{key} has no value; write {key}=VALUE, or {key}=null"
    quoted = f"\"{key}='{value}'\""
    if match := _MALFORMED.match(value):
        return f"{key}: cannot read '{value}'; {match.group(1)} looks like '{key}={_FUNCTIONS[match.group(1)]}'"
    if lacking := _unclosed(value):
        return f"{key}: '{value}' lacks a '{lacking}' at its end; if it is text, quote it: {quoted}"
    return f"{key}: cannot read '{value}'; quote it: {quoted}"


def _unclosed(value: str) -> str:
    """What would close the brackets that are still open at the end; nothing where others are wrong."""
    closing = {"(": ")", "[": "]", "{": "}"}
    wanted: list[str] = []
    for character in re.sub(r"'[^']*'|\"[^\"]*\"", "", value):
        if character in closing:
            wanted.insert(0, closing[character])
        elif character in closing.values() and (not wanted or wanted.pop(0) != character):
            return ""
    return "".join(wanted)


def _no_key(key: str, arguments: Sequence[str]) -> str:
    """A key that the composed config does not have; for a group's option, what the option has."""
    group, _, rest = key.partition(".")
    config = _composed([a for a in arguments if a.partition("=")[0] != key])
    about_hydra = key.startswith("hydra") and not key.startswith("hydra.sweeper.")  # ours take sweep.*
    known = [k for k in _keys(config) if (k.partition(".")[0] == "hydra") == about_hydra]
    if key.startswith("hydra.launcher."):
        return _no_launcher_option(key, known, OmegaConf.select(config, "hydra.runtime.choices.hydra/launcher"))
    if "/" in key:
        return f"no key '{key}'{did_you_mean(key, catalog.PLUGINS)}"
    if "@" in key:
        return _no_term(key, known)
    if key in known:  # the value is a mapping, with a key that is not there
        has = [k.removeprefix(f"{key}.") for k in known if k.startswith(f"{key}.")]
        return f"{key} is given a key that it does not have (has: {', '.join(has) or 'none'})"
    if key.startswith("optim.groups."):
        return f"no key '{key}'; +{key}=VALUE adds it"
    if group in catalog.GROUPS and rest:
        chosen = next((a.partition("=")[2] for a in arguments if a.startswith(f"{group}=")), None)
        has = [k.removeprefix(f"{group}.") for k in known if k.startswith(f"{group}.") and not k.endswith("_target_")]
        close = get_close_matches(rest, has, n=1)
        near = f"; did you mean '{group}.{close[0]}'?" if close else ""
        has_these = f"(has: {', '.join(has) or 'none'})"
        if not near and rest in _taken(config, group):
            return f"no key '{key}' in the config {has_these}; +{key}=VALUE adds it"
        if near or chosen is None:
            return f"no key '{key}'{near} {has_these}"
        return f"{chosen} has no option '{rest}' {has_these}"
    return f"no key '{key}'{did_you_mean(key, known)}"


def _no_launcher_option(key: str, known: Sequence[str], chosen: str | None) -> str:
    """A setting that the chosen launcher does not have."""
    setting = key.removeprefix("hydra.launcher.")
    others = [n for n in catalog.plugins("hydra/launcher") if setting in catalog.plugin_keys("hydra/launcher", n)]
    if others:
        return f"{key} is a setting of hydra/launcher={' or '.join(others)}; the launcher here is {chosen}"
    own = [k.removeprefix("hydra.launcher.") for k in known if k.startswith("hydra.launcher.")]
    has = [k for k in own if not k.endswith("_target_")]
    shown = f" (has: {', '.join(has) or 'none'})" if known and len(has) <= catalog.MANY else ""
    return f"no key '{key}'{did_you_mean(setting, has)}{shown}"


def _no_term(key: str, known: Sequence[str]) -> str:
    """A choice for a place in the config where none was made."""
    path = key.partition("@")[2]
    parent = path.rpartition(".")[0]
    has = [k for k in known if k.rpartition(".")[0] == parent and f"{k}._target_" in known]
    near = did_you_mean(path, has)
    return f"no key '{key}'{near.replace(path, key)}" if near else f"no key '{key}'; +{key}=NAME adds a term"


def _composed(arguments: Sequence[str]) -> DictConfig:
    """The config, Hydra's own included, that the choices of options among the arguments give."""
    from hydra.types import RunMode

    from lossbench.sweep.expand import options_loader

    choices = [
        a for a in arguments if _group(a.partition("=")[0]) in (*catalog.GROUPS, *catalog.PLUGINS) and "," not in a
    ]
    try:
        loader = options_loader(config_dirs(arguments))
        return loader.load_configuration("config", choices, run_mode=RunMode.RUN)
    except Exception:  # a second mistake among the choices: the message goes without suggestions
        return DictConfig({})


def _group(key: str) -> str:
    """The group that an argument chooses from: of `+loss@loss.terms.a`, `loss`."""
    return key.lstrip("+").partition("@")[0]


def _keys(config: DictConfig) -> list[str]:
    """Every key of a config, those below with their path."""

    def walk(node: DictConfig, prefix: str) -> list[str]:
        found = []
        for name in node:
            found.append(f"{prefix}{name!s}")
            child = node._get_node(name)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                found += walk(child, f"{prefix}{name!s}.")
        return found

    return walk(config, "")


def _taken(config: DictConfig, group: str) -> list[str]:
    """What the targets of a group take from the config, listed in their YAML file or not."""
    from lossbench.signatures import parameters, required
    from lossbench.targets import FILLED, locate

    try:
        targets = config[group]["_target_"]
        found = [locate(group, path) for path in ([targets] if isinstance(targets, str) else targets)]
    except (ConfigError, OmegaConfBaseException):  # a group without a target, or a second mistake
        return []
    given = {*FILLED.get(group, ()), *(name for target in found if group == "loss" for name in required(target))}
    return [name for target in found for name in parameters(target) if name not in given]
