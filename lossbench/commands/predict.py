"""`lossbench predict`: what a trained model says of new rows. The training data are not needed."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossbench.build import EVALUATION_BATCH
from lossbench.commands.files import check_place, replaced
from lossbench.commands.load import Saved, saved
from lossbench.commands.usage import Asked
from lossbench.console import say
from lossbench.data.inputs import read_inputs
from lossbench.data.target import class_count
from lossbench.device import pick_device, pick_precision
from lossbench.engine import autocast
from lossbench.errors import ConfigError, DataError, plural
from lossbench.tasks import Binary, Multilabel, Regression, Task
from lossbench.tasks.regression import HEADS

KINDS = (".csv", ".parquet", ".npz")
LABELS = ";"  # between the names of an example's labels


@dataclass(frozen=True)
class Predictions:
    """What a model says of each row.

    Attributes:
        prediction: the class's name, or the names of the labels; for regression the number in the target's units.
        probabilities: (N, C) in the order of the classes; none for regression.
        classes: the classes' names; where there are two for yes or no, the second is yes.
        more: what a regression model says beside the number, by column: quantiles, or the standard deviation.
    """

    prediction: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    binary: bool = False
    more: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def columns(self) -> dict[str, NDArray[Any]]:
        """As a table."""
        found: dict[str, NDArray[Any]] = {"row": np.arange(len(self.prediction)), "prediction": self.prediction}
        if self.binary and self.probabilities is not None:
            found["probability"] = self.probabilities[:, 1]
        elif self.probabilities is not None:
            found |= {f"p_{name}": self.probabilities[:, k] for k, name in enumerate(self.classes)}
        return {**found, **self.more}


def run(asked: Asked) -> None:
    """Read the input, predict, and write the output.

    Raises:
        LossbenchError: no such run, an input that the model cannot take, or an output that cannot be written.
    """
    source, target = Path(asked.values["--input"]), Path(asked.values["--output"])
    _check_output(source, target, force="--force" in asked.switches)
    device = f"trainer.device={asked.values.get('--device', 'auto')}"
    found = saved(asked.path, asked.values.get("--checkpoint"), [device], asked.config_dirs)
    given = {name: asked.values[f"--{name}"] for name in ("delimiter", "encoding") if f"--{name}" in asked.values}
    predictions = predict(found, read_inputs(source, found.fitted, **given))
    with replaced(target) as part:
        write(part, predictions)
    say(f"{plural(len(predictions.prediction), 'prediction')} in {target}")


def predict(found: Saved, features: Any) -> Predictions:
    """The model's predictions for features as the training had them.

    Raises:
        DataError: features that cannot be encoded, or for which the model's output is not finite.
    """
    device, task = pick_device(found.config.trainer.device), found.fitted.task
    model = found.model(device)
    cast = autocast(pick_precision(found.config.trainer.precision, device), device)
    outputs = []
    with torch.no_grad():
        for batch in torch.split(found.fitted.inputs(features, torch.device("cpu")), EVALUATION_BATCH):
            with cast():
                outputs.append(model(batch.to(device)).double().cpu())
    return meaning(torch.cat(outputs), task, found.fitted.classes)


def meaning(outputs: Tensor, task: Task, classes: tuple[str, ...]) -> Predictions:
    """What a model's outputs (N, outputs) say, as the task's metrics read them."""
    wrong = (~outputs.isfinite()).any(1).nonzero()
    if len(wrong):
        raise DataError(f"the model's output for row {int(wrong[0])} is not finite: is this input like the training's?")
    if isinstance(task, Regression):
        return _numbers(outputs, task)
    fields = task.forward(lambda x: x, {"input": outputs}, ("logits", "probs"))
    probabilities, names = fields["probs"].numpy(), classes or tuple(map(str, range(class_count(task))))
    if isinstance(task, Multilabel):
        chosen = fields["logits"] > 0
        found = [
            LABELS.join(name for name, is_one in zip(names, row, strict=True) if is_one) for row in chosen.tolist()
        ]
        return Predictions(np.array(found), probabilities, names)
    if isinstance(task, Binary):
        which, probabilities = (fields["logits"] > 0).long().numpy(), np.stack((1 - probabilities, probabilities), 1)
    else:
        which = probabilities.argmax(1)
    return Predictions(np.array(names)[which], probabilities, names, isinstance(task, Binary))


def _numbers(outputs: Tensor, task: Regression) -> Predictions:
    fields = task.forward(lambda x: x, {"input": outputs}, ("pred", *HEADS))
    more: dict[str, NDArray[np.float64]] = {}
    if "pred_quantiles" in fields:
        quantiles = task.in_units(fields["pred_quantiles"]).numpy()
        more = {f"q{level:g}": quantiles[:, k] for k, level in enumerate(task.levels)}
    if "variance" in fields:
        more = {"std": fields["variance"].sqrt().numpy() * task.std}
    return Predictions(task.in_units(fields["pred"]).numpy(), more=more)


def write(path: Path, predictions: Predictions) -> None:
    """Write predictions in the format that the path's ending names."""
    columns = predictions.columns()
    kind = path.suffix.lower()
    if kind == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(columns)
            rows.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    elif kind == ".parquet":
        pyarrow = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    else:
        _write_npz(path, predictions)


def _write_npz(path: Path, predictions: Predictions) -> None:
    arrays: dict[str, NDArray[Any]] = {"prediction": predictions.prediction, **predictions.more}
    if predictions.probabilities is not None:
        arrays |= {"probabilities": predictions.probabilities, "classes": np.array(predictions.classes)}
    with path.open("wb") as file:  # given a path, NumPy would add an ending
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _check_output(source: Path, target: Path, *, force: bool) -> None:
    """Refuse an output that cannot be written before the model is loaded."""
    kind = target.suffix.lower()
    if kind not in KINDS:
        raise ConfigError(f"--output must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}, got '{target}'")
    check_place(target, force=force)
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError("--output is the file of --input; name another")
    if kind == ".parquet":
        try:
            importlib.import_module("pyarrow")
        except ImportError as error:
            raise ConfigError("writing .parquet files needs pyarrow: pip install pyarrow") from error
