"""The commands beside training, and the flags of `train`."""

import re
import subprocess
import sys

import pytest
import yaml

from lossbench import __version__, catalog
from lossbench.completion import COMMANDS, SCRIPTS

OPTIONS = [(group, name) for group in catalog.GROUPS for name in catalog.names(group)]


@pytest.fixture
def mine(tmp_path):
    """A config directory of the user's own."""
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "soft.yaml").write_text("_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: 0.2\n")


def printed(cli, *words):
    code, out, err = cli(*words)
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command(cli, words):
    out = printed(cli, *words)
    assert all(f"lossbench {command}" in out for command in ("train", "list", "show", "completion", "--version"))


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(cli, word):
    assert printed(cli, word) == f"lossbench {__version__}\n"


def test_it_is_a_module_and_a_command():
    run = [sys.executable, "-m", "lossbench", "--version"]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == f"lossbench {__version__}\n"


@pytest.mark.parametrize("words", [["--help"], ["list"], ["train", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(words):
    run = [sys.executable, "-m", "lossbench", *words]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        child.stdout.close()
        assert (child.stderr.read(), child.wait()) == (b"", 0)


# Completion


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("lossbench ", [*COMMANDS]),
        ("lossbench co", ["compare", "completion"]),
        ("lossbench --v", ["--version"]),
        ("lossbench list ", [*catalog.LISTS]),
        ("lossbench list losses d", ["datasets"]),
        ("lossbench show ", [f"{group}={name}" for group, name in OPTIONS]),
        ("lossbench show loss=fo", ["loss=focal"]),
        ("lossbench completion ", [*SCRIPTS]),
        ("lossbench nothing ", []),
        ("lossbench train loss=", [f"loss={name}" for name in catalog.names("loss")]),
        ("lossbench train optim=adam", ["optim=adam", "optim=adamax", "optim=adamw"]),
        ("lossbench train loss=focal loss.ga", ["loss.gamma="]),
        ("lossbench train optim=sgd optim.mom", ["optim.momentum="]),
        ("lossbench train trainer.batch", ["trainer.batch_size="]),
        ("lossbench train dataset.split.", [f"dataset.split.{key}=" for key in ("stratify", "test", "val")]),
        ("lossbench train -m seed=0,1 loss=fo", ["loss=focal"]),
        ("lossbench train 'seed=range(0,3)' loss=fo", ["loss=focal"]),
        ("lossbench train --config-dir mine loss=so", ["loss=soft", "loss=soft_margin"]),
        ("lossbench train --config-dir=mine loss=soft loss.", ["loss.label_smoothing="]),
        ("lossbench train --config", ["--config-dir", "--config-name"]),
        ("lossbench train --config-dir ", []),
        ("lossbench train name=[ loss=focal loss.", []),
        ("lossbench train -m loss=cross_entropy,foc", ["loss=cross_entropy,focal"]),
        ("lossbench train -m loss=focal,foc", []),
        ("lossbench train -m hydra", ["hydra/launcher=", "hydra/sweeper=", "hydra.launcher."]),
        ("lossbench train -m hydra/sweeper=", [f"hydra/sweeper={name}" for name in ("fair", "lossbench", "optuna")]),
        ("lossbench train -m hydra/launcher=b", ["hydra/launcher=basic"]),
        (
            "lossbench train -m hydra/launcher=pool hydra.launcher.t",
            [f"hydra.launcher.{k}=" for k in ("threads", "timeout")],
        ),
        ("lossbench train hydra/launcher=ray hydra.launcher.ray.init.a", ["hydra.launcher.ray.init.address="]),
        ("lossbench train hydra/launcher=basic hydra.launcher.", []),
        ("lossbench train hydra/launcher=joblib loss=foc", ["loss=focal"]),
        ("lossbench train sweep.on_failure=", ["sweep.on_failure=continue", "sweep.on_failure=stop"]),
        ("lossbench train sweep.pruner=h", ["sweep.pruner=halving", "sweep.pruner=hyperband"]),
        ("lossbench train sweep.sampler=tp", ["sweep.sampler=tpe"]),
        ("lossbench train sweep.m", ["sweep.max_jobs=", "sweep.metric="]),
        ("lossbench find-lr hydra", []),
        ("lossbench train 'name=", []),
    ],
)
def test_completion(cli, mine, line, found):
    assert sorted(printed(cli, "completion", "query", line).split()) == sorted(found)


@pytest.mark.parametrize("shell", SCRIPTS)
def test_completion_scripts_ask_back(cli, shell):
    assert "lossbench completion query" in printed(cli, "completion", shell)


# The flags of train


@pytest.mark.parametrize("flags", [["--cfg", "job"], ["--cfg=job"], ["-c", "job"]])
@pytest.mark.parametrize("first", [True, False])
def test_cfg_prints_the_config_and_trains_nothing(cli, tmp_path, flags, first):
    settings = ["loss=huber", "dataset=diabetes", "loss.delta=2"]
    config = yaml.safe_load(printed(cli, *["train", *(flags + settings if first else settings + flags)]))
    assert config["loss"] == {"_target_": "lossbench.losses.huber", "delta": 2}
    assert list(config) == [
        "output_root",
        "name",
        "resume",
        "weights",
        "seed",
        "sweep",
        *sorted(catalog.GROUPS[:-1], key=list(config).index),
    ]
    assert list(tmp_path.iterdir()) == []


def test_help_of_train_has_groups_keys_and_examples(cli, tmp_path):
    out = printed(cli, "train", "--help")
    for group, name in OPTIONS:
        assert re.search(rf"^{group}: .*\b{name}\b", out, re.MULTILINE)
    assert "lossbench train loss=focal optim=adamw" in out
    words = ["hydra/sweeper=", "hydra/launcher=", "sweep.name=", "lossbench compare"]
    words += [name for plugin in catalog.PLUGINS for name in catalog.plugins(plugin) if name != "lossbench"]
    assert [word for word in words if word not in out] == []
    assert "batch_size: 64" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--hydra-help"], ["--info"], ["--info", "searchpath", "loss=focal"], ["--version"]])
def test_hydras_own_flags_work(cli, tmp_path, words):
    code, out, _ = cli("train", *words)
    assert code == 0
    assert out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", ["-m --config-dir mine loss=soft seed=0,1", "loss=soft -m seed=0,1 --config-dir=mine"]
)
def test_the_order_of_flags_and_settings_does_not_matter(cli, mine, words):
    assert "sweep of 2 jobs" in printed(cli, "train", "trainer.steps=1", *words.split())


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_leads_nowhere(closed):
    command = f'"$0" -m lossbench list losses {closed}'
    found = subprocess.run(
        ["sh", "-c", command, sys.executable], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stderr == ""
