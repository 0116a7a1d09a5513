"""Every preset: alone, and with each loss of its task."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import hydra
import pytest
import yaml

from lossbench import catalog
from lossbench.build import build
from lossbench.compose import check_composed, compose
from lossbench.engine import train
from lossbench.observe.recorder import DeviceRecorder

ABSENT = ("cifar10", "mnist")  # whose files a test does not have
OFFLINE = [name for name in catalog.names("experiment") if name not in ABSENT]
OF_TERMS = ("sum", "uncertainty")
UNSUITED = {  # these data name no groups, these targets are no counts, and a point has one output and no weights
    ("regression", "group_dro"),
    ("outliers", "group_dro"),
    ("quantiles", "group_dro"),
    ("counts", "group_dro"),
    ("multilabel", "group_dro"),
    ("outliers", "poisson_nll"),
    ("quantiles", "poisson_nll"),
    ("quadratic", "group_dro"),
    ("quadratic", "poisson_nll"),
    *(("rosenbrock", loss) for loss in ("group_dro", "poisson_nll", "multi_quantile", "gaussian_nll", "regularized")),
}


def task(preset):
    (found,) = catalog.card("experiment", preset).fits
    return found


def losses(preset):
    """Those that it can be tried with."""
    trainable = set(catalog.losses_for(task(preset))) - {"zero_one", *OF_TERMS}
    return sorted(loss for loss in trainable if (preset, loss) not in UNSUITED)


@cache
def composed(word):
    with hydra.initialize_config_dir(str(catalog.conf_dir()), version_base="1.3"):
        return hydra.compose("config", overrides=[word], return_hydra_config=True)


def with_loss(preset, loss):
    """What `experiment=PRESET loss=LOSS` composes, in a tenth of the time: the one's loss in the other's place."""
    cfg, other = deepcopy(composed(f"experiment={preset}")), composed(f"loss={loss}")
    cfg.loss = other.loss
    kept = {key: value for key, value in cfg.hydra.runtime.choices.items() if not key.startswith("loss")}
    chosen = {key: value for key, value in other.hydra.runtime.choices.items() if key.startswith("loss")}
    cfg.hydra.runtime.choices = kept | chosen
    return cfg


def trained(config):
    """A run after its steps, and its recorder; the evaluation at the end is of the validation split."""
    run = build(config)
    details = len(run.player.columns) - len(run.player.settings)
    recorder = DeviceRecorder([], device=run.device, details=details)
    train(run.player, run.batches, run.length, lambda: {"val": run.evaluate(run.data.val)}, recorder, run.best)
    return run, recorder


@pytest.mark.parametrize("name", OFFLINE)
def test_a_preset_trains(name):
    run, recorder = trained(compose(f"experiment={name}", "trainer.steps=3", "trainer.device=cpu"))
    assert run.data.task.name == task(name)
    assert recorder.last.step == 3
    assert not any(recorder.skipped.values())
    assert run.best.value == run.best.value


@pytest.mark.parametrize("name", [name for name in OFFLINE if name != "sum"])
def test_a_preset_goes_with_every_loss_of_its_task(name):
    for loss in losses(name):
        cfg = with_loss(name, loss)
        cfg.trainer.steps, cfg.trainer.device = 1, "cpu"
        run, recorder = trained(check_composed(cfg))
        assert (run.config.choices["loss"], recorder.last.skipped) == (loss, ""), loss


def test_the_preset_of_a_sum_goes_with_losses_that_are_made_of_terms():
    run, recorder = trained(compose("experiment=sum", "loss=uncertainty", "trainer.steps=1", "trainer.device=cpu"))
    assert (run.config.choices["loss"], recorder.last.skipped) == ("uncertainty", "")


@pytest.mark.parametrize(("preset", "loss"), [("imbalanced", "ldam"), ("robust", "cross_entropy"), ("counts", "cvar")])
def test_a_loss_put_in_is_as_composed(preset, loss):
    assert check_composed(with_loss(preset, loss)).hash == compose(f"experiment={preset}", f"loss={loss}").hash


@pytest.mark.parametrize("name", catalog.names("experiment"))
def test_a_preset_sets_nothing_of_its_loss(name):
    body = yaml.safe_load(catalog.card("experiment", name).body)
    chosen = [key for item in body["defaults"] for key in item if "loss" in key]
    assert "loss" not in body
    assert "override /loss" in chosen
    assert len(chosen) == 1 or name == "sum"


@pytest.mark.parametrize("name", ABSENT)
def test_a_preset_of_files_that_are_not_there_says_how_to_get_them(cli, name):
    code, _, err = cli("train", f"experiment={name}")
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith(f"lossbench: error: dataset '{name}': its files are not in 'data/")
    assert "dataset.download=true" in err
    assert cli("train", f"experiment={name}", "--cfg", "job")[0] == 0


def test_a_card_names_a_preset_of_a_task_that_the_loss_fits():
    for card in catalog.cards("loss"):
        assert card.preset in OFFLINE
        assert task(card.preset) in card.fits, card.name
