"""The configs of a sweep's jobs: those that Hydra composes, from fewer compositions."""

from __future__ import annotations

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from lossbench.catalog import names
from lossbench.errors import ConfigError
from lossbench.naming import register_resolvers
from lossbench.sweep.compose import Composer, Compositions
from lossbench.sweep.expand import options_loader

MINE = {
    "loss/mine.yaml": "_target_: torch.nn.CrossEntropyLoss\nlabel_smoothing: 0.1\n",
    "experiment/mine.yaml": "# @package _global_\ndefaults:\n- override /optim: sgd\n- override /loss: mine\nseed: 7\n",
    "extra/note.yaml": "text: of a group of mine\n",
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A loader that knows a user's own options, and the config of a sweep; its directory's name is found already."""
    register_resolvers()
    folder = tmp_path_factory.mktemp("conf")
    for name, text in MINE.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    loader = options_loader([folder])
    master = loader.load_configuration("config", ["+hydra.job.env_set.A=1"], run_mode=RunMode.MULTIRUN)
    str(master.hydra.sweep.dir)
    return loader, master


JOBS = [
    [],
    ["seed=3", "optim.lr=0.1"],
    ["loss=focal", "loss.gamma=3", "++seed=4", "seed=5"],
    ["loss=mine", "+loss.reduction=mean"],
    ["experiment=[imbalanced,mine]", "loss=ldam", "~loss.max_margin"],
    ["loss=sum", "+loss@loss.terms.a=focal", "+loss@loss.terms.b=mine", "loss.terms.a.gamma=1", "loss.weights={a: 2}"],
    ["+optim.groups.head.name='5.*'", "+optim.groups.head.lr=0.01", "optim.weight_decay=${optim.lr}"],
    ["dataset={split: {val: 0.2}}", "model.hidden=[8,8]", "~optim.lr=0.001", "trainer={epochs: 2}"],
    ["optim.lr=0.1", "optim={lr: 0.2}"],
    ["+extra=note", "+extra.more=1", "name='a b'"],
    ["+extra@of.mine=note", "of.mine.text=else"],
    ["+hydra.job.env_set.B=2", "hydra.job.config.override_dirname.exclude_keys=[seed]", "seed=1", "optim=sgd"],
    ["hydra.job.name=other", "hydra={verbose: true}", "hydra/launcher=basic", "seed=2"],
    ["loss=[focal,mine]", "seed=1"],
    ["scheduler=cosine", "scheduler.warmup=0.1", "~experiment", "model=cnn", "++new={a: [1, {b: null}]}"],
]


def every_option():
    """A job for each option of each group, of the losses for every third, with settings beside it."""
    for group in ("loss", "model", "dataset", "optim", "scheduler", "experiment"):
        for number, name in enumerate(names(group)[:: 3 if group == "loss" else 1]):
            yield [f"{group}={name}", f"seed={number}", f"trainer.epochs={number + 1}", "++optim.lr=0.5"]


def anatomy(node):
    """The kind and the flags of each node of a config, which its YAML does not show."""
    flags = {name: node._get_node_flag(name) for name in ("struct", "readonly")}
    found = [(node._get_full_key(None), type(node), node._metadata.ref_type, node._metadata.object_type, flags)]
    if isinstance(node, (DictConfig, ListConfig)) and not node._is_none() and not node._is_missing():
        keys = node if isinstance(node, DictConfig) else range(len(node))
        found += [line for key in keys for line in anatomy(node._get_node(key))]
    return found


def check_equal(sweep, jobs):
    loader, master = sweep
    ours = Compositions(loader, master)
    for words in jobs:
        wanted = loader.load_sweep_config(master, list(words))
        found = ours._from_shared(words)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(wanted), words
        assert anatomy(found) == anatomy(wanted), words
        assert found.hydra.sweep.dir == wanted.hydra.sweep.dir == master.hydra.sweep.dir
    return ours


def test_equal_to_hydras_own(sweep):
    check_equal(sweep, JOBS)


def test_groups_of_a_search_path_are_found(sweep, tmp_path):
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "one.yaml").write_text("value: 1\n")
    check_equal(sweep, [[f"hydra.searchpath=['file://{tmp_path}']", "+late=one", "late.value=2"], ["+late=one"]])


@pytest.mark.slow
def test_equal_to_hydras_own_for_every_option(sweep):
    jobs = list(every_option())
    assert len(jobs) > 60
    check_equal(sweep, jobs)


def test_one_composition_for_each_choice_of_options(sweep, monkeypatch):
    loader, master = sweep
    composed = []

    def counted(config, words):
        composed.append(words)
        return type(loader).load_sweep_config(loader, config, words)

    monkeypatch.setattr(loader, "load_sweep_config", counted)
    ours = Compositions(loader, master)
    for loss in ("focal", "mine"):
        for seed in range(3):
            ours.config([f"loss={loss}", f"seed={seed}"])
    assert composed == [["loss=focal"], ["loss=mine"]]


def test_a_job_changes_no_other(sweep):
    ours = Compositions(*sweep)
    first = ours.config(["optim.betas=[0.5,0.6]", "seed=1"])
    first.optim.betas[0] = 0.1
    first.hydra.overrides.task.append("more")
    second = ours.config(["seed=2"])
    assert list(second.optim.betas) == [0.9, 0.999]
    assert list(second.hydra.overrides.task) == ["seed=2"]


def test_what_the_sweep_has_found_meanwhile_is_every_later_jobs_too(sweep):
    _, master = sweep
    ours = Compositions(*sweep)
    ours.config(["seed=1"])
    found = master.hydra.run.dir  # with a time and random digits
    assert ours.config(["seed=2"]).hydra.run.dir == found


@pytest.mark.parametrize(
    "words",
    [
        ["loss=nothing", "optim.lrr=1"],
        ["optim.lrr=1", "loss=focal"],
        ["loss.gama=1"],
        ["+optim.lr=1"],
        ["~optim.lrr"],
        ["~optim.lr=5"],
        ["~scheduler=cosine"],
        ["+loss=focal"],
        ["loss@loss.terms.a=focal"],
        ["mistyped@loss.terms.a=focal"],
        ["loss=3"],
        ["++loss=focal"],
        ["seed=1,2"],
        ["optim.lr=[1"],
        ["optim.lr.deeper=1"],
        ["hydra.nothing=1", "optim.lrr=1"],
        ["experiment=[imbalanced,nothing]"],
    ],
)
def test_mistakes_are_hydras_own(sweep, words):
    loader, master = sweep
    with pytest.raises(Exception) as wanted:  # noqa: PT011
        loader.load_sweep_config(master, list(words))
    with pytest.raises(type(wanted.value)) as found:
        Compositions(loader, master).config(words)
    assert str(found.value) == str(wanted.value)
    assert isinstance(found.value, (HydraException, ValueError))


def test_a_mistake_is_said_with_the_job(sweep):
    with pytest.raises(ConfigError, match=r"job a,seed=1: no key 'loss.gama'; did you mean 'loss.gamma'"):
        Composer(*sweep).job(["loss=focal", "loss.gama=1"], "a,seed=1")
