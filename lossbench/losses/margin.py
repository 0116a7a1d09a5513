"""Losses on 0/1 targets that look at the margin y s: the logit s, with the sign y = -1 or +1 of its target.

A target t between 0 and 1 stands for an example that has the label 1 with probability t: its loss is the mean over
the two labels, t f(s) + (1 - t) f(-s), as binary cross-entropy has it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from torch import Tensor

from lossbench.losses.binary import bce
from lossbench.losses.fused import elementwise
from lossbench.losses.shape import EXP_LIMIT, at_least_float32, exp_linear_plain, per_example, same_shape

Margin = Annotated[float, "[0, inf)"]


def hinge(logits: Tensor, targets: Tensor, *, margin: Margin = 1.0) -> Tensor:
    """Hinge loss of the support vector machine, max(0, m - y s), with y = -1 or +1 made from the 0/1 target.

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1] (between them: the mean over both labels); returns
    (N,), the mean over an example's labels.
    Hyperparameters: `margin` m, how far on its side a logit must be to cost nothing; 0 is the perceptron's loss.
    Source: Cortes and Vapnik 1995, "Support-Vector Networks"; equals scikit-learn's `hinge_loss`. It is not torch's
    `hinge_embedding_loss`, which is about distances.
    """

    def loss(s: Tensor) -> Tensor:
        beyond = s - margin
        return beyond.relu() - beyond

    # At the margin itself the slope is -1, as in scikit-learn: with margin 0 a model could not leave 0 otherwise.
    return _by_margin(loss, lambda s: -(s <= margin).to(s.dtype), logits, targets)


def squared_hinge(logits: Tensor, targets: Tensor, *, margin: Margin = 1.0) -> Tensor:
    """The hinge loss squared, max(0, m - y s)^2: smooth where the margin is reached.

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1] (between them: the mean over both labels); returns
    (N,), the mean over an example's labels.
    Hyperparameters: `margin` m, how far on its side a logit must be to cost nothing.
    Source: Lee and Mangasarian 2001, "SSVM: A Smooth Support Vector Machine"; as scikit-learn's `SGDClassifier`.
    """
    return _by_margin(lambda s: (margin - s).relu_().square(), lambda s: -2 * (margin - s).relu(), logits, targets)


def modified_huber(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared hinge that turns linear on the far wrong side: max(0, 1 - y s)^2 where y s >= -1, else -4 y s.

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1] (between them: the mean over both labels); returns
    (N,), the mean over an example's labels.
    Source: Zhang 2004, "Statistical Behavior and Consistency of Classification Methods"; as scikit-learn's
    `SGDClassifier`. (clip(s, -1, 1) + 1) / 2 estimates the probability.
    """

    def loss(s: Tensor) -> Tensor:
        short = 1 - s
        near = short.clamp(0, 2)
        return (2 * short - near) * near

    return _by_margin(loss, lambda s: -2 * (1 - s).clamp(0, 2), logits, targets)


def exponential(logits: Tensor, targets: Tensor) -> Tensor:
    """The exponential loss that AdaBoost minimises, exp(-y s), continued by its tangent where -y s > 30.

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1] (between them: the mean over both labels); returns
    (N,), the mean over an example's labels.
    Source: Freund and Schapire 1997; Friedman, Hastie and Tibshirani 2000, "Additive Logistic Regression". Its minimum
    is at half the log-odds: sigmoid(2 s) estimates the probability.
    """
    return _by_margin(lambda s: exp_linear_plain(-s), lambda s: -(-s).clamp_max(EXP_LIMIT).exp(), logits, targets)


def soft_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """Logistic loss on the margin, log(1 + exp(-y s)): `bce` in the margin's words, and the same number.

    Shapes: logits and targets (N,) or (N, K), targets in [0, 1] (between them: the mean over both labels); returns
    (N,), the mean over an example's labels.
    Source: Cox 1958; equals `torch.nn.functional.soft_margin_loss` on targets -1 and +1, which is infinite from y s of
    about -89 in float32, where this one is not.
    """
    return bce(logits, targets)


def _by_margin(
    loss: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], logits: Tensor, targets: Tensor
) -> Tensor:
    """The mean over both labels of the loss of the margin, and over an example's labels."""
    both = elementwise(
        lambda s, t: torch.lerp(loss(-s), loss(s), t),
        lambda s, t: torch.lerp(-slope(-s), slope(s), t),
    )
    same_shape(logits, targets)
    logits = at_least_float32(logits)
    return per_example(both(logits, targets.to(logits.dtype)))
