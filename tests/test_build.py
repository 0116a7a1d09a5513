"""From a config to a run: what the seed decides, what words become, and what defaults reach."""

from __future__ import annotations

import json

import pytest
import torch

from lossbench.build import build
from lossbench.compose import compose
from lossbench.run import execute


def make(*overrides):
    return build(compose(*overrides))


def trained(tmp_path, *overrides):
    return execute(make(*overrides), tmp_path, overrides, brief=True)


def test_the_seed_decides_split_weights_and_order_and_nothing_else_does():
    runs = [make(), make("loss=focal", "optim=sgd", "scheduler=cosine", "trainer.epochs=7", "trainer.clip_norm=1")]
    other = make("seed=1")
    for get in (
        lambda r: r.data.train.rows,
        lambda r: r.data.test.rows,
        lambda r: r.batches.order(3),
        lambda r: next(iter(r.player.model.parameters())),
    ):
        assert torch.equal(get(runs[0]), get(runs[1]))
        assert not torch.equal(get(runs[0]), get(other))


def test_dropout_is_the_same_for_every_loss():
    def noise(*overrides):
        run = make("model.dropout=0.5", *overrides)
        return run.player.model(next(run.batches.epoch(0))[0]["input"])

    assert torch.equal(noise("loss=cross_entropy"), noise("loss=focal", "optim=sgd"))


def test_balanced_reads_the_training_labels_only():
    run = make("loss.weight=balanced", "dataset.imbalance=0.1")
    labels = run.data.train.target
    counts = torch.bincount(labels, minlength=10)
    weight = run.player.objective.parts[0].function.keywords["weight"]
    torch.testing.assert_close(weight, len(labels) / (10 * counts.float()))


def test_balanced_on_binary_targets():
    targets = make("dataset=breast_cancer").data.train.target
    share = targets.mean().item()
    alpha = make("dataset=breast_cancer", "loss=focal", "loss.alpha=balanced").player.objective.parts[0]
    assert alpha.function.keywords["alpha"].item() == pytest.approx(1 - share)
    weight = make("dataset=breast_cancer", "loss=bce", "loss.pos_weight=balanced").player.objective.parts[0]
    assert weight.function.keywords["pos_weight"].item() == pytest.approx((1 - share) / share)


def test_auto_alpha_is_each_functions_own_default():
    assert "alpha" not in make("loss=focal").player.objective.parts[0].function.keywords
    assert (
        make("dataset=breast_cancer", "loss=focal", "loss.alpha=null")
        .player.objective.parts[0]
        .function.keywords["alpha"]
        is None
    )


def test_trying_the_model_leaves_it_as_it_was():
    """The probe runs a batch through model and loss: BatchNorm's statistics and random state must not show it."""
    run = make("model=cnn")
    norm = next(m for m in run.player.model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert norm.num_batches_tracked.item() == 0
    assert run.player.model.training
    assert all(p.grad is None for p in run.player.parameters)


@pytest.mark.parametrize(
    ("dataset", "monitor"), [("digits", "accuracy"), ("breast_cancer", "accuracy"), ("diabetes", "rmse")]
)
def test_monitor_is_the_tasks_own(dataset, monitor):
    assert make(f"dataset={dataset}").best.metric == monitor


def test_summary_has_the_metrics_of_the_best_weights(tmp_path):
    run = make("trainer.epochs=6", "optim.lr=0.01")
    summary = execute(run, tmp_path, [], brief=True)
    assert summary["metrics"]["val"]["accuracy"] == pytest.approx(summary["best"]["value"])
    assert run.evaluate(run.data.test) == summary["metrics"]["test"]
    assert json.loads((tmp_path / "summary.json").read_text())["metrics"] == summary["metrics"]


def test_length_in_steps_and_evaluations_in_steps(tmp_path):
    summary = trained(tmp_path, "trainer.steps=25", "trainer.eval_every=10")
    evaluations = [line.split(",")[0] for line in (tmp_path / "evals.csv").read_text().splitlines()[1::2]]
    assert (summary["steps"], evaluations) == (25, ["10", "20", "25"])


def test_early_stop(tmp_path):
    summary = trained(tmp_path, "trainer.epochs=1000", "trainer.early_stop=2")
    assert summary["reason"] == "early_stop"
    assert summary["epochs"] < 1000


def test_max_time(tmp_path):
    summary = trained(tmp_path, "trainer.epochs=100000", "trainer.max_time=0.2")
    assert summary["reason"] == "max_time"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_learns(tmp_path, precision):
    summary = trained(tmp_path, f"trainer.precision={precision}", "trainer.epochs=10")
    assert summary["metrics"]["test"]["accuracy"] > 0.9


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_learns(tmp_path, precision):
    summary = trained(tmp_path, "trainer.device=cuda", f"trainer.precision={precision}", "model=cnn")
    assert summary["metrics"]["test"]["accuracy"] > 0.95
    assert summary["precision"] == precision


def test_deterministic_sets_and_releases_the_flag():
    make("trainer.deterministic=true")
    assert torch.are_deterministic_algorithms_enabled()
    make()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch 2.10's compiler has some of its own
def test_compile(tmp_path):
    compiled = trained(tmp_path / "a", "trainer.compile=true", "trainer.steps=5")
    plain = trained(tmp_path / "b", "trainer.steps=5")
    assert compiled["metrics"]["val"]["nll"] == pytest.approx(plain["metrics"]["val"]["nll"], rel=1e-3)


@pytest.mark.slow
def test_defaults_are_good_ones():
    """Means of seeds 0 to 4; the same check as scripts/defaults.py."""
    import runpy
    from pathlib import Path

    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "defaults.py"), run_name="__main__")
    assert not end.value.code
