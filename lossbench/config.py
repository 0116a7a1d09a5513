"""The config against its schema: everything about it that can be known without the data is checked here."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from lossbench import catalog
from lossbench.data import DatasetOptions, SplitShares
from lossbench.engine.checkpoints import CheckpointOptions
from lossbench.engine.guard import Policy
from lossbench.engine.objective import Reduction
from lossbench.errors import ConfigError, did_you_mean, first_line
from lossbench.losses.marks import FromTraining
from lossbench.naming import run_name
from lossbench.optim import SchedulerOptions
from lossbench.signatures import bind, hints, parameters, required, show
from lossbench.tasks import TASKS, Task

# A user's own loss, and torch's own, call the task's pair by one of these.
STAND_INS = {
    ("input", "target"),
    ("inputs", "targets"),
    ("output", "target"),
    ("outputs", "targets"),
    ("preds", "target"),
    ("y_pred", "y_true"),
}

# What torch's own classes do not say of their arguments.
_RANGES: dict[str, dict[str, tuple[str, ...]]] = {
    "optim": {
        "lr": ("(0, inf)", "nothing would be learned"),
        "weight_decay": ("[0, inf)",),
        "betas": ("[0, 1)",),
        "eps": ("[0, inf)",),
        "momentum": ("[0, 1)",),
        "dampening": ("[0, 1]",),
        "alpha": ("[0, 1)",),
    },
    "scheduler": {
        "step_size": ("[1, inf)",),
        "gamma": ("(0, inf)",),
        "T_max": ("[1, inf)",),
        "eta_min": ("[0, inf)",),
        "total_steps": ("[1, inf)",),
        "max_lr": ("(0, inf)",),
        "pct_start": ("[0, 1]",),
        "div_factor": ("(0, inf)",),
        "final_div_factor": ("(0, inf)",),
        "factor": ("(0, 1]",),
        "patience": ("[0, inf)",),
        "cooldown": ("[0, inf)",),
        "min_lr": ("[0, inf)",),
    },
}

# Keys that cannot change a result.
NO_MATTER = (
    "output_root",
    "name",
    "resume",
    "trainer.flush_every",
    "trainer.checkpoint",
    "dataset.workers",
    "dataset.timeout",
)

# What `build` supplies by name.
FILLED = {
    "dataset": (),
    "model": ("input_shape", "outputs"),
    "loss": ("num_classes",),
    "optim": ("params",),
    "scheduler": ("optimizer", "T_max", "total_steps", "total_iters", "max_lr", "mode"),
}


@dataclass(frozen=True)
class TrainerOptions:
    """`trainer.*`; conf/trainer/default.yaml says what each is."""

    epochs: Annotated[int, "[1, inf)"] = 30
    steps: Annotated[int | None, "[1, inf)"] = None
    max_time: Annotated[float | None, "(0, inf)"] = None
    batch_size: Annotated[int, "[1, 1e9]"] = 64
    drop_last: bool = False
    accumulate: Annotated[int, "[1, inf)"] = 1
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    min_scale: Annotated[float, "(0, inf)"] = 1.0
    clip_norm: Annotated[float | None, "(0, inf)", "it would zero every gradient; null does not clip"] = None
    clip_value: Annotated[float | None, "(0, inf)", "it would zero every gradient; null does not clip"] = None
    reduction: Reduction = "mean"
    nonfinite: Policy = "abort"
    max_skips: Annotated[int, "[0, inf)"] = 10
    max_rollbacks: Annotated[int, "[0, inf)"] = 3
    rollback_factor: Annotated[float, "(0, 1]"] = 0.5
    eval_every: Literal["epoch"] | Annotated[int, "[1, inf)"] = "epoch"
    flush_every: Annotated[int, "[1, 1e6]"] = 200  # so many rows are held on the device
    monitor: str | None = None
    direction: Literal["min", "max"] | None = None
    early_stop: Annotated[int | None, "[1, inf)"] = None
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    deterministic: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Root:
    """The keys outside every group."""

    output_root: str = "outputs"
    name: str | None = None
    resume: str | None = None
    weights: str | None = None
    seed: Annotated[int, "[0, 4294967295]"] = 0


@dataclass(frozen=True)
class Call:
    """A group's choice: what to call, with what, and its name in the catalogue."""

    name: str
    target: Callable[..., Any]
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Config:
    """A checked config."""

    root: Root
    choices: Mapping[str, str]
    trainer: TrainerOptions
    checkpoint: CheckpointOptions
    dataset: Call
    dataset_options: DatasetOptions
    split: SplitShares
    model: Call
    losses: Sequence[Call]  # the functions that share the loss's name; the first that fits the task is taken
    optim: Call
    scheduler: Call
    scheduler_options: SchedulerOptions
    plain: Mapping[str, Any]  # the whole config, resolved
    typed: Mapping[str, Any]  # the whole config, interpolations as their text
    text: str  # as YAML, interpolations unresolved: secrets of the environment stay out of it

    @property
    def name(self) -> str:
        return run_name(self.root.name, self.choices)

    @property
    def hash(self) -> str:
        """sha256 of the resolved config without what cannot change a result."""
        return config_hash(self.plain)


def check(cfg: DictConfig, choices: Mapping[str, str]) -> Config:
    """Check a composed config, without `hydra`, against the schema and against every target's signature.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    plain = _resolve(cfg)
    for group in catalog.GROUPS[:-1]:
        if not isinstance(plain.get(group), dict):
            options = ", ".join(catalog.names(group))
            raise ConfigError(f"{group} must be one of {options}, got {show(plain.get(group))}")
    known = [*(f.name for f in fields(Root)), *catalog.GROUPS]
    unknown = [k for k in plain if k not in known]
    if unknown:
        raise ConfigError(f"unexpected key '{unknown[0]}'{did_you_mean(unknown[0], known)}")
    root = Root(**_own("", Root, {k: v for k, v in plain.items() if k not in catalog.GROUPS}))
    run_name(root.name, choices)
    if not root.output_root.strip():
        raise ConfigError("output_root is empty; set output_root=DIRECTORY, or output_root=. for the current one")
    trainer = TrainerOptions(**_own("trainer", TrainerOptions, plain["trainer"]))
    _check_device(trainer.device)
    if trainer.clip_norm is not None and trainer.clip_value is not None:
        raise ConfigError("trainer.clip_norm and trainer.clip_value are two ways to clip; set one of them to null")
    dataset_own, dataset_rest = _divide(plain["dataset"], DatasetOptions)
    dataset_options = DatasetOptions(**_own("dataset", DatasetOptions, dataset_own))
    scheduler_own, scheduler_rest = _divide(plain["scheduler"], SchedulerOptions)
    scheduler_options = SchedulerOptions(**_own("scheduler", SchedulerOptions, scheduler_own))
    config = Config(
        root=root,
        choices={k: str(choices[k]) for k in catalog.GROUPS if choices.get(k) is not None},
        trainer=trainer,
        checkpoint=CheckpointOptions(**_own("trainer.checkpoint", CheckpointOptions, trainer.checkpoint)),
        dataset=_call("dataset", dataset_rest, choices),
        dataset_options=dataset_options,
        split=SplitShares(**_own("dataset.split", SplitShares, dataset_options.split)),
        model=_call("model", plain["model"], choices),
        losses=_losses(plain["loss"], choices),
        optim=_call("optim", plain["optim"], choices),
        scheduler=_call("scheduler", scheduler_rest, choices),
        scheduler_options=scheduler_options,
        plain=plain,
        typed=_unresolved(cfg),
        text=OmegaConf.to_yaml(cfg),
    )
    _check_fit(config)
    return config


def config_hash(plain: Mapping[str, Any]) -> str:
    """Equal for configs that must give equal results: what cannot change one (`NO_MATTER`) does not count."""
    kept = {k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()}
    for path in NO_MATTER:
        group, _, key = path.rpartition(".")
        (kept.get(group, {}) if group else kept).pop(key, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def needs_of(loss: Call, task: type[Task]) -> tuple[str, ...] | None:
    """The fields that a loss takes from a task, in the order of its arguments; None where it does not fit."""
    needs = tuple(required(_called(loss.target)))
    if needs in STAND_INS and not set(needs) <= set(task.fields):
        return task.pair
    return needs if needs and set(needs) <= set(task.fields) else None


def fitting_loss(config: Config, task: type[Task]) -> tuple[Call, tuple[str, ...]]:
    """The loss function that the task takes, its hyperparameters checked, and its fields.

    Raises:
        ConfigError: none fits; the message names those that do, with a command to copy.
    """
    for loss in config.losses:
        needs = needs_of(loss, task)
        if needs is not None:
            return Call(loss.name, loss.target, _bind_loss(loss)), needs
    raise ConfigError(_misfit(config, task))


def _called(target: Callable[..., Any]) -> Callable[..., Any]:
    """What is called with the fields: the function itself, or a module's `forward`, without `self`."""
    if not isinstance(target, type):
        return target
    if not hasattr(target, "forward"):
        raise ConfigError(f"loss: {target.__name__} must be a function or a torch.nn.Module with a forward")
    return partial(target.forward, None)


def _misfit(config: Config, task: type[Task]) -> str:
    loss = config.losses[0]
    dataset = config.dataset.name
    fits = [name for name in catalog.losses_for(task.name) if name != "default"]
    usual = {"multiclass": "cross_entropy", "binary": "bce", "regression": "mse"}.get(task.name, fits[0])
    needs = ", ".join(required(_called(loss.target)))
    gives = f"dataset '{dataset}' gives ({', '.join(task.fields)})"
    if not needs:
        return f"loss '{loss.name}' takes no field: it needs parameters without a default; {gives}"
    given = "".join(f" dataset.{key}={config.dataset.values[key]}" for key in required(config.dataset.target))
    return (
        f"loss '{loss.name}' needs ({needs}); {gives}; "
        f"fits: {', '.join(fits)}; try: lossbench train dataset={dataset}{given} loss={usual}"
    )


def _check_fit(config: Config) -> None:
    """Refuse a loss that fits none of the data set's tasks, where the data set's card names them."""
    try:
        tasks = [TASKS[name] for name in catalog.card("dataset", config.dataset.name).fits if name in TASKS]
    except ConfigError:
        return  # a user's own data set: its task is known when it is loaded
    stated = config.dataset.values.get("task")
    tasks = [TASKS[stated]] if stated in TASKS else tasks
    errors = []
    for task in tasks:
        try:
            fitting_loss(config, task)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == len(tasks) and errors:
        raise errors[0]


def _bind_loss(loss: Call) -> dict[str, Any]:
    """The hyperparameters against the signature. The word `auto` leaves one to the function's own default."""
    given = {k: v for k, v in loss.values.items() if v != "auto"}
    fields_of = required(loss.target) if not isinstance(loss.target, type) else []
    own = {k for k in given if k in fields_of}
    if own:
        raise ConfigError(f"loss.{sorted(own)[0]} is a field that the data give, not an option")
    return bind("loss", loss.target, given, filled=(*FILLED["loss"], *fields_of), owner=loss.name)


def by_class(loss: Call) -> dict[str, FromTraining]:
    """The hyperparameters that may hold a number per class, or the word `balanced`, and what the word means."""
    marks = {key: getattr(hint, "__metadata__", ()) for key, hint in hints(loss.target).items()}
    return {key: m for key, found in marks.items() for m in found if isinstance(m, FromTraining)}


def _own(path: str, schema: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return bind(path, schema, given, owner=path or "the config")


def _divide(group: Mapping[str, Any], schema: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """A group's common keys and the rest, which belongs to its target."""
    common = {f.name for f in fields(schema)}
    return {k: v for k, v in group.items() if k in common}, {k: v for k, v in group.items() if k not in common}


def _call(group: str, given: Mapping[str, Any], choices: Mapping[str, str]) -> Call:
    name = str(choices.get(group, group))
    target = locate(group, given.get("_target_"))
    rest = {k: v for k, v in given.items() if k != "_target_"}
    values = bind(group, target, rest, filled=FILLED[group], ranges=_RANGES.get(group), owner=name)
    return Call(name, target, values)


def _losses(given: Mapping[str, Any], choices: Mapping[str, str]) -> list[Call]:
    name = str(choices.get("loss", "loss"))
    targets = given.get("_target_")
    rest = {k: v for k, v in given.items() if k != "_target_"}
    calls = [Call(name, locate("loss", t), rest) for t in (targets if isinstance(targets, list) else [targets])]
    for key in rest:
        if not any(key in parameters(call.target) for call in calls):
            bind("loss", calls[0].target, {key: rest[key]}, filled=required(calls[0].target), owner=name)
    return calls


def locate(group: str, path: Any) -> Callable[..., Any]:
    """The function or class that `_target_` names.

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
            f"{group}._target_: cannot import '{path}' ({reason}); a module of yours is looked for "
            "in the current directory and on PYTHONPATH"
        ) from error
    if not callable(found):
        raise ConfigError(f"{group}._target_: '{path}' is not a function or class")
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


def _unresolved(cfg: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def _resolve(cfg: DictConfig) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        key = error.full_key or ""
        hint = {"path": "PATH", "root": "PATH", "target": "COLUMN"}.get(key.rpartition(".")[2], "VALUE")
        raise ConfigError(f"{key} is required; set {key}={hint}") from error
    except RecursionError as error:
        raise ConfigError("the config refers to itself: an interpolation loop") from error
    except InterpolationResolutionError as error:
        reason = re.sub(r"^\w+ raised while resolving interpolation: ", "", str(error).splitlines()[0])
        raise ConfigError(f"{error.full_key or 'the config'}: {reason.strip(chr(34))}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def _check_device(name: str) -> None:
    """Refuse what is no device's name; whether the device is there is for `build` to say."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        near = "; did you mean 'cuda'?" if name == "gpu" else did_you_mean(name, ("auto", "cpu", "cuda"))
        raise ConfigError(f"trainer.device must be auto, cpu, cuda or cuda:N, got {name!r}{near}")
