"""TensorBoard's HPARAMS tab: one row for each run, with the same columns in all runs of a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from lossbench.observe.replacing import replacing

LATEST = 2**33  # a time beyond this is none

Kind = Literal["bool", "number", "text"]

_TYPES = {
    "bool": api_pb2.DATA_TYPE_BOOL,
    "number": api_pb2.DATA_TYPE_FLOAT64,
    "text": api_pb2.DATA_TYPE_STRING,
}


class Column(TypedDict):
    """What a column holds, and whether the runs that have a value differ in it: TensorBoard shows those first."""

    kind: Kind
    differs: bool


def columns_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """The columns that show these runs' hyperparameters, where a run need not have all of them."""
    names = dict.fromkeys(name for run in runs for name in run)
    found = {name: _column([run[name] for run in runs if name in run], len(runs)) for name in names}
    if not any(column["differs"] for column in found.values()):  # of a single run: what runs mostly differ in
        return {name: {**column, "differs": "." not in name or name == "optim.lr"} for name, column in found.items()}
    return {name: {**column, "differs": column["differs"] or name == "optim.lr"} for name, column in found.items()}


def joined_columns(first: Mapping[str, Column], second: Mapping[str, Column]) -> dict[str, Column]:
    """The columns that show the runs of both."""
    found = {**first, **second}
    for name in first.keys() & second.keys():
        one, other = first[name], second[name]
        kind = one["kind"] if one["kind"] == other["kind"] else "text"
        found[name] = Column(kind=kind, differs=one["differs"] or other["differs"])
    return found


def sound_columns(given: Any) -> dict[str, Column]:
    """The columns that a file holds; none where that is not what it holds."""
    is_sound = isinstance(given, dict) and all(
        _can_be_written(name)
        and isinstance(column, dict)
        and column.keys() == {"kind", "differs"}
        and column["kind"] in get_args(Kind)
        and isinstance(column["differs"], bool)
        for name, column in given.items()
    )
    return given if is_sound else {}


class Card(NamedTuple):
    """What the HPARAMS tab shows of a run, and whether there is a loss scale to show.

    It lies in `hparams.json` beside the events, because damage to an event file can hit the one record that holds it,
    and because it cannot be had from the config without composing that again.
    """

    hparams: dict[str, bool | int | float | str]
    metrics: list[str]
    scaled: bool
    started: float
    columns: dict[str, Column] = {}  # noqa: RUF012

    @staticmethod
    def of(
        hparams: Mapping[str, Any],
        metrics: Sequence[str],
        scaled: bool,
        started: float,
        columns: Mapping[str, Column] | None = None,
    ) -> Card:
        """A run's own.

        Args:
            columns: of the sweep that it belongs to.
        """
        every = dict(sorted({**columns_of([hparams]), **(columns or {})}.items()))
        shown = {name: _plain(value, every[name]["kind"]) for name, value in hparams.items()}
        kept = {name: value for name, value in shown.items() if value is not None}
        return Card(kept, list(metrics), scaled, started, every)

    @staticmethod
    def load(directory: Path) -> Card | None:
        """The one that the directory holds, if it can be read."""
        try:
            card = Card(**json.loads((directory / "hparams.json").read_text()))
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        return card if card._is_sound() else None

    def save(self, directory: Path) -> None:
        with replacing(directory / "hparams.json") as file:
            file.write((json.dumps(self._asdict(), indent=2) + "\n").encode())

    def _is_sound(self) -> bool:
        """Whether each value is of the kind that it must be: the file is only what somebody left there."""
        return (
            isinstance(self.hparams, dict)
            and isinstance(self.metrics, list)
            and all(isinstance(name, str) for name in self.metrics)
            and all(map(_can_be_written, (*self.hparams, *self.hparams.values(), *self.metrics)))
            and isinstance(self.scaled, bool)
            and isinstance(self.started, (int, float))
            and 0 <= self.started < LATEST
            and sound_columns(self.columns) == self.columns
        )

    def shows_as(self, other: Card | None) -> bool:
        """Whether the two differ in nothing but when they began."""
        return other is not None and self._replace(started=0.0) == other._replace(started=0.0)

    def summaries(self, directory: Path) -> list[Summary]:
        """What the first events of the run in this directory hold."""
        trial = "/".join(directory.resolve().parts[-2:])
        columns = self.columns or columns_of([self.hparams])
        shown = {name: self.hparams.get(name, _missing(column["kind"])) for name, column in columns.items()}
        return [self._experiment(columns), hparams_pb(shown, trial_id=trial, start_time_secs=self.started)]

    def _experiment(self, columns: Mapping[str, Column]) -> Summary:
        # TensorBoard takes that of any one run for all, and sorts by `differs`, then by name.
        experiment = api_pb2.Experiment(
            hparam_infos=[
                api_pb2.HParamInfo(name=name, type=_TYPES[column["kind"]], differs=column["differs"])
                for name, column in columns.items()
            ],
            metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in self.metrics],
        )
        return plugin_summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def plugin_summary(tag: str, data: Any) -> Summary:
    """What the tab's own code reads: all of it is in the metadata."""
    summary = Summary()
    summary.value.add(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return summary


def _column(values: Sequence[Any], runs: int) -> Column:
    """The column of a hyperparameter that has these values, in so many runs."""
    differs = len({json.dumps(value, default=str) for value in values}) > 1
    numbers = [value for value in values if value is not None]
    if len(values) == runs and all(isinstance(value, bool) for value in values):
        return Column(kind="bool", differs=differs)
    if numbers and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers):
        return Column(kind="number", differs=differs)
    return Column(kind="text", differs=differs)


def _plain(value: Any, kind: Kind) -> bool | int | float | str | None:
    """A value as a column can hold it: among numbers a null is nothing, and elsewhere it becomes text, as lists do."""
    if kind == "number" and value is None:
        return None
    return value if isinstance(value, str) or (kind != "text" and isinstance(value, (bool, int, float))) else str(value)


def _missing(kind: Kind) -> float | str:
    """What a column has for a run without a value: among numbers one that TensorBoard shows as none and can sort."""
    return math.nan if kind == "number" else "-"


def _can_be_written(value: Any) -> bool:
    """Whether an event can hold it: text as UTF-8, and numbers as floats."""
    try:
        if isinstance(value, str):
            value.encode()
        else:
            float(value)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        return False
    return True
