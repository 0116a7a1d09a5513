"""`lossbench predict`: what a trained model says of new rows. The training data are not needed."""

from __future__ import annotations

import csv
import importlib
from dataclasses import dataclass
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
from lossbench.device import pick_device, pick_precision
from lossbench.engine import autocast
from lossbench.errors import ConfigError, DataError, plural
from lossbench.tasks import Binary, Regression, Task

KINDS = (".csv", ".parquet", ".npz")


@dataclass(frozen=True)
class Predictions:
    """What a model says of each row.

    Attributes:
        prediction: the class's name; for regression the number in the target's units.
        probabilities: (N, C) in the order of the classes; none for regression.
        classes: the classes' names; where there are two for yes or no, the second is yes.
    """

    prediction: NDArray[Any]
    probabilities: NDArray[np.float64] | None = None
    classes: tuple[str, ...] = ()
    binary: bool = False

    def columns(self) -> dict[str, NDArray[Any]]:
        """As a table."""
        found: dict[str, NDArray[Any]] = {"row": np.arange(len(self.prediction)), "prediction": self.prediction}
        if self.binary and self.probabilities is not None:
            found["probability"] = self.probabilities[:, 1]
        elif self.probabilities is not None:
            found |= {f"p_{name}": self.probabilities[:, k] for k, name in enumerate(self.classes)}
        return found


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
        return Predictions((outputs[:, 0] * task.std + task.mean).numpy())
    if isinstance(task, Binary):
        yes = outputs[:, 0].sigmoid()
        probabilities, chosen = torch.stack((1 - yes, yes), 1), (outputs[:, 0] > 0).long()
    else:
        probabilities = outputs.softmax(1)
        chosen = probabilities.argmax(1)
    names = classes or tuple(map(str, range(probabilities.shape[1])))
    return Predictions(np.array(names)[chosen.numpy()], probabilities.numpy(), names, isinstance(task, Binary))


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
    with path.open("wb") as file:  # given a path, NumPy would add an ending
        if predictions.probabilities is None:
            np.savez(file, prediction=predictions.prediction)
        else:
            classes = np.array(predictions.classes)
            np.savez(file, prediction=predictions.prediction, probabilities=predictions.probabilities, classes=classes)


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
