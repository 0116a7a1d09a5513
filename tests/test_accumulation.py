"""Gradient accumulation gives, over a whole run, the same updates as the large batch, to rounding.

Excepted, as nothing could be put together from the parts: losses that look at a whole batch, which are refused
(test_compose.py), and BatchNorm, whose statistics are those of each small batch.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lossbench.build import build
from lossbench.compose import compose
from lossbench.engine import train
from lossbench.observe.recorder import DeviceRecorder

BASE = ("loss@loss.terms.base=cross_entropy",)
RUN = ("optim=sgd", "optim.lr=0.1", "optim.momentum=0.9", "trainer.device=cpu", "trainer.precision=fp32")
SMALL = ("model.hidden=[16]", "model.activation=tanh", "dataset.subset=150", "trainer.epochs=3")  # no kinks


class Kept(DeviceRecorder):
    """Remembers every step's row."""

    def __init__(self, run):
        super().__init__([], device=run.device, details=len(run.player.columns) - len(run.player.settings))
        self.rows = []

    def push(self, step, epoch, lr, row, *rest):
        self.rows.append(row.clone())
        super().push(step, epoch, lr, row, *rest)


def trained(*overrides):
    """The rows of a run's steps, and its weights at the end."""
    run = build(compose(*RUN, *overrides))
    recorder = Kept(run)
    train(run.player, run.batches, run.length, lambda: {"val": run.evaluate(run.data.val)}, recorder, run.best)
    return torch.stack(recorder.rows), torch.cat([p.detach().flatten() for p in run.player.parameters])


@pytest.fixture
def weighted(tmp_path):
    """A table with a number to predict and a weight for each example; a quarter of the weights is 0."""
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.normal(size=(150, 3)), rng.gamma(1, size=150) * (rng.random(150) < 0.75)])
    path = tmp_path / "weighted.csv"
    np.savetxt(path, rows, delimiter=",", header="a,b,y,w", comments="", fmt="%.4f")
    return ("dataset=csv", f"dataset.path={path}", "dataset.target=y", "dataset.weight=w", "loss=mse")


def assert_the_same(large, small):
    (rows, wanted), (found_rows, found) = large, small
    assert len(rows) > 6
    torch.testing.assert_close(found_rows, rows, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(found, wanted, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ("loss=cross_entropy",),
        ("loss=cross_entropy", "loss.weight=balanced", "loss.ignore_index=3"),
        ("loss=cross_entropy", "loss.ignore_index=3", "trainer.clip_norm=0.5"),
        ("loss=focal", "trainer.clip_value=0.01"),
        ("loss=regularized", "loss.l2=0.1", *BASE, "trainer.clip_norm=0.5"),
        ("loss=focal", "trainer.reduction=sum", "optim.lr=0.002"),
    ],
)
def test_a_run_of_accumulated_batches_is_that_of_large_ones(overrides):
    assert_the_same(
        trained(*SMALL, *overrides, "trainer.batch_size=48"),
        trained(*SMALL, *overrides, "trainer.batch_size=12", "trainer.accumulate=4"),
    )


@pytest.mark.parametrize("clip", [(), ("trainer.clip_norm=0.2",)])
def test_a_run_with_a_weight_for_each_example_is_that_of_large_batches(weighted, clip):
    assert_the_same(
        trained(*SMALL[:2], *weighted, *clip, "trainer.epochs=3", "trainer.batch_size=32"),
        trained(*SMALL[:2], *weighted, *clip, "trainer.epochs=3", "trainer.batch_size=8", "trainer.accumulate=4"),
    )


def test_batch_norm_sees_the_small_batches():
    overrides = (*SMALL, "model.norm=batch", "trainer.drop_last=true")
    _, large = trained(*overrides, "trainer.batch_size=48")
    _, small = trained(*overrides, "trainer.batch_size=12", "trainer.accumulate=4")
    assert (large - small).abs().max() > 1e-2
