"""From a checked config to a run that is ready to train. The only module that instantiates from the config."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lossbench.average_build import build_average
from lossbench.config import Config
from lossbench.console import say
from lossbench.data import Batches, Data, DatasetOptions, Source, Split, augment_for, prepare
from lossbench.data.target import check_counts
from lossbench.device import environment, pick_device, pick_precision, promise, set_determinism
from lossbench.engine import (
    Averaged,
    Best,
    Clip,
    Guard,
    Length,
    LossScale,
    Metrics,
    Player,
    autocast,
    choose_gate,
    evaluate,
    refresh_batch_norm,
)
from lossbench.engine.precision import PrecisionName
from lossbench.engine.weights import put_weights
from lossbench.errors import ConfigError, DataError, LossbenchError, first_line
from lossbench.group_facts import GroupFacts, group_facts
from lossbench.loss_build import build_objective, may_be_empty
from lossbench.loss_config import Fit, fit
from lossbench.models.output import with_output
from lossbench.monitor import direction_of, monitor_of
from lossbench.optim_build import (
    build_optimizers,
    freeze_and_group,
    refuse_misfits,
    thaw_of,
    trained_of,
    with_unknown_rate,
)
from lossbench.probe import probe
from lossbench.saved import checkpoint_at
from lossbench.schedule_build import build_schedules, schedule_notes
from lossbench.seeds import derive
from lossbench.signatures import parameters
from lossbench.targets import Call, make
from lossbench.tasks import Task

EVALUATED_TRAIN = 10_000  # rows of the training split that an evaluation looks at, at the most
EVALUATION_BATCH = 1024


@dataclass(frozen=True)
class Run:
    """Everything that a training needs, built and tried on one batch."""

    config: Config
    data: Data
    train_sample: Split
    player: Player
    batches: Batches
    length: Length
    best: Best
    device: torch.device
    precision: PrecisionName
    notes: tuple[str, ...]
    averaged_best: Best | None = None  # the best averaged weights, where weights are averaged
    groups: tuple[GroupFacts, ...] = ()

    @property
    def averaged(self) -> Averaged | None:
        """The average of the weights, if there is one, and how it is measured."""
        average, best = self.player.average, self.averaged_best
        return None if average is None or best is None else Averaged(average, best, self._refreshed_evaluation)

    def evaluate(self, split: Split) -> Metrics:
        """The metrics of a whole split with the current weights."""
        p, batch = self.player, max(EVALUATION_BATCH, self.batches.batch_size)
        workers = self.batches.workers
        return evaluate(p.model, p.task, p.objective, split, batch_size=batch, cast=p.cast, workers=workers)

    def evaluation(self) -> Mapping[str, Metrics]:
        """What is measured during the training: the training split, or a sample of it, and the validation split."""
        return {"train": self.evaluate(self.train_sample), "val": self.evaluate(self.data.val)}

    def _refreshed_evaluation(self) -> Metrics:
        """The validation metrics of weights that were not trained themselves: BatchNorm has not seen what they give."""
        refresh_batch_norm(self.player.model, self.batches, self.player.cast, self.player.augment)
        return self.evaluate(self.data.val)


def build(config: Config) -> Run:
    """Load the data, build model, loss, optimizer and schedule, and try them on a few examples.

    Sets torch's global random state from the seed: the same seed gives the same split, initial weights and batch
    order, whatever the loss, the optimizer or the schedule.

    Raises:
        ConfigError, DataError, ResourceError: what cannot be trained, before anything is written.
    """
    options, seed = config.trainer, config.root.seed
    device = pick_device(options.device)
    precision = pick_precision(options.precision, device)
    set_determinism(options.deterministic)
    data, loss = load_data(config, device)
    task = data.task
    batches = Batches(
        data.train,
        batch_size=options.batch_size,
        sampler=config.dataset_options.sampler,
        accumulate=options.accumulate,
        drop_last=options.drop_last,
        seed=seed,
        workers=config.dataset_options.workers,
    )
    _check_batches(batches)
    torch.manual_seed(derive(seed, "weights"))
    model = with_output(build_model(config.model, data.input_shape, task.outputs), task.output).to(device)
    length = _length(config, batches)
    objective = build_objective(loss, data, model, device, reduction=options.reduction, steps=length.steps)
    groups = freeze_and_group(config, model, objective)
    thaw = thaw_of(groups, steps=length.steps, steps_per_epoch=batches.steps_per_epoch)
    cast = autocast(precision, device)
    if config.root.weights is not None:
        put_weights(checkpoint_at(Path(config.root.weights), "best", say), [model])
    probe(config, model, objective, data, cast)
    if options.compile:
        model.compile()
    embeddings = [m.weight for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    optimizers = build_optimizers(config.optim, groups, embeddings)
    refuse_misfits(config, optimizers, precision)
    unknown = [group["name"] for group in with_unknown_rate(optimizers)] if config.lr_auto else []
    trained, monitor = trained_of(model, objective, groups), monitor_of(config, data)
    scale = LossScale(device, enabled=precision == "fp16", floor=options.min_scale)
    player = Player(
        model=model,
        task=task,
        objective=objective,
        parameters=trained,
        optimizers=optimizers,
        schedules=build_schedules(config, optimizers, length, batches, data),
        guard=_guard(config, optimizers, scale, [model, objective.modules], device, may_be_empty(objective, data)),
        scale=scale,
        cast=cast,
        clip=Clip(options.clip_norm, options.clip_value),
        augment=augment_for(config.augment, data.input_shape),
        seed=derive(seed, "training"),  # dropout and the like: the same for every loss and model
        thaw=thaw,
        average=build_average(config, trained, optimizers, length, batches),
    )
    direction = direction_of(config, data, monitor)
    best = Best(player.modules, monitor, direction, options.early_stop)
    averaged_best = Best(player.modules, monitor, direction) if player.average else None
    notes = (*data.notes, *schedule_notes(config, player.schedules[0]))
    if precision == "fp16" and device.type == "cpu":
        notes = (*notes, "fp16 on the CPU works, and is slow: bf16 or fp32 are faster here")
    if options.deterministic:
        notes = (*notes, promise(environment(options.device, options.precision)))
    random.seed(derive(seed, "python"))  # what a user's own code draws; torch is seeded at each step
    np.random.seed(derive(seed, "numpy") % 2**32)  # noqa: NPY002
    sample, facts = _sample(data.train), group_facts(groups, optimizers, unknown)
    return Run(config, data, sample, player, batches, length, best, device, precision, notes, averaged_best, facts)


def load_data(config: Config, device: torch.device) -> tuple[Data, Fit]:
    """The data set, its task as the loss asks for it, and the loss as the task takes it.

    Raises:
        ConfigError, DataError: what cannot be read, or does not go together.
    """
    source = load_source(config.dataset)
    data = prepare(source, config.dataset_options, config.split, config.root.seed, device)
    task, loss = suit(config, data.task)
    check_counts(source.target, task)
    return replace(data, fitted=replace(data.fitted, task=task)), loss


def suit(config: Config, task: Task) -> tuple[Task, Fit]:
    """The task as the config's loss asks for it, and the loss as the task takes it.

    Raises:
        ConfigError, DataError: they do not go together.
    """
    output = config.model_options.output
    loss = fit(config.loss, type(task), config.dataset, output)
    if "counts" in loss.fields:
        _refuse_other_numbers(loss.name, config.dataset_options)
    return task.suited(loss.fields, output=output, levels=loss.levels), loss


def _refuse_other_numbers(loss: str, options: DatasetOptions) -> None:
    """Refuse options under which the targets would be no counts, or not as the rate's model takes them."""
    if not options.standardize_target:
        raise ConfigError(
            f"loss '{loss}' predicts counts in proportion to the training rows' mean; "
            "leave dataset.standardize_target=false out"
        )
    if options.outliers:
        raise ConfigError(f"loss '{loss}' takes counts, and dataset.outliers would move them; leave one of them out")


def _guard(
    config: Config,
    optimizers: Sequence[Optimizer],
    scale: LossScale,
    modules: Sequence[nn.Module],
    device: torch.device,
    may_be_empty: bool,
) -> Guard:
    options = config.trainer
    return Guard(
        options.nonfinite,
        choose_gate(options.nonfinite, device, scale, optimizers, may_be_empty=may_be_empty),
        optimizers,
        scale,
        modules,
        max_skips=options.max_skips,
        max_rollbacks=options.max_rollbacks,
        rollback_factor=options.rollback_factor,
        device=device,
    )


def load_source(dataset: Call) -> Source:
    """The data set, as its function reads it."""
    try:
        source = dataset.target(**dataset.values)
    except LossbenchError:
        raise
    except Exception as error:  # a user's own code reads it: anything can come out of it
        raise DataError(f"dataset '{dataset.name}': {first_line(error)}") from error
    if not isinstance(source, Source):
        raise ConfigError(f"dataset '{dataset.name}' must return a lossbench.data.Source, got {type(source).__name__}")
    return source


def build_model(model: Call, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """The model, given the shapes that it asks for and the config leaves open."""
    known = parameters(model.target)
    shapes = {"input_shape": input_shape, "outputs": outputs}
    built = make("model", model, {k: v for k, v in shapes.items() if k in known and model.values.get(k) is None})
    if not isinstance(built, nn.Module):
        raise ConfigError(f"model '{model.name}' must be a torch.nn.Module, got {type(built).__name__}")
    if any(map(is_lazy, (*built.parameters(), *built.buffers()))):
        _materialise(model.name, built, input_shape)
    return built


def _materialise(name: str, model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Lazy layers take their shapes from a first batch."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, *input_shape))
    except Exception as error:
        raise ConfigError(f"model '{name}' cannot take inputs of shape {input_shape}: {first_line(error)}") from error
    model.train()


def _length(config: Config, batches: Batches) -> Length:
    options = config.trainer
    per_epoch = batches.steps_per_epoch
    steps = options.steps or options.epochs * per_epoch
    every = per_epoch if options.eval_every == "epoch" else int(options.eval_every)
    return Length(steps, every, options.max_time)


def _check_batches(batches: Batches) -> None:
    rows, size = len(batches.split), batches.batch_size
    if batches.batches_per_epoch == 0:
        raise ConfigError(
            f"trainer.batch_size={size} is larger than the {rows} training rows, and trainer.drop_last=true "
            "leaves 0 steps; lower the batch size"
        )
    if batches.accumulate > batches.batches_per_epoch:
        raise ConfigError(
            f"trainer.accumulate={batches.accumulate} is more than the {batches.batches_per_epoch} batches of an epoch"
        )


def _sample(split: Split) -> Split:
    """At most so many rows of a split, evenly spaced: rows are in the source's order, so it is always the same."""
    if len(split) <= EVALUATED_TRAIN:
        return split
    chosen = torch.linspace(0, len(split) - 1, EVALUATED_TRAIN).long()
    return split.take(chosen)
