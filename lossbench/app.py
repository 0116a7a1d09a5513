"""`lossbench train`: Hydra composes the config, we check it, run it, and say in one line what was wrong."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, read_write

from lossbench import catalog
from lossbench.console import say
from lossbench.errors import ConfigError, Diverged, ResourceError
from lossbench.flags import config_dirs, split_flags
from lossbench.naming import register_resolvers


class Refused(BaseException):
    """Carries an error past Hydra, which makes a warning of a callback's Exception, and adds a line to a job's."""

    def __init__(self, error: Exception) -> None:
        self.error = error


# What Hydra would not read as an option's name.
_NO_NAME = re.compile(r"[\[{]|([-+]?(\d[\d_]*\.?\d*(e[-+]?\d+)?|inf|nan)|null|true|false)$", re.IGNORECASE)

# Hydra has no other way from its callback, which runs before the run's directory exists, to the job.
_prepared: list[Any] = []

# Settings of a sweep that Hydra would hold against the default options of groups which the sweep chooses from.
held_back: list[str] = []

# The user's own config directories as flags, for the command that goes on with a run.
config_flags: list[str] = []

# The settings as typed, with those recorded of an earlier call in front, for a sweep to record.
settings: list[str] = []


def train(arguments: Sequence[str]) -> None:
    """Run `lossbench train ARGUMENTS`.

    Raises:
        LossbenchError: the run's or the sweep's end, where it is not a good one.
    """
    import hydra
    from hydra.errors import HydraException

    flags, overrides = split_flags(arguments)
    check_config_dir(flags)
    overrides = with_recorded(flags, overrides)
    check_choices(overrides)
    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing
    settings[:] = overrides
    sweeps = bool({"-m", "--multirun"} & set(flags))
    held_back[:] = of_swept_groups(overrides) if sweeps else []
    if sweeps and "LOSSBENCH_LAUNCHER" not in os.environ:  # conf/config.yaml takes the launcher from there
        from lossbench.sweep.pool.hardware import default_launcher

        os.environ["LOSSBENCH_LAUNCHER"] = default_launcher()
    sys.argv = [sys.argv[0], *flags, *(word for word in overrides if word not in held_back)]
    _prepared.clear()
    config_flags[:] = [word for directory in config_dirs(flags) for word in ("--config-dir", str(directory))]
    try:
        hydra.main(config_path=str(catalog.conf_dir()), config_name="config", version_base="1.3")(job)()
    except Refused as refused:
        raise refused.error from None
    except OSError as error:
        if isinstance(error, (HydraException, BrokenPipeError)):  # a missing config is both
            raise
        from lossbench.sweep.command import written_to

        place = error.filename or written_to(overrides)
        raise ResourceError(f"cannot write to '{place}': {error.strerror}; output_root says where runs go") from error


def job(cfg: DictConfig) -> dict[str, Any]:
    """What Hydra calls, once for a run and once for each job of a sweep."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_cfg = HydraConfig.get()
    overrides, path = _as_typed(hydra_cfg.overrides.task), Path(hydra_cfg.runtime.output_dir)
    if hydra_cfg.mode == RunMode.MULTIRUN:
        from lossbench.sweep.run_job import run_job

        return run_job(cfg, dict(hydra_cfg.runtime.choices), overrides, path)
    try:
        return _single(path, overrides)
    except SystemExit as error:
        raise Refused(RuntimeError(f"code of yours called sys.exit({error.code})")) from error
    except Exception as error:
        raise Refused(error) from error


def with_recorded(flags: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The overrides, with those in front that a run named by `resume=PATH`, or a sweep by its name, was started with.

    Raises:
        ConfigError: `resume` for a sweep; one run is gone on with at a time. Or there is no sweep of that name.
        CheckpointError: there is no such run.
    """
    sweeps = bool({"-m", "--multirun"} & set(flags))
    words = list(overrides) if sweeps else [_with_plain_path(word) for word in overrides]
    asked = [word.partition("=")[2].strip("'\"") for word in words if word.lstrip("+").startswith("resume=")]
    if not asked or asked[-1] == "null":
        from lossbench.sweep.command import recalled

        return recalled(words) if sweeps else words
    if sweeps:
        raise ConfigError("resume goes on with one run; leave -m away")
    if asked[-1] == "auto":
        return words
    if any(word.lstrip("+").startswith("weights=") for word in words):
        raise ConfigError("resume=PATH goes on with a run's own weights; leave weights away")
    from lossbench.saved import merged, recorded_overrides, run_of

    path, _ = run_of(Path(asked[-1].replace("\\'", "'")))
    return merged(recorded_overrides(path), words)


def of_swept_groups(overrides: Sequence[str]) -> list[str]:
    """The settings of groups that are swept over: `optim.momentum=0.8` beside `optim=sgd,momentum`."""
    pairs = [word.lstrip("+").partition("=") for word in overrides]
    swept = {key for key, _, value in pairs if key in catalog.GROUPS and re.search(r"[,(]", value)}
    return [word for word, (key, _, _) in zip(overrides, pairs, strict=True) if key.partition(".")[0] in swept - {key}]


def _with_plain_path(override: str) -> str:
    """A path put in quotes for Hydra, to which `,` and `=`, as a sweep's jobs have in their names, mean something."""
    key, _, value = override.partition("=")
    if (
        key.lstrip("+") not in ("resume", "weights")
        or not re.search(r"[^\w./-]", value)
        or re.search("^['\"]|[$]{", value)
    ):
        return override
    return "{}='{}'".format(key, value.replace("'", "\\'"))


def _single(path: Path, overrides: list[str]) -> dict[str, Any]:
    from lossbench.observe.screen import show_summary
    from lossbench.run import execute
    from lossbench.stopping import Stop

    run, resume = _prepared.pop()
    for note in (*run.notes, *(resume.notes if resume else ())):
        say(note)
    shown, root = os.path.relpath(path), run.config.root.output_root
    board = root if path.is_relative_to(Path(root).resolve()) else shown
    stop = Stop()
    try:
        with stop.listening():
            summary = execute(run, path, overrides, resume=resume, stopped=stop.asked)
    except KeyboardInterrupt:
        say(f"left at once; what was recorded is in {shown}{_way_back(path, shown)}")
        raise
    if summary["status"] == "interrupted":
        say(f"stopped after step {summary['steps']}, and saved{_way_back(path, shown)}")
        stop.leave()
    show_summary(summary, shown, board)
    if summary["status"] == "diverged":
        raise Diverged(f"{summary['error']} ({shown})")
    return summary


def _way_back(path: Path, shown: str) -> str:
    """The command that goes on with the run, if it can be gone on with."""
    if not (path / "checkpoints" / "last").exists():
        return ""
    return "; go on with: " + shlex.join(["lossbench", "train", *config_flags, f"resume={shown}"])


def _as_typed(overrides: Any) -> list[str]:
    """The settings unresolved: what `${oc.env:...}` stands for may be a secret."""
    found = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(found, list)
    return found


def before_run(config: DictConfig) -> None:
    """Hydra's callback of a single run: check and build everything before a directory is made."""
    from lossbench.build import build
    from lossbench.compose import check_composed
    from lossbench.rates import settled
    from lossbench.resume import resume
    from lossbench.sweep.options import of_the_sweep

    try:
        checked = check_composed(config)
        typed = config.hydra.overrides
        if words := [*of_the_sweep(typed.task), *(word for word in typed.hydra if word.startswith("hydra/sweeper="))]:
            raise ConfigError(f"{words[0]} concerns a sweep; add -m")
        earlier = resume(checked)
        try:
            run = build(settled(checked, earlier.checkpoint.facts if earlier else None))
            if earlier:
                earlier.load(run)
                with read_write(config.hydra):
                    config.hydra.run.dir = str(earlier.path)
        except BaseException:
            if earlier:
                earlier.lock.close()
            raise
        _prepared.append((run, earlier))
    except Exception as error:
        raise Refused(error) from error


def check_choices(overrides: Sequence[str]) -> None:
    """Refuse a group set to what can be no option's name, and one word for what has settings of its own."""
    for override in overrides:
        group, equals, value = override.lstrip("+").partition("=")
        if group == "sweep" and equals and not value.startswith("{"):
            raise ConfigError("sweep has options: sweep.name=NAME, sweep.trials=N, ... (lossbench train --help)")
        if (plugin := group.replace(".", "/")) in catalog.PLUGINS and plugin != group and not value.startswith("{"):
            raise ConfigError(f"choose one: {plugin}=NAME, out of {', '.join(catalog.plugins(plugin))}")
        options = value.strip("[]") if group == "experiment" else value  # a list chooses several experiments
        if group in catalog.GROUPS and any(map(_NO_NAME.match, options.split(","))):
            raise ConfigError(f"{group} must be one of {catalog.choices(group)}, got '{value}'")


def check_config_dir(flags: Sequence[str]) -> None:
    """Refuse a user's config directory that is not there, or whose options Hydra would pass over in silence."""
    for directory in config_dirs(flags):
        if not directory.is_dir():
            raise ConfigError(f"--config-dir: there is no directory '{directory}'")
        for group in catalog.GROUPS:
            for path in sorted((directory / group).glob("*.y*ml")):
                if path.suffix == ".yml":
                    raise ConfigError(f"{path} must end in .yaml")
                if path.stem in catalog.names(group):
                    raise ConfigError(f"{path} has the name of our own {group}={path.stem}; give it another name")
