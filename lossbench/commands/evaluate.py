"""`lossbench evaluate`: the metrics of a trained model, on the run's own data or on other data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from lossbench.build import EVALUATION_BATCH, build, load_source
from lossbench.commands.files import check_place, replaced
from lossbench.commands.load import Saved, refuse_changes, saved, warn
from lossbench.commands.usage import OF_EVALUATE, Asked
from lossbench.config import NO_MATTER
from lossbench.console import console, say
from lossbench.data import DatasetOptions
from lossbench.data.csv import csv
from lossbench.data.inputs import read_source
from lossbench.data.table_encoding import TableEncoding
from lossbench.device import pick_device, pick_precision
from lossbench.engine import Metrics, Objective, Part, autocast, evaluate
from lossbench.engine.weights import put_weights
from lossbench.errors import CheckpointError, ConfigError
from lossbench.observe.run_dir import finite
from lossbench.saved import key_of

OF_TRAINING = {f"dataset.{option.name}" for option in fields(DatasetOptions)}.difference(NO_MATTER)


def run(asked: Asked) -> None:
    """Print the metrics, or write them as JSON.

    Raises:
        LossbenchError: no such run, settings that are not for this, or data that do not fit the model.
    """
    _check_settings(asked.overrides)
    target = asked.values.get("--json")
    if target not in (None, "-"):
        check_place(Path(str(target)), force=True, dash=True)
    found = saved(asked.path, asked.values.get("--checkpoint"), asked.overrides, asked.config_dirs)
    metrics = measure(found, asked.values.get("--split"), asked.overrides)
    if target is not None:
        text = as_json({"checkpoint": str(found.checkpoint.path), "step": found.step, "metrics": metrics})
        if target == "-":
            print(text)
            return
        with replaced(Path(target)) as part:
            part.write_text(f"{text}\n")
    say(f"{found.config.name}, {found.checkpoint.path.name}")
    console.print(_table(metrics))


def measure(found: Saved, split: str | None, overrides: Sequence[str]) -> dict[str, Metrics]:
    """The metrics of each split that is asked for.

    Args:
        overrides: as typed; those of the data decide which data are measured.
    """
    typed = any(key_of(word).partition(".")[0] == "dataset" for word in overrides)
    changed = [change for change in found.changed("dataset", added=typed) if change[0] not in NO_MATTER]
    if changed and not typed:
        refuse_changes(found.run, changed)
    if split == "all" or (changed and split is None):
        return {"all": of_other_data(found)}
    return of_own_data(found, split)


def of_own_data(found: Saved, split: str | None) -> dict[str, Metrics]:
    """The metrics of the run's splits, as its summary has them, or of one of them.

    Raises:
        CheckpointError: the data or the loss are not those of the run.
    """
    refuse_changes(found.run, found.changed("loss"))
    built = build(found.config)
    if not same(built.data.fitted.to_json(), found.fitted.to_json()):
        raise CheckpointError(
            f"these are not the data that {found.run} was trained on: its splits cannot be made again; "
            "--split all measures every row"
        )
    put_weights(found.checkpoint, built.player.modules)
    _warn_of(built.player.model, found)
    splits = {"train": built.data.train, "val": built.data.val, "test": built.data.test}
    return {name: built.evaluate(rows) for name, rows in splits.items() if split in (None, name)}


def of_other_data(found: Saved) -> Metrics:
    """The metrics of every row of the config's data set, encoded as the training data were; without the loss."""
    config = found.config
    device = pick_device(config.trainer.device)
    dataset = config.dataset
    if dataset.target is csv and isinstance(found.fitted.encoding, TableEncoding):
        dataset = replace(dataset, target=partial(read_source, found.fitted))  # few rows can look like other data
    source = load_source(dataset)
    for note in source.notes:
        warn(note)
    task, model = found.fitted.task, found.model(device)
    _warn_of(model, found)
    metrics = evaluate(
        model,
        task,
        Objective([Part("none", 1.0, _nothing, task.measured[:1])]),
        found.fitted.split(source, device, timeout=config.dataset_options.timeout),
        batch_size=max(EVALUATION_BATCH, config.trainer.batch_size),
        cast=autocast(pick_precision(config.trainer.precision, device), device),
        workers=config.dataset_options.workers,
    )
    return {name: value for name, value in metrics.items() if name != "loss"}


def same(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal, numbers to rounding: other versions of NumPy sum in another order."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
    return bool(a == b)


def as_json(found: Mapping[str, Any]) -> str:
    """As JSON has it: NaN and infinities are null."""
    return json.dumps(finite(found), indent=2)


def _check_settings(overrides: Sequence[str]) -> None:
    """Refuse settings that would make it another model, or that other data do not have."""
    for word in overrides:
        key = key_of(word)
        if any(key == own or key.startswith(f"{own}.") for own in OF_TRAINING):
            raise ConfigError(f"{key} is of the training; other data are measured in one piece, encoded as those were")
        if key not in OF_EVALUATE and not key.startswith("dataset."):
            raise ConfigError(f"evaluate takes {', '.join(OF_EVALUATE)} and dataset.KEY=VALUE; {key} is the run's own")


def _warn_of(model: nn.Module, found: Saved) -> None:
    if not all(weights.isfinite().all() for weights in model.parameters()):
        warn(f"the weights of {found.checkpoint.path} are not finite: its metrics mean nothing")


def _nothing(outputs: Tensor) -> Tensor:
    """In the place of a loss: the training's has no meaning for other data."""
    return outputs.new_zeros(())


def _table(metrics: Mapping[str, Metrics]) -> Table:
    table = Table()
    table.add_column("metric")
    for split in metrics:
        table.add_column({"val": "validation"}.get(split, split), justify="right")
    for name in next(iter(metrics.values())):
        values = [values[name] for values in metrics.values()]
        table.add_row(name, *map(_shown, values))
    return table


def _shown(value: float) -> str:
    return "-" if value != value else f"{value:.4f}" if abs(value) <= 1e6 else f"{value:.4g}"
