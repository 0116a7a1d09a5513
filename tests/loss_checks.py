"""How the tests of losses compare numbers."""

import torch

from lossbench.engine.objective import Term, reduce


def equal(actual, expected):
    """To 1e-9 relative, in the type of `actual`."""
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=1e-9, atol=1e-12)


def tensor(values):
    return None if values is None else torch.tensor(values, dtype=torch.float64)


def mean(result):
    """The mean that the engine takes of what a loss gives."""
    values, weights = result if isinstance(result, tuple) else (result, None)
    return reduce([Term("loss", 1.0, values, weights)])


def same_with_gradient(ours, theirs, inputs):
    """Both functions of `inputs` have the same value and the same gradient."""
    x, y = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    a, b = ours(x), theirs(y)
    equal(a, b.detach())
    equal(torch.autograd.grad(a, x)[0], torch.autograd.grad(b, y)[0])
