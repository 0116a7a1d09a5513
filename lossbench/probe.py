"""A few training examples through data, model and loss, before anything is written: what does not fit is refused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lossbench.config import Config
from lossbench.data import Data, gather
from lossbench.engine import Objective, Term, reduce
from lossbench.engine.buffers import Buffers
from lossbench.engine.precision import Cast
from lossbench.errors import ConfigError, LossbenchError, first_line, refuse_memory
from lossbench.tasks import Batch


def probe(config: Config, model: nn.Module, objective: Objective, data: Data, cast: Cast) -> None:
    """Run a few training examples forward and backward. Leaves random state, buffers and gradients as they were.

    Raises:
        ConfigError: the model cannot take the data, its output or the loss has the wrong shape, the loss does not
            depend on the parameters, or BatchNorm would meet a batch of one example.
    """
    batch = next(gather(data.train, torch.arange(min(4, len(data.train))), 4))
    if not batch["input"].is_floating_point():
        raise ConfigError(f"inputs must be floating point, got {batch['input'].dtype}; divide images by 255 first")
    modules = [model, objective.modules]
    buffers = Buffers(modules)
    cuda = [batch["input"].device] if batch["input"].is_cuda else []
    model.eval()
    with torch.random.fork_rng(devices=cuda):
        output = _output(config, model, data, batch, cast)
        _check_scale(config, data, output)
        terms = _terms(config, objective, data, batch, output)
        _check_moves(config, reduce(terms, objective.reduction), modules)
    model.train()
    buffers.restore()
    _check_batch_norm(config, model, data)


def _output(config: Config, model: nn.Module, data: Data, batch: Batch, cast: Cast) -> Tensor:
    name, n = config.model.name, len(batch["index"])
    try:
        with cast():
            output = model(batch["input"])
    except Exception as error:
        refuse_memory(error)
        shape = tuple(batch["input"].shape)
        raise ConfigError(f"model '{name}' cannot take inputs of shape {shape}: {first_line(error)}") from error
    if not isinstance(output, Tensor):
        raise ConfigError(f"model '{name}' must give a tensor, got {type(output).__name__}")
    if tuple(output.shape) != (n, data.task.outputs):
        raise ConfigError(
            f"model '{name}' gives shape {tuple(output.shape)} for {n} examples; "
            f"dataset '{config.dataset.name}' needs ({n}, {data.task.outputs})"
        )
    return output


def _check_scale(config: Config, data: Data, output: Tensor) -> None:
    """Refuse probabilities where logits are wanted, and torch's losses on log-probabilities where there are logits."""
    if data.task.output != "logits" or data.task.name != "multiclass" or not output.isfinite().all():
        return
    loss, model, output = config.loss, config.model.name, output.float()
    of_logs = (nn.NLLLoss, nn.functional.nll_loss, nn.KLDivLoss, nn.functional.kl_div)
    is_log = any(call.target in of_logs for call in loss.calls)
    ones = torch.ones(len(output), device=output.device)
    if bool((output >= 0).all()) and torch.allclose(output.sum(1), ones, atol=1e-3):
        raise ConfigError(
            f"model '{model}' ends in a softmax (its outputs are probabilities), and loss '{loss.name}' takes "
            f"{'log-probabilities' if is_log else 'logits'}: take the softmax out"
        )
    if is_log and not torch.allclose(output.logsumexp(1).exp(), ones, atol=1e-3):
        raise ConfigError(
            f"loss '{loss.name}' takes log-probabilities, and model '{model}' gives logits; "
            "loss=cross_entropy takes them"
        )


def _terms(config: Config, objective: Objective, data: Data, batch: Batch, output: Tensor) -> list[Term]:
    try:
        fields = data.task.forward(lambda _: output, batch, objective.needs)
        terms, penalties = objective.terms(fields), objective.penalties()
    except LossbenchError:
        raise
    except Exception as error:
        refuse_memory(error)
        raise ConfigError(f"loss '{config.loss.name}': {first_line(error)}") from error
    for term in terms:
        _check_term(term, len(batch["index"]))
    if config.trainer.accumulate > 1:
        _check_accumulates(config.loss.name, objective, terms)
    if objective.reduction == "sum" and _normalizes(objective):
        raise ConfigError("loss.normalize divides by the mean loss of a step; set trainer.reduction=mean")
    return [*terms, *penalties]


def _normalizes(objective: Objective) -> bool:
    return any(getattr(part, "normalize", False) for part in objective.parts)


def _check_accumulates(loss: str, objective: Objective, terms: list[Term]) -> None:
    """Refuse what cannot be put together from several batches as if they were one."""
    for term in terms:
        if term.values.dim() == 0:
            name = term.name if len(terms) > 1 else loss
            raise ConfigError(f"loss '{name}' gives a scalar, and trainer.accumulate needs a value per example")
    if len(terms) > 1 and any(term.weights is not None for term in terms):
        names = ", ".join(term.name for term in terms)
        raise ConfigError(
            f"trainer.accumulate takes one weighted loss, and there are several ({names}); set trainer.accumulate=1"
        )
    if _normalizes(objective):
        raise ConfigError("loss.normalize divides by the loss of a whole step; set trainer.accumulate=1")


def _check_term(term: Term, n: int) -> None:
    """Values are floating-point numbers, one per example or a scalar; weights go with values per example."""
    for found in (term.values,) if term.weights is None else (term.values, term.weights):
        if not isinstance(found, Tensor) or not found.is_floating_point():
            kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"loss '{term.name}' must give a tensor of floating-point numbers, got {kind}")
    if term.values.dim() == 0 and (term.weights is None or term.weights.dim() == 0):
        return
    if tuple(term.values.shape) != (n,):
        raise ConfigError(
            f"loss '{term.name}' gives values of shape {tuple(term.values.shape)} for {n} examples; "
            f"it must give one per example, ({n},), or a scalar"
        )
    if term.weights is not None and tuple(term.weights.shape) != (n,):
        raise ConfigError(
            f"loss '{term.name}' gives weights of shape {tuple(term.weights.shape)} for {n} examples; "
            f"it must give one per example, ({n},)"
        )


def _check_moves(config: Config, total: Tensor, modules: list[nn.Module]) -> None:
    found = [(name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad]
    for name, parameter in found:
        if parameter.is_complex():
            raise ConfigError(
                f"parameter '{name}' is complex, which optimizers here do not take: hold it as a real one with a last "
                "dimension of 2, and torch.view_as_complex it in forward"
            )
    trained = [parameter for _, parameter in found]
    gradients = torch.autograd.grad(total, trained, allow_unused=True) if total.requires_grad else ()
    for (name, _), gradient in zip(found, gradients, strict=False):
        if gradient is not None and gradient.layout != torch.strided:
            raise ConfigError(
                f"the gradient of '{name}' is sparse, which clipping, guard and optimizers here do not take: "
                "set sparse=False in its nn.Embedding"
            )
    if all(gradient is None for gradient in gradients):
        name = config.loss.name
        raise ConfigError(f"loss '{name}' does not depend on the model's parameters: nothing would be learned")


def _check_batch_norm(config: Config, model: nn.Module, data: Data) -> None:
    """BatchNorm has no variance to divide by in a batch of one example."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return
    size, rows = config.trainer.batch_size, len(data.train)
    if size == 1:
        raise ConfigError("trainer.batch_size=1 leaves BatchNorm nothing to average; use at least 2")
    if rows % size == 1 and not config.trainer.drop_last:
        raise ConfigError(
            f"{rows} training rows in batches of {size} leave a last batch of 1 example, which BatchNorm cannot take; "
            "set trainer.drop_last=true or another trainer.batch_size"
        )
