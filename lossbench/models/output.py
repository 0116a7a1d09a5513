"""The activation that a model ends in, by the output form that its loss takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

_ACTIVATIONS: Mapping[str, tuple[type[nn.Module], Callable[[], nn.Module]]] = {
    "sigmoid": (nn.Sigmoid, nn.Sigmoid),
    "softmax": (nn.Softmax, lambda: nn.Softmax(-1)),
    "log_softmax": (nn.LogSoftmax, lambda: nn.LogSoftmax(-1)),
}


def with_output(model: nn.Module, form: str) -> nn.Module:
    """The model with the activation of an output form behind it, unless it ends in that already.

    Logits are left as they are. A plain `nn.Sequential` keeps its weights' names.
    """
    if form == "logits":
        return model
    kind, make = _ACTIVATIONS[form]
    *_, last = model.modules()
    if isinstance(last, kind):
        return model
    if isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward:
        return model.append(make())
    return nn.Sequential(model, make())
