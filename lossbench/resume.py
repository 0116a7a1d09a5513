"""Going on with an interrupted run: which one, from which checkpoint, and what may have changed since."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lossbench.build import Run
from lossbench.config import Config, no_matter
from lossbench.console import say
from lossbench.device import environment
from lossbench.engine.checkpoint import Checkpoint
from lossbench.engine.restore import found, load, number
from lossbench.errors import CheckpointError, ConfigError
from lossbench.observe.run_dir import lock, read_json
from lossbench.saved import FOLDER, checkpoint_at, run_of
from lossbench.signatures import typed

# What a run keeps for life, by the name of the choice.
KEPT = ("dataset", "model", "loss", "optim")
# What may change, with a note; of `optim` and `scheduler` all but the optimizer itself.
MAY_CHANGE = (
    "optim.",
    "scheduler.",
    "trainer.epochs",
    "trainer.steps",
    "trainer.max_time",
    "trainer.early_stop",
    "trainer.eval_every",
    "trainer.clip_norm",
    "trainer.clip_value",
    "trainer.nonfinite",
    "trainer.max_skips",
    "trainer.max_rollbacks",
    "trainer.rollback_factor",
    "trainer.average.",
    "trainer.min_scale",
    "trainer.device",
    "trainer.precision",  # what it comes to is compared by itself
    "trainer.deterministic",
    "trainer.compile",
)
# Which parameters a group has, and since when.
_PARTITION = re.compile(r"optim\.groups\.[^.]+\.(name|kind|freeze|unfreeze)")
# By the reason of its end, what makes a finished run longer.
FINISHED = {
    "length": "trainer.epochs=N with a larger N",
    "max_time": "a larger trainer.max_time",
    "early_stop": "a larger trainer.early_stop, or null,",
}
LENGTH = ("trainer.epochs", "trainer.steps", "trainer.max_time", "trainer.early_stop")


@dataclass
class Resume:
    """A run to go on with, whose directory no other process can have meanwhile.

    Attributes:
        changed: the keys that differ from what they were, and may.
        notes: the same for people.
        lock: to be closed when the run has ended.
        progress: where the recorder goes on from; `load` fills it in.
    """

    path: Path
    checkpoint: Checkpoint
    changed: tuple[str, ...]
    notes: tuple[str, ...]
    lock: TextIO
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        return int(self.checkpoint.facts["step"])

    def load(self, run: Run) -> None:
        """Put the checkpoint into the run.

        Raises:
            CheckpointError: it is of another model or optimizer.
            ConfigError: the run is asked to be shorter than it is.
        """
        if self.step > run.length.steps:
            raise ConfigError(
                f"{self.path} has made {self.step} steps, and trainer.epochs or trainer.steps asks for "
                f"{run.length.steps}; ask for more, or name an earlier checkpoint"
            )
        self.progress = load(
            self.checkpoint, run.player, run.best, say, averaged=run.averaged_best, changed=self.changed
        )


def resume(config: Config) -> Resume | None:
    """The run that `resume=` names, compared with the config; None for `auto` where there is none.

    Raises:
        CheckpointError: no checkpoint is usable, or something differs that may not.
        ConfigError: the run has finished, or is going on.
    """
    asked = config.root.resume
    if asked is None:
        return None
    path = interrupted(Path(config.root.output_root), config.hash) if asked == "auto" else run_of(Path(asked))[0]
    if path is None:
        say(f"resume=auto: no interrupted run of this config below {config.root.output_root}; starting a new one")
        return None
    return _held(path, path if asked == "auto" else Path(asked), config)


def continued(config: Config, path: Path) -> Resume | None:
    """The earlier part of the same run in the directory `path`; None where there is no run yet.

    Raises:
        CheckpointError: as `resume`.
        ConfigError: as `resume`.
    """
    return _held(path, path, config) if (path / "status.json").exists() else None


def _held(path: Path, named: Path, config: Config) -> Resume:
    """The run in `path`, locked."""
    held = lock(path)
    try:
        return _compared(path, named, config, held)
    except (LookupError, TypeError, AttributeError) as error:
        held.close()
        raise CheckpointError(f"the newest checkpoint of {path} was not written by lossbench") from error
    except BaseException:
        held.close()
        raise


def _compared(path: Path, named: Path, config: Config, held: TextIO) -> Resume:
    """The run in `path`, from the checkpoint that `named` names, if it may go on with this config."""
    checkpoint = checkpoint_at(named, "last", say)
    facts = checkpoint.facts
    if "state.pt" not in facts["files"]:
        raise CheckpointError(
            f"{checkpoint.path} holds weights alone, from which no run can go on; weights={checkpoint.path} starts a "
            "new one"
        )
    changed = [found for found in differences(facts["config"], config.typed) if not _silent(found[0], config)]
    here = environment(config.trainer.device, config.trainer.precision)
    refuse_differences(path, facts, config, changed)
    _refuse_precision(path, facts["environment"]["precision"], here["precision"], config.trainer.precision)
    keys = tuple(key for key, _, _ in changed)
    status = read_json(path / "status.json", {})
    reason = status.get("reason")
    if status.get("status") == "completed" and reason != "pruned" and not _any(keys, LENGTH):
        mend = FINISHED.get(str(reason), FINISHED["length"])
        raise ConfigError(f"{path} has finished ({reason}); {mend} trains on")
    notes = [f"{key} was {typed(old)} and is {typed(new)} from here on" for key, old, new in changed]
    for name, old, new in differences(facts["environment"], here):
        notes.append(f"{name} was {old} and is {new}: what follows may differ in the last bits")
    later = [str(number(p)) for p in found(path / FOLDER, "step") if number(p) > facts["step"]]
    if later:
        notes.append(f"from step {facts['step']} on the run is made anew: checkpoint {', '.join(later)} is dropped")
    return Resume(path.resolve(), checkpoint, keys, tuple(notes), held)


def interrupted(root: Path, config_hash: str) -> Path | None:
    """The latest run below `root` with this config that has a checkpoint, has no end of its own and is not running."""
    runs = []
    for file in root.rglob("status.json"):
        status = read_json(file, {})
        same = status.get("config_hash") == config_hash and status.get("status") not in ("completed", "diverged")
        if same and found(file.parent / FOLDER, "step") and not is_running(file.parent):
            runs.append((status.get("heartbeat", 0.0), file.parent))
    return max(runs)[1] if runs else None


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Every key whose value differs, with both; those of groups with their path."""
    a, b = dict(_flat(old)), dict(_flat(new))
    for key in sorted({*a, *b}):
        if a.get(key) != b.get(key):
            yield key, a.get(key), b.get(key)


def refuse_differences(
    path: Path, facts: Mapping[str, Any], config: Config, changed: list[tuple[str, Any, Any]]
) -> None:
    """Refuse what would make it another run.

    Raises:
        CheckpointError: names the key and both values, and what to do instead.
    """
    hint = f"leave it as it was, or start a new run from these weights with weights={path}"
    for group in KEPT:
        was, now = facts["choices"].get(group), config.choices.get(group)
        if was != now:
            raise CheckpointError(f"{path} was trained with {group}={was}, and {group}={now} is asked for; {hint}")
    for key, was, now in changed:
        if key == "optim._target_" or _PARTITION.fullmatch(key) or not _any([key], MAY_CHANGE):
            raise CheckpointError(
                f"{path} was trained with {key}={typed(was)}, and {key}={typed(now)} is asked for; {hint}"
            )


def _refuse_precision(path: Path, was: str, now: str, asked: str) -> None:
    if was != now:
        raise CheckpointError(
            f"{path} was trained in {was}, and trainer.precision={asked} means {now} here; set trainer.precision={was}"
        )


def _silent(key: str, config: Config) -> bool:
    """Whether a key cannot change a result, or says how the run began."""
    if key.startswith("trainer.average.") and key != "trainer.average.kind":
        return config.average.kind is None
    return key == "weights" or no_matter(key)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _any(keys: Collection[str], prefixes: tuple[str, ...]) -> bool:
    return any(
        key == prefix or (prefix.endswith(".") and key.startswith(prefix)) for key in keys for prefix in prefixes
    )


def is_running(path: Path) -> bool:
    """Whether some process holds the run's directory."""
    try:
        lock(path).close()
    except ConfigError:
        return True
    except OSError:
        return False
    return False
