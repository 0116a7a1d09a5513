"""Muon on the matrices, AdamW on the rest: who trains what, and that both do as torch's own would in a bare loop."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from lossbench.build import build
from lossbench.compose import compose
from lossbench.errors import ConfigError
from lossbench.optim.muon import muon

SMALL = ("optim=muon", "model.hidden=[12,8]", "model.norm=batch")
INF = float("inf")


def params(*modules):
    return [{"params": list(module.parameters()), "name": f"g{i}"} for i, module in enumerate(modules)]


def shapes(optimizers):
    return {g["name"]: [tuple(p.shape) for p in g["params"]] for o in optimizers for g in o.param_groups}


def test_matrices_that_are_no_embeddings_go_to_muon():
    embedding, conv, linear = nn.Embedding(5, 3), nn.Conv2d(1, 2, 3), nn.Linear(3, 2)
    made = muon(params(nn.ModuleList([embedding, conv, linear])), [embedding.weight])
    assert [type(o) for o in made] == [torch.optim.Muon, torch.optim.AdamW]
    assert shapes(made) == {"g0": [(2, 3)], "g0.adamw": [(5, 3), (2, 1, 3, 3), (2,), (2,)]}
    assert made[1].defaults["fused"]


def test_matrices_alone_need_no_adamw():
    made = muon(params(nn.Linear(3, 2, bias=False)))
    assert shapes(made) == {"g0": [(2, 3)]}


def test_nothing_but_vectors_is_refused():
    with pytest.raises(ConfigError, match="is for matrices, and no trained parameter is one"):
        muon(params(nn.BatchNorm1d(3)))


def settings(groups, **options):
    made = muon(groups, **options)
    return {g["name"]: (g["lr"], g["weight_decay"]) for o in made for g in o.param_groups}


def test_whose_settings_count():
    """Weight decay: a group's own for both parts; the rate: each part's own."""
    plain, both, own = params(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    both |= {"lr": 0.3, "weight_decay": 0.0}
    own |= {"adamw_lr": 0.5, "adamw_weight_decay": 0.6}
    options = {"lr": 0.1, "weight_decay": 0.2, "adamw_lr": 0.01}
    assert settings([plain, both, own], **options, adamw_weight_decay=0.7) == {
        "g0": (0.1, 0.2),
        "g0.adamw": (0.01, 0.7),
        "g1": (0.3, 0.0),
        "g1.adamw": (0.01, 0.0),
        "g2": (0.1, 0.2),
        "g2.adamw": (0.5, 0.6),
    }
    found = settings([plain, both], lr=0.1, adamw_lr=None)
    assert {name: lr for name, (lr, _) in found.items()} == {"g0": 0.1, "g0.adamw": 0.1, "g1": 0.3, "g1.adamw": 0.3}


def test_what_is_spared_weight_decay_is_spared_it_in_both_parts():
    """Only a rule that states the weight decay of a part stays whole; the optimizer's own does not come through."""
    rules = "optim.groups={a: {name: '1.*', adamw_weight_decay: 0.3}, b: {name: '4.*', adamw_weight_decay: null}}"
    run = build(compose(*SMALL, rules, "optim.decay_bias_and_norm=false", "optim.adamw_weight_decay=0.2"))
    assert {group.name: group.weight_decay for group in run.groups} == {
        "rest": 0.1,
        "rest.no_decay.adamw": 0.0,
        "a": 0.1,
        "a.adamw": 0.3,
        "b": 0.1,
        "b.no_decay.adamw": 0.0,
    }


def bare(model):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    return (
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="original"),
        torch.optim.AdamW(others, lr=0.001, weight_decay=0.1, fused=True),
    )


@pytest.mark.parametrize("clip", [None, 0.5])
def test_follows_a_bare_loop_of_the_two(clip):
    words = (*SMALL, "scheduler=cosine", "trainer.epochs=1", f"trainer.clip_norm={'null' if clip is None else clip}")
    run, model = build(compose(*words)), build(compose(*words)).player.model
    optimizers = bare(model)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, run.length.steps) for o in optimizers]
    model.train()
    for step, micro in enumerate(list(run.batches.epoch(0, 0))[:12], 1):
        run.player.begin(step)
        loss, norm, *_ = run.player.step(micro).tolist()
        for optimizer in optimizers:
            optimizer.zero_grad()
        expected = nn.functional.cross_entropy(model(micro[0]["input"]), micro[0]["target"])
        expected.backward()
        total = nn.utils.clip_grad_norm_(model.parameters(), clip or INF)  # over the parameters of both
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        assert (loss, norm) == (pytest.approx(expected.item()), total.item())
        assert run.player.settings == tuple(o.param_groups[0]["lr"] for o in optimizers)
    for p, q in zip(run.player.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)


def state(player):
    moments = [t for o in player.optimizers for s in o.state.values() for t in s.values()]
    return [t.detach().clone() for t in (*player.model.state_dict().values(), *moments)]


def same(a, b):
    return len(a) == len(b) and all(map(torch.equal, a, b))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("bad_step", [0, 3])
def test_a_bad_step_moves_neither(precision, bad_step):
    run = build(compose(*SMALL, f"trainer.precision={precision}", "trainer.nonfinite=skip", "scheduler=cosine"))
    player, stream = run.player, list(run.batches.epoch(0, 0))
    for step in range(bad_step):
        player.begin(step + 1)
        player.step(stream[step])
    before, rates = state(player), player.settings
    garbage = [torch.full(shape, float("nan")) for shape in ((12, 64), (8, 12), (12,), (8,)) for _ in range(32)]
    del garbage
    player.begin(bad_step + 1)
    micro = stream[bad_step]
    row = player.step([{**micro[0], "input": micro[0]["input"] * INF}])
    assert row[3].item() == 3.0
    assert same(before, state(player))
    assert player.settings == rates
    player.step(stream[bad_step])
    assert not same(before, state(player))
    assert all(bool(torch.isfinite(t).all()) for t in state(player))
    assert player.settings < rates


def test_the_loss_scale_is_taken_out_of_both_parts_gradients():
    """Clipping is over the true gradients of both, and so are the moments that they leave."""
    run = build(compose(*SMALL, "trainer.precision=fp16", "trainer.clip_norm=1"))
    player, (micro, *_) = run.player, run.batches.epoch(0, 0)
    player.begin(1)
    norm = player.step(micro)[1].item()
    assert norm < 100  # the scale is 65536
    first = [s["momentum_buffer"] / 0.05 for s in player.optimizers[0].state.values()]
    first += [s["exp_avg"] / 0.1 for s in player.optimizers[1].state.values()]
    together = torch.cat([t.flatten() for t in first]).norm().item()
    assert together == pytest.approx(min(norm, 1.0), rel=1e-3)


def test_state_goes_on_where_it_was_saved():
    def at(player, stream, first, last):
        for step in range(first, last):
            player.begin(step + 1)
            player.step(stream[step])

    whole, parts = build(compose(*SMALL)), build(compose(*SMALL))
    stream = list(whole.batches.epoch(0, 0))
    at(whole.player, stream, 0, 8)
    at(parts.player, stream, 0, 4)
    other = build(compose(*SMALL, "seed=1"))
    other.player.load(parts.player.state())
    other.player.seed = whole.player.seed
    at(other.player, stream, 4, 8)
    assert same(state(whole.player), state(other.player))


MODELS = """
import torch
from torch import nn
class Words(nn.Module):
    def __init__(self, sparse):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4, sparse=sparse), nn.Linear(256, 10)
    def forward(self, x):
        return self.head(self.table(x.flatten(1).long().clamp(0, 8)).flatten(1))
def words(*, input_shape, outputs, sparse: bool = False): return Words(sparse)
class Waves(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.ones(10, 64, dtype=torch.complex64))
    def forward(self, x): return (x.flatten(1).to(torch.complex64) @ self.filter.T).abs()
def waves(*, input_shape, outputs): return Waves()
"""


@pytest.fixture
def odd_models(tmp_path):
    (tmp_path / "odd.py").write_text(MODELS)
    (tmp_path / "own/model").mkdir(parents=True)
    (tmp_path / "own/model/words.yaml").write_text("_target_: odd.words\nsparse: false\n")
    (tmp_path / "own/model/waves.yaml").write_text("_target_: odd.waves\n")


@pytest.mark.usefixtures("odd_models")
def test_the_embeddings_of_a_model_go_to_adamw(cli):
    code, out, _ = cli("check", "--config-dir", "own", "model=words", "optim=muon")
    assert code == 0
    assert re.search(r"muon +│ +2,560 │", out)  # the head's matrix
    assert re.search(r"muon\.adamw +│ +46 │", out)  # the head's 10 biases, and 9 x 4 of the embedding


@pytest.mark.usefixtures("odd_models")
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("model=words", "model.sparse=true"),
            "the gradient of 'table.weight' is sparse, .*: set sparse=False in its nn.Embedding",
        ),
        (("model=waves",), "parameter 'filter' is complex, which optimizers here do not take: hold it as .*"),
    ],
)
def test_parameters_that_no_optimizer_here_takes_are_named(cli, words, line):
    code, _, err = cli("train", "--config-dir", "own", *words)
    assert code == 2
    assert re.fullmatch(f"lossbench: error: {line}\n", err), err
