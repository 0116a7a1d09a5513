"""What every data set takes, and which of it goes with which kind of target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from numpy.typing import NDArray

from lossbench.data.rowwise import TIMEOUT
from lossbench.data.sampler import Sampler
from lossbench.data.source import Source
from lossbench.data.target import task_of
from lossbench.errors import ConfigError


@dataclass(frozen=True)
class SplitShares:
    """How the rows are divided: `val` and `test` shares, the rest trains; classes keep their shares.

    Where a data set has a test split of its own, `test` is not used and `val` is a share of the rest.
    """

    val: Annotated[float, "(0, 1)"] = 0.15
    test: Annotated[float, "(0, 1)"] = 0.15
    stratify: bool = True


@dataclass(frozen=True)
class DatasetOptions:
    """What every data set takes, beside its own options; conf/config.yaml says what each is."""

    split: Mapping[str, Any]
    standardize: bool = True
    standardize_target: bool = True
    weight: str | None = None
    group: str | None = None
    imbalance: Annotated[float | None, "(0, 1]"] = None
    subset: Annotated[int | None, "[1, inf)"] = None
    label_noise: Annotated[float | None, "[0, 1)"] = None
    outliers: Annotated[float | None, "[0, 1)"] = None
    outlier_size: Annotated[float, "(0, 1e6]"] = 10.0
    sampler: Sampler = "shuffle"
    augment: Mapping[str, Any] = field(default_factory=dict)
    workers: Annotated[int, "[0, inf)"] = 0
    timeout: Annotated[float, "(0, inf)"] = TIMEOUT


_DOES = {
    "standardize_target": "standardize_target=false keeps numbers as they are",
    "imbalance": "imbalance thins classes",
    "label_noise": "label_noise replaces classes",
    "outliers": "outliers moves numbers",
    "sampler": "sampler=balanced draws each class equally often",
}
_OF_CLASSES = ("classes to predict", ("imbalance", "label_noise", "sampler"))
_TAKES = {  # by task: what the data set has, and which of these options mean something there
    "regression": ("numbers to predict", ("outliers", "standardize_target")),
    "binary": _OF_CLASSES,
    "multiclass": _OF_CLASSES,
    "multilabel": ("any number of labels per example", ("label_noise",)),
    "soft_labels": ("soft labels", ()),
}
_SPOILS = ("label_noise", "outliers")


def refuse_misfits(options: DatasetOptions, source: Source) -> None:
    """Refuse an option that means nothing for these targets.

    Raises:
        ConfigError: the first one, with the option that does the same for such targets if there is one.
    """
    has, takes = _TAKES[task_of(source)]
    for key, does in _DOES.items():
        if getattr(options, key) == getattr(DatasetOptions, key) or key in takes:
            continue
        others = [other for other in _SPOILS if key in _SPOILS and other in takes]
        mend = f"; dataset.{others[0]} spoils those" if others else ""
        raise ConfigError(f"dataset.{does}, and this data set has {has}{mend}")


def strata(source: Source, shares: SplitShares) -> NDArray[Any] | None:
    """The class of each row, or the stratum that the data set names, where these are to keep their shares."""
    if not shares.stratify or source.strata is not None:
        return source.strata if shares.stratify else None
    return source.target if task_of(source) in ("binary", "multiclass") else None
