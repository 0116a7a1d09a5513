"""The config against its schema: everything about it that can be known without the data is checked here."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException

from lossbench import catalog
from lossbench.data import AugmentOptions, DatasetOptions, SplitShares
from lossbench.engine.average import AverageOptions
from lossbench.engine.checkpoints import CheckpointOptions
from lossbench.engine.guard import Policy
from lossbench.engine.objective import Reduction
from lossbench.engine.range_rule import RangeTest
from lossbench.errors import ConfigError, did_you_mean
from lossbench.loss_config import Loss, check_fit, read_loss
from lossbench.naming import run_name
from lossbench.optim import OptimOptions, SchedulerOptions
from lossbench.optim.groups import Rule
from lossbench.optim.ranges import RANGES
from lossbench.optim.rate_free import refuse_rate_free
from lossbench.optim_config import read_rules, refuse_contradictions
from lossbench.schedule_config import read_schedule, refuse_stated_peak, schedule_filled
from lossbench.signatures import bind, show
from lossbench.sweep.options import read_options
from lossbench.targets import FILLED, Call, locate
from lossbench.tasks.output import Output

# What stands for `optim.lr=auto` until it is found: a rate like others, and one that nobody types.
PLACEHOLDER = 0.00100000001

# Keys that cannot change a result.
NO_MATTER = (
    "output_root",
    "name",
    "resume",
    "sweep",
    "trainer.flush_every",
    "trainer.checkpoint",
    "dataset.workers",
    "dataset.timeout",
)


class _Dumper(getattr(yaml, "CDumper", yaml.Dumper)):  # type: ignore[misc]
    """Writes what `OmegaConf.to_yaml` does, in a tenth of the time."""


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


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
    average: Mapping[str, Any] = field(default_factory=dict)
    deterministic: bool = False
    compile: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """What every model takes, beside its own options.

    Attributes:
        output: the form of what it gives; null is what the loss needs.
    """

    output: Output | None = None


@dataclass(frozen=True)
class Root:
    """The keys outside every group."""

    output_root: str = "outputs"
    name: str | None = None
    resume: str | None = None
    weights: str | None = None
    seed: Annotated[int, "[0, 4294967295]"] = 0


@dataclass(frozen=True)
class Config:
    """A checked config."""

    root: Root
    choices: Mapping[str, str]
    trainer: TrainerOptions
    checkpoint: CheckpointOptions
    average: AverageOptions
    dataset: Call
    dataset_options: DatasetOptions
    augment: AugmentOptions
    split: SplitShares
    model: Call
    model_options: ModelOptions
    loss: Loss
    optim: Call
    optim_options: OptimOptions
    optim_rules: tuple[Rule, ...]
    scheduler: Call
    scheduler_options: SchedulerOptions
    plain: Mapping[str, Any]  # the whole config, resolved
    typed: Mapping[str, Any]  # the whole config, interpolations as their text
    lr_auto: bool = False  # whether PLACEHOLDER stands for the rate, which `rates.settled` finds
    found_lr: RangeTest | None = None  # how it was found

    @property
    def name(self) -> str:
        return run_name(self.root.name, self.choices)

    @property
    def text(self) -> str:
        """The whole config as YAML, interpolations unresolved: secrets of the environment stay out of it."""
        return str(yaml.dump(dict(self.typed), Dumper=_Dumper, sort_keys=False, allow_unicode=True))

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
        given = plain.get(group) if group in choices else None  # what every option takes is there without a choice
        if not isinstance(given, dict):
            raise ConfigError(f"{group} must be one of {catalog.choices(group)}, got {show(given)}")
    known = [*(f.name for f in fields(Root)), *catalog.GROUPS, "sweep"]
    unknown = [k for k in plain if k not in known]
    if unknown:
        raise ConfigError(f"unexpected key '{unknown[0]}'{did_you_mean(unknown[0], known)}")
    read_options(plain.get("sweep"))
    root = Root(**_own("", Root, {k: v for k, v in plain.items() if k not in (*catalog.GROUPS, "sweep")}))
    run_name(root.name, choices)
    if not root.output_root.strip():
        raise ConfigError("output_root is empty; set output_root=DIRECTORY, or output_root=. for the current one")
    trainer = TrainerOptions(**_own("trainer", TrainerOptions, plain["trainer"]))
    _check_device(trainer.device)
    if trainer.clip_norm is not None and trainer.clip_value is not None:
        raise ConfigError("trainer.clip_norm and trainer.clip_value are two ways to clip; set one of them to null")
    dataset_own, dataset_rest = _divide(plain["dataset"], DatasetOptions)
    dataset_options = DatasetOptions(**_own("dataset", DatasetOptions, dataset_own))
    model_own, model_rest = _divide(plain["model"], ModelOptions)
    optim_own, optim_rest = _divide(plain["optim"], OptimOptions)
    optim_options = OptimOptions(**_own("optim", OptimOptions, optim_own))
    lr_auto = _is_auto(optim_rest.get("lr"))
    optim = _call("optim", {**optim_rest, "lr": PLACEHOLDER} if lr_auto else optim_rest, choices)
    refuse_contradictions(optim)
    if lr_auto and isinstance(optim.target, type):
        refuse_rate_free(optim.name, optim.target)
    scheduler_own, scheduler_rest = _divide(plain["scheduler"], SchedulerOptions)
    scheduler_options = SchedulerOptions(**_own("scheduler", SchedulerOptions, scheduler_own))
    config = Config(
        root=root,
        choices={k: str(choices[k]) for k in catalog.GROUPS if choices.get(k) is not None},
        trainer=trainer,
        checkpoint=CheckpointOptions(**_own("trainer.checkpoint", CheckpointOptions, trainer.checkpoint)),
        average=AverageOptions(**_own("trainer.average", AverageOptions, trainer.average)),
        dataset=_call("dataset", dataset_rest, choices),
        dataset_options=dataset_options,
        augment=AugmentOptions(**_own("dataset.augment", AugmentOptions, dataset_options.augment)),
        split=SplitShares(**_own("dataset.split", SplitShares, dataset_options.split)),
        model=_call("model", model_rest, choices),
        model_options=ModelOptions(**_own("model", ModelOptions, model_own)),
        loss=read_loss(plain["loss"], choices),
        optim=optim,
        optim_options=optim_options,
        optim_rules=read_rules(optim_options, optim),
        scheduler=read_schedule(_call("scheduler", scheduler_rest, choices), scheduler_options),
        scheduler_options=scheduler_options,
        plain=plain,
        typed=_unresolved(cfg),
        lr_auto=lr_auto,
    )
    check_fit(config.loss, config.dataset)
    if lr_auto:
        refuse_stated_peak(config.scheduler)
    return config


def config_hash(plain: Mapping[str, Any]) -> str:
    """Equal for configs that must give equal results: what cannot change one (`NO_MATTER`) does not count."""
    kept = {k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()}
    for path in NO_MATTER:
        group, _, key = path.rpartition(".")
        (kept.get(group, {}) if group else kept).pop(key, None)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def no_matter(key: str) -> bool:
    """Whether a setting cannot change a result."""
    return any(key == free or key.startswith(f"{free}.") for free in NO_MATTER)


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
    filled = schedule_filled(target) if group == "scheduler" else FILLED[group]
    values = bind(group, target, rest, filled=filled, ranges=RANGES.get(group), owner=name)
    return Call(name, target, values)


def _is_auto(lr: Any) -> bool:
    """Whether the rate is to be found; another word for a rate is refused."""
    if isinstance(lr, str) and lr != "auto":
        raise ConfigError(f"optim.lr must be a number or auto, got {show(lr)}{did_you_mean(lr, ['auto'])}")
    return isinstance(lr, str)


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
