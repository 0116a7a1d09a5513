"""The forms that a classifier's output may have, which of them a loss's needs ask for, and the fields in each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor

from lossbench.errors import ConfigError

Output = Literal["logits", "sigmoid", "softmax", "log_softmax"]

FIELD: Mapping[Output, str] = {
    "logits": "logits",
    "sigmoid": "probs",
    "softmax": "probs",
    "log_softmax": "log_probs",
}
YES_OR_NO: tuple[Output, ...] = ("logits", "sigmoid")
ONE_OF_MANY: tuple[Output, ...] = ("logits", "softmax", "log_softmax")
LOWEST = -100.0  # of a logarithm of a probability, as torch's binary_cross_entropy has it

_WORDS = {"logits": "logits", "probs": "probabilities", "log_probs": "log-probabilities"}
_TAKE = {
    ("binary", "logits"): "bce",
    ("binary", "probs"): "bce_probs",
    ("multilabel", "logits"): "bce",
    ("multilabel", "probs"): "bce_probs",
    ("multiclass", "logits"): "cross_entropy",
    ("multiclass", "log_probs"): "nll",
    ("soft_labels", "logits"): "cross_entropy",
}


def form_for(task: str, forms: tuple[Output, ...], needs: Collection[str], stated: Output | None) -> Output:
    """The output form that a loss's needs ask for: probabilities of the model's own where it takes nothing else.

    Raises:
        ConfigError: `model.output` states another.
    """
    if stated is not None and stated not in forms:
        raise ConfigError(f"model.output={stated} does not go with task {task}, which takes {', '.join(forms)}")
    asked = {FIELD[form]: form for form in forms if FIELD[form] in needs}
    if not asked:
        return stated or "logits"
    wanted = next(iter(asked.values())) if len(asked) == 1 else "logits"
    if stated not in (None, wanted):
        gives = FIELD[stated]
        other = f", or take loss={_TAKE[task, gives]}" if (task, gives) in _TAKE else ""
        raise ConfigError(
            f"the loss takes {_WORDS[FIELD[wanted]]}, and model.output={stated} gives {_WORDS[gives]}; "
            f"leave model.output out{other}"
        )
    return wanted


def binary_fields(raw: Tensor, form: Output) -> dict[str, Callable[[], Tensor]]:
    """Logits and probabilities of yes."""
    if form == "logits":
        return {"logits": lambda: raw, "probs": raw.sigmoid}
    return {"logits": lambda: raw.log().clamp_min(LOWEST) - torch.log1p(-raw).clamp_min(LOWEST), "probs": lambda: raw}


def class_fields(raw: Tensor, form: Output) -> dict[str, Callable[[], Tensor]]:
    """Logits, log-probabilities and probabilities of each class; of probabilities, the logits are their logarithms."""
    if form == "logits":
        return {
            "logits": lambda: raw,
            "log_probs": lambda: raw.log_softmax(1),
            "probs": lambda: raw.softmax(1),
        }
    if form == "log_softmax":
        return {"logits": lambda: raw, "log_probs": lambda: raw, "probs": raw.exp}
    return {
        "logits": lambda: raw.log().clamp_min(LOWEST),
        "log_probs": lambda: raw.log().clamp_min(LOWEST),
        "probs": lambda: raw,
    }
