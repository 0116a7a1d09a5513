"""What every loss reaches on the preset that its card names, and on one of each further task that it fits.

    python scripts/loss_table.py [--losses focal,huber] [--seeds 3] [--quick] [--short]

All losses of a preset are compared by the metric that the preset itself monitors, on the test split, over seeds: never
by their values. Beside it stand what the untrained model has, and what a constant has (trivial): the shares of the
classes, the mean (for mae the median) or the quantiles of the training targets. Each preset is also run with its own
loss and with its task's usual one, `default`.

Fails (exit code 1) where a loss does not recover half of the gap between the constant and the best of its preset, or
takes longer than 10 seconds of the processor for three seeds. --short prints Markdown.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossbench import catalog
from lossbench.build import Run, build
from lossbench.compose import compose
from lossbench.engine import train
from lossbench.errors import Diverged
from lossbench.observe.recorder import DeviceRecorder
from lossbench.tasks import Multiclass, Regression

ENOUGH = 0.5  # of the gap between the constant and the best
SECONDS = 10 / 3  # of the processor, for one training
USUAL = "default"
MEASURES = ("zero_one",)  # which nothing can be trained with
OF_TERMS = ("sum", "uncertainty")  # only their own preset names the terms
# What a loss needs beside the preset; None where they do not go together: no quantiles to measure, no groups.
SPECIAL: dict[tuple[str, str], tuple[str, ...] | None] = {
    (USUAL, "sum"): ("~loss.terms",),
    (USUAL, "quantiles"): None,
    ("group_dro", "regression"): ("dataset.group=sex",),
    ("group_dro", "multilabel"): None,
}


@dataclass(frozen=True)
class Preset:
    """What all losses of a preset share.

    Attributes:
        loss: its own.
        metric: what it monitors, of which more is better where `sign` is 1, and less where it is -1.
        trivial: what a constant has of it.
    """

    name: str
    loss: str
    metric: str
    sign: int
    trivial: float


@dataclass(frozen=True)
class Row:
    """A loss on a preset: the metric before and after the training, of each seed."""

    loss: str
    preset: Preset
    before: Sequence[float]
    after: Sequence[float]
    seconds: float  # of the processor, for one training

    @property
    def mean(self) -> float:
        return statistics.fmean(self.after)

    @property
    def deviation(self) -> float:
        return statistics.stdev(self.after) if len(self.after) > 1 else 0.0


def composed(preset: str, *overrides: str) -> Run:
    return build(compose(f"experiment={preset}", "trainer.device=cpu", *overrides))


def plan(asked: Sequence[str]) -> dict[str, list[str]]:
    """The losses of each preset: those asked for (none: all), the preset's own and the task's usual one."""
    found: dict[str, list[str]] = {}
    for card in catalog.cards("loss"):
        if card.name not in (USUAL, *MEASURES) and card.name in (asked or [card.name]):
            for preset in presets_of(card):
                found.setdefault(preset, []).append(card.name)
    for name, losses in found.items():
        usual = [] if SPECIAL.get((USUAL, name), ()) is None else [USUAL]
        found[name] = list(dict.fromkeys((own_loss(name), *losses, *usual)))
    return dict(sorted(found.items()))


def presets_of(card: catalog.Card) -> list[str]:
    """The preset that a card names and, for each further task that the loss fits, the preset of the task's name."""
    tasks = set(card.fits) - set(catalog.card("experiment", card.preset).fits)
    others = [] if card.name in OF_TERMS else sorted(tasks & set(catalog.names("experiment")))
    return [name for name in (card.preset, *others) if SPECIAL.get((card.name, name), ()) is not None]


def own_loss(preset: str) -> str:
    return compose(f"experiment={preset}").choices["loss"]


def load(name: str, seeds: range) -> Preset:
    runs = [composed(name, f"seed={seed}") for seed in seeds]
    best = runs[0].best
    sign = 1 if best.direction == "max" else -1
    trivial = statistics.fmean(constant_score(run, best.metric) for run in runs)
    return Preset(name, runs[0].config.choices["loss"], best.metric, sign, trivial)


def constant_score(run: Run, metric: str) -> float:
    """The metric of a model that gives the same for every input, on the test split."""
    task, split, outputs = run.data.task, run.data.test, constant(run, metric)
    batch = {"input": split.inputs, "target": split.target}
    fields = task.forward(lambda inputs: outputs.expand(len(inputs), -1), batch, task.measured)
    return float(task.metrics(fields)[metric])


def constant(run: Run, metric: str) -> Tensor:  # (outputs,)
    """What the training targets say without the inputs."""
    task, target = run.data.task, run.data.train.target
    if isinstance(task, Multiclass):
        return torch.tensor(task.class_counts).log()
    if not isinstance(task, Regression):
        return target.float().mean(0).logit().reshape(-1)
    if task.head == "quantiles":
        return target.quantile(torch.tensor(task.levels))
    if task.head == "log_rate":
        return torch.zeros(1)  # outputs are in proportion to the mean
    return (target.median() if metric == "mae" else target.mean())[None]


def row(preset: Preset, loss: str, seeds: range) -> Row:
    """A loss on a preset; NaN where a training diverged."""
    asked = () if loss == preset.loss else (f"loss={loss}", *(SPECIAL.get((loss, preset.name)) or ()))
    started, before, after = time.process_time(), [], []
    for seed in seeds:
        run = composed(preset.name, *asked, f"seed={seed}")
        before.append(run.evaluate(run.data.test)[preset.metric])
        after.append(trained(run)[preset.metric])
    return Row(loss, preset, before, after, (time.process_time() - started) / len(seeds))


def trained(run: Run) -> dict[str, float]:
    """The test metrics of the weights that are best on the validation split; no files are written."""
    recorder = DeviceRecorder([], device=run.device, details=len(run.player.columns) - len(run.player.settings))
    try:
        train(run.player, run.batches, run.length, lambda: {"val": run.evaluate(run.data.val)}, recorder, run.best)
    except Diverged:
        return dict.fromkeys(run.data.task.directions, math.nan)
    run.best.restore()
    return dict(run.evaluate(run.data.test))


def recovered(row: Row, best: float) -> float:
    """The share of the gap between the constant and the best."""
    return (row.mean - row.preset.trivial) / (best - row.preset.trivial)


def best_of(rows: Sequence[Row]) -> float:
    reached = [row.mean for row in rows if not math.isnan(row.mean)]
    return (max if rows[0].preset.sign > 0 else min)(reached)


def failures(rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with the losses of a preset; its task's usual loss is there to compare with."""
    best, preset = best_of(rows), rows[0].preset
    if preset.sign * (best - preset.trivial) <= 0:
        yield f"{preset.name}: no loss is better than a constant"
        return
    for row in rows:
        share = recovered(row, best)
        if row.loss != USUAL and not share >= ENOUGH:  # NaN is not
            yield f"{row.loss} on {preset.name} recovers {share:.0%} of the gap"
        if row.seconds > SECONDS:
            yield f"{row.loss} on {preset.name} takes {row.seconds:.1f} s for one training"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", type=lambda text: text.split(","), default=[], help="some losses, not all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--short", action="store_true", help="a Markdown table with a line per preset")
    options = parser.parse_args()
    seeds = range(1 if options.quick else options.seeds)
    torch.set_num_threads(1)
    wrong: list[str] = []
    print(SHORT_HEAD if options.short else HEAD)
    for name, losses in plan(options.losses).items():
        preset = load(name, seeds)
        rows = [row(preset, loss, seeds) for loss in losses]
        print(short(rows) if options.short else long(rows), flush=True)
        wrong += failures(rows)
    for name in MEASURES if not options.short else ():
        print(f"{name:24} {'-':13} a measure, not trained with: {catalog.card('loss', name).summary}")
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    sys.exit(bool(wrong))


HEAD = (
    f"{'loss':24} {'preset':13} {'metric':17} untrained  trivial    after  +- sd over seeds    best  recovered  CPU s"
)
SHORT_HEAD = "| preset | metric | constant | losses, best first |\n|---|---|---|---|"


def ordered(rows: Sequence[Row]) -> list[Row]:
    """Best first, those that diverged last."""
    return sorted(rows, key=lambda row: (math.isnan(row.mean), -row.preset.sign * row.mean))


def long(rows: Sequence[Row]) -> str:
    best = best_of(rows)
    return "\n".join(
        f"{row.loss:24} {row.preset.name:13} {row.preset.metric:17} {statistics.fmean(row.before):9.3f} "
        f"{row.preset.trivial:8.3f} {row.mean:8.3f} +- {row.deviation:<11.3f} {best:9.3f} {recovered(row, best):10.0%} "
        f"{row.seconds:6.1f}"
        for row in ordered(rows)
    )


def short(rows: Sequence[Row]) -> str:
    preset = rows[0].preset
    reached = ", ".join(f"{row.loss} {row.mean:.3g}" for row in ordered(rows))
    return f"| {preset.name} | {preset.metric} | {preset.trivial:.3g} | {reached} |"


if __name__ == "__main__":
    main()
