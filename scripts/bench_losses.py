"""Cost of a loss, forward and backward, against the best public implementation on the same large tensors.

    python scripts/bench_losses.py [NAME ...] [--rounds 7] [--device cpu] [--threads 1] [--quick]

Both take turns, round after round in one process, so that a machine that slows down slows them both. Printed are the
ratio of the median times and the ratio of the peak memory above the inputs, ours / theirs. Values and gradients must
agree first. Ends with code 1 where a ratio of time is above 1.1 or one of memory above 1.05.

The tensors are of 40 MB and more: memory of that size is fresh from the system at every use, whatever ran before. Those
of the races called `small` are batches of 64 x 10, against the plain formula: for information, they fail nothing.

Needs the extra `reference`. Where no package has the loss, the rival is its published formula, written out below in the
form that papers and their code have (a one-hot matrix where they have one): these say `formula`.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of its every start otherwise

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench import losses

TIME, MEMORY = 1.1, 1.05  # the largest ratios
SMALL = 64  # rows of a usual batch
Inputs = dict[str, Tensor]
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Race:
    """A loss and its rival; both take the inputs in their order and return a scalar.

    Attributes:
        rows: and columns (none: a vector) of the model's output, the first input.
        rtol: where the rival is not exact, as an iteration cut short is not.
        repeats: so many calls are timed as one, where a single one is too short.
    """

    name: str
    ours: Loss
    rival: str
    theirs: Loss
    inputs: Callable[[int, int, str], Inputs]
    rows: int
    columns: int = 0
    rtol: float = 1e-4
    repeats: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


# Inputs


def of_classes(rows: int, columns: int, device: str) -> Inputs:
    return {
        "logits": 2 * torch.randn(rows, columns, device=device),
        "labels": torch.randint(columns, (rows,), device=device),
    }


def of_classes_with_counts(rows: int, columns: int, device: str) -> Inputs:
    counts = torch.logspace(3, 1, columns, device=device).round()
    return of_classes(rows, columns, device) | {"class_counts": counts}


def of_soft_labels(rows: int, columns: int, device: str) -> Inputs:
    return {
        "logits": 2 * torch.randn(rows, columns, device=device),
        "soft_labels": torch.randn(rows, columns, device=device).softmax(1),
    }


def of_labels(rows: int, columns: int, device: str) -> Inputs:
    shape = (rows, columns) if columns else (rows,)
    return {
        "logits": 2 * torch.randn(shape, device=device),
        "targets": (torch.rand(shape, device=device) < 0.1).float(),
    }


def of_numbers(rows: int, columns: int, device: str) -> Inputs:
    return {"pred": torch.randn(rows, device=device), "target": torch.randn(rows, device=device)}


def of_quantiles(rows: int, columns: int, device: str) -> Inputs:
    return {"pred_quantiles": torch.randn(rows, columns, device=device), "target": torch.randn(rows, device=device)}


def of_variances(rows: int, columns: int, device: str) -> Inputs:
    return of_numbers(rows, columns, device) | {"variance": torch.rand(rows, device=device) + 0.1}


def of_counts(rows: int, columns: int, device: str) -> Inputs:
    return {"log_rate": torch.randn(rows, device=device), "counts": torch.randint(9, (rows,), device=device).float()}


# The formulas of papers, for losses that no package has


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    return F.one_hot(labels, logits.shape[1]).to(logits.dtype)


def smoothed_over_others(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """As fairseq's `label_smoothed_nll_loss`."""
    log_p = logits.log_softmax(1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    share = smoothing / (logits.shape[1] - 1)
    return -((1 - smoothing - share) * own + share * log_p.sum(1)).mean()


def smoothed_by_error(logits: Tensor, labels: Tensor) -> Tensor:
    log_p = logits.log_softmax(1)
    index = labels[:, None]
    smoothing = (0.1 * (1 - log_p.gather(1, index).exp())).clamp_min(0.01).detach()
    targets = (smoothing / (logits.shape[1] - 1)).expand_as(logits).scatter(1, index, 1 - smoothing)
    return -(targets * log_p).sum(1).mean()


def generalized(logits: Tensor, labels: Tensor, q: float = 0.7) -> Tensor:
    """As the authors' code."""
    p = logits.softmax(1).gather(1, labels[:, None])
    return ((1 - p**q) / q).mean()


def symmetric(logits: Tensor, labels: Tensor) -> Tensor:
    """As the authors' code."""
    p = logits.softmax(1).clamp(min=1e-7, max=1.0)
    reverse = -(p * one_hot(labels, logits).clamp(min=1e-4, max=1.0).log()).sum(1)
    return 0.1 * F.cross_entropy(logits, labels) + reverse.mean()


def polynomial(logits: Tensor, labels: Tensor) -> Tensor:
    wrong = 1 - logits.softmax(1).gather(1, labels[:, None])
    return sum(wrong**k / k for k in range(1, 5)).mean()  # type: ignore[union-attr]


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    surprise = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-surprise).exp()) ** 2 * surprise).mean()


def poly1(logits: Tensor, labels: Tensor) -> Tensor:
    surprise = F.cross_entropy(logits, labels, reduction="none")
    return (surprise + 1 - (-surprise).exp()).mean()


def multi_margin(logits: Tensor, labels: Tensor) -> Tensor:
    short = (1 - logits.gather(1, labels[:, None]) + logits).clamp_min(0)
    return (short * (1 - one_hot(labels, logits))).sum(1).mean() / logits.shape[1]


def squared_to_one_hot(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.softmax(1) - one_hot(labels, logits)).square().sum(1).mean()


def adjusted(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    return F.cross_entropy(logits + (counts / counts.sum()).log(), labels)


def balanced(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """As the authors' code."""
    return F.cross_entropy(logits + counts[None].expand(len(logits), -1).log(), labels)


def hinge(logits: Tensor, targets: Tensor) -> Tensor:
    return (1 - (2 * targets - 1) * logits).clamp_min(0).mean()


def modified_huber(logits: Tensor, targets: Tensor) -> Tensor:
    z = (2 * targets - 1) * logits
    return torch.where(z >= -1, (1 - z).clamp_min(0).square(), -4 * z).mean()


def exponential(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.exp(-(2 * targets - 1) * logits).mean()


def multilabel_margin(logits: Tensor, targets: Tensor) -> Tensor:
    """torch's kernel, on the padded ids that it wants, made from the 0/1 targets."""
    columns = torch.arange(logits.shape[1], device=logits.device)
    ids = torch.where(targets > 0, columns, logits.shape[1]).sort(1).values
    return F.multilabel_margin_loss(logits, ids.where(ids < logits.shape[1], -1))


def log_cosh(pred: Tensor, target: Tensor) -> Tensor:
    error = pred - target
    return (error + F.softplus(-2 * error) - math.log(2)).mean()


def pinball(pred: Tensor, target: Tensor, level: float = 0.5) -> Tensor:
    error = target - pred
    return torch.maximum(level * error, (level - 1) * error).mean()


def pinballs(pred: Tensor, target: Tensor) -> Tensor:
    """As pytorch-forecasting's QuantileLoss, without its factor 2."""
    errors = [target - pred[:, i] for i in range(3)]
    values = [torch.max((q - 1) * e, q * e)[:, None] for q, e in zip((0.1, 0.5, 0.9), errors, strict=True)]
    return torch.cat(values, 1).mean()


def general_robust(pred: Tensor, target: Tensor, shape: float = 0.5) -> Tensor:
    """One shape alone, away from the special ones."""
    squared, b = (pred - target).square(), abs(shape - 2)
    return ((b / shape) * ((squared / b + 1) ** (shape / 2) - 1)).mean()


def insensitive(pred: Tensor, target: Tensor) -> Tensor:
    return ((pred - target).abs() - 0.1).clamp_min(0).mean()


def worst_mean(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).square().topk(len(pred) // 10, sorted=False).values.mean()


def mean_of(loss: Callable[..., Any], **settings: Any) -> Loss:
    """The mean that the engine takes of one of our losses."""

    def value(*fields: Tensor) -> Tensor:
        result = loss(*fields, **settings)
        return result[0].sum() / result[1].sum() if isinstance(result, tuple) else result.mean()

    return value


def races() -> Iterator[Race]:
    """Every loss whose cost is its own: not those that call one kernel of torch."""
    from kornia.losses import binary_focal_loss_with_logits, focal_loss
    from pytorch_optimizer.loss import LDAMLoss
    from pytorch_optimizer.loss.bi_tempered import bi_tempered_logistic_loss
    from timm.loss import AsymmetricLossMultiLabel, PolyCrossEntropy, SoftTargetCrossEntropy
    from torchvision.ops import sigmoid_focal_loss

    def class_focal(logits: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(logits, labels, None, 2.0, "mean") * logits.shape[1]  # kornia's mean is over classes too

    def one_column(logits: Tensor, targets: Tensor) -> Tensor:
        return binary_focal_loss_with_logits(logits[:, None], targets[:, None], reduction="mean", ignore_index=None)

    def margins(logits: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        return LDAMLoss(counts.tolist()).to(logits.device)(logits, labels)

    wide = partial(Race, inputs=of_classes, rows=16384, columns=1000)
    yield wide("focal", mean_of(losses.focal), "kornia", class_focal)
    yield wide("poly1", mean_of(losses.poly1), "timm", PolyCrossEntropy(epsilon=1.0))
    yield wide("generalized_ce", mean_of(losses.generalized_ce), "formula", generalized)
    yield wide("symmetric_ce", mean_of(losses.symmetric_ce, log_zero=math.log(1e-4)), "formula", symmetric)
    yield wide("taylor", mean_of(losses.taylor), "formula", polynomial)
    rival = partial(bi_tempered_logistic_loss, t1=0.8, t2=1.2)
    yield wide("bi_tempered", mean_of(losses.bi_tempered), "pytorch-optimizer", rival, rtol=0.02)
    yield wide("mse_onehot", mean_of(losses.mse_onehot), "formula", squared_to_one_hot)
    others = mean_of(losses.label_smoothing, others_only=True)
    yield wide("label_smoothing (others_only)", others, "formula", smoothed_over_others)
    yield wide("adaptive_label_smoothing", mean_of(losses.adaptive_label_smoothing), "formula", smoothed_by_error)
    yield wide("multi_margin", mean_of(losses.multi_margin), "torch", F.multi_margin_loss)
    tail = partial(Race, inputs=of_classes_with_counts, rows=16384, columns=1000)
    yield tail("logit_adjusted", mean_of(losses.logit_adjusted), "formula", adjusted)
    yield tail("balanced_softmax", mean_of(losses.balanced_softmax), "formula", balanced)
    yield tail("ldam", mean_of(losses.ldam), "pytorch-optimizer", margins)
    soft = partial(Race, inputs=of_soft_labels, rows=16384, columns=1000)
    yield soft("soft_cross_entropy", mean_of(losses.soft_cross_entropy), "timm", SoftTargetCrossEntropy())
    kl = mean_of(losses.kl_div)
    yield soft("kl_div", kl, "torch", lambda x, q: F.kl_div(x.log_softmax(1), q, reduction="batchmean"))

    many = partial(Race, inputs=of_labels, rows=40960, columns=256)
    asymmetric = AsymmetricLossMultiLabel(reduction="mean")
    yield many("asymmetric", mean_of(losses.asymmetric), "timm", asymmetric)
    yield many("multilabel_margin", mean_of(losses.multilabel_margin), "torch", multilabel_margin)
    flat = partial(Race, inputs=of_labels, rows=10_000_000)
    torchvision = partial(sigmoid_focal_loss, reduction="mean")
    yield flat("binary_focal", mean_of(losses.binary_focal), "torchvision", torchvision)
    yield flat("binary_focal", mean_of(losses.binary_focal), "kornia", one_column)
    yield flat("hinge", mean_of(losses.hinge), "formula", hinge)
    yield flat("modified_huber", mean_of(losses.modified_huber), "formula", modified_huber)
    yield flat("exponential", mean_of(losses.exponential), "formula", exponential)

    numbers = partial(Race, inputs=of_numbers, rows=10_000_000)
    yield numbers("log_cosh", mean_of(losses.log_cosh), "formula", log_cosh)
    yield numbers("quantile", mean_of(losses.quantile), "formula", pinball)
    fixed = mean_of(losses.AdaptiveRobust(shape=0.5, learn=False))
    yield numbers("adaptive_robust (fixed)", fixed, "formula", general_robust)
    yield numbers("epsilon_insensitive", mean_of(losses.epsilon_insensitive), "formula", insensitive)
    yield numbers("cvar", lambda p, t: losses.cvar(losses.mse(p, t)), "formula", worst_mean)
    yield Race("multi_quantile", mean_of(losses.multi_quantile), "formula", pinballs, of_quantiles, 4_000_000, 3)
    gaussian = mean_of(losses.gaussian_nll)
    yield Race("gaussian_nll", gaussian, "torch", F.gaussian_nll_loss, of_variances, 10_000_000)
    yield Race("poisson_nll", mean_of(losses.poisson_nll), "torch", F.poisson_nll_loss, of_counts, 10_000_000)

    batch = partial(Race, rows=SMALL, columns=10, repeats=500)
    yield batch("small poly1", mean_of(losses.poly1), "formula", poly1, of_classes)
    yield batch("small focal", mean_of(losses.focal), "formula", focal, of_classes)
    yield batch("small multi_margin", mean_of(losses.multi_margin), "formula", multi_margin, of_classes)
    yield batch("small asymmetric", mean_of(losses.asymmetric), "timm", asymmetric, of_labels)
    yield batch("small hinge", mean_of(losses.hinge), "formula", hinge, of_labels)
    yield batch("small modified_huber", mean_of(losses.modified_huber), "formula", modified_huber, of_labels)
    yield batch("small exponential", mean_of(losses.exponential), "formula", exponential, of_labels)
    yield batch("small log_cosh", mean_of(losses.log_cosh), "formula", log_cosh, of_numbers)
    yield batch("small poisson_nll", mean_of(losses.poisson_nll), "torch", F.poisson_nll_loss, of_counts)


# Measuring


def backward(loss: Loss, inputs: Inputs) -> Tensor:
    """The value; the gradient is left in the first input, and in a variance."""
    for tensor in inputs.values():
        tensor.grad = None
    value = loss(*inputs.values())
    value.backward()
    return value.detach()


def seconds(loss: Loss, inputs: Inputs, device: str, repeats: int) -> float:
    """On the CPU, the time that it was at work for us: what else runs there does not count."""
    clock, wait = (time.process_time, int) if device == "cpu" else (time.perf_counter, torch.cuda.synchronize)
    wait()
    start = clock()
    for _ in range(repeats):
        backward(loss, inputs)
    wait()
    return (clock() - start) / repeats


def peak(loss: Loss, inputs: Inputs, device: str) -> int:
    """Bytes above what the inputs take."""
    for tensor in inputs.values():
        tensor.grad = None
    gc.collect()
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        backward(loss, inputs)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        backward(loss, inputs)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def agree(race: Race, inputs: Inputs) -> None:
    """Ours and theirs are the same loss."""
    found = []
    for loss in (race.ours, race.theirs):
        value = backward(loss, inputs)
        found.append((value, next(iter(inputs.values())).grad))
    (value, gradient), (wanted, slope) = found
    torch.testing.assert_close(value, wanted, rtol=race.rtol, atol=1e-6)
    assert gradient is not None
    assert slope is not None
    off = (gradient - slope).norm() / slope.norm()
    assert off <= max(10 * race.rtol, 1e-3), f"{race.name}: gradients differ by {off:.2g}"


def measure(race: Race, rounds: int, device: str, shrink: int) -> tuple[float, float, float]:
    """Our median time, and the ratios of time and of memory."""
    torch.manual_seed(0)
    inputs = race.inputs(max(race.rows // shrink, SMALL), race.columns, device)
    for name in ("logits", "pred", "pred_quantiles", "log_rate", "variance"):
        if name in inputs:
            inputs[name].requires_grad_()
    agree(race, inputs)
    memory = [peak(loss, inputs, device) for loss in (race.ours, race.theirs)]
    times: list[list[float]] = [[], []]
    for round_ in range(rounds + 1):  # the first warms up
        order = ((0, race.ours), (1, race.theirs))
        for i, loss in order if round_ % 2 else reversed(order):
            took = seconds(loss, inputs, device, race.repeats)
            if round_:
                times[i].append(took)
    ours, theirs = map(statistics.median, times)
    return ours, ours / theirs, memory[0] / memory[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="losses; all by default")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--quick", action="store_true", help="a sixteenth of the rows and 3 rounds: to see that it runs"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    rounds, shrink = (3, 16) if options.quick else (options.rounds, 1)
    print(f"torch {torch.__version__}, {options.device}, {options.threads} thread(s), {rounds} rounds")
    print(f"{'loss':30} {'rival':18} {'ms':>8} {'time':>6} {'memory':>7}   (ours / theirs)")
    slow = []
    for race in races():
        if options.names and not race.name.startswith(tuple(options.names)):
            continue
        took, times, memory = measure(race, rounds, options.device, shrink)
        small = race.repeats > 1  # for information: a few microseconds a call, whose ratio a fixed cost decides
        over = (times > TIME or memory > MEMORY) and not small
        slow += [f"{race.name} against {race.rival}"] * over
        mark = "  <-- over" if over else ""
        print(
            f"{race.name:30} {race.rival:18} {took * 1e3:8.2f} {times:6.2f} {memory:7.2f}{mark}",
            flush=True,
        )
    if slow:
        sys.exit(f"over {TIME} in time or {MEMORY} in memory: {', '.join(slow)}")


if __name__ == "__main__":
    main()
