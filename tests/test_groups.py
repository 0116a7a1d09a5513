"""Parameter groups: who is in which, what the settings do, freezing, and what is recorded of them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import torch
from devices import DEVICES
from recorded import stop_after
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_resume import assert_equal_runs
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lossbench.build import build
from lossbench.compose import compose
from lossbench.engine.thaw import Thaw
from lossbench.errors import ConfigError
from lossbench.observe.group_table import group_table
from lossbench.optim.groups import Rule, named_in, partition
from lossbench.optim_build import build_optimizers
from lossbench.targets import Call


class Block(nn.Module):
    """Parameters of many kinds, and a normalisation layer of the user's own."""

    class ScaleNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.g = nn.Parameter(torch.ones(3))

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, bias=False)
        self.bn = nn.BatchNorm2d(2)
        self.lstm = nn.LSTM(3, 2)
        self.own = self.ScaleNorm()
        self.fc = weight_norm(nn.Linear(4, 2))


def parts(rules, module=None, **options):
    groups = partition(named_in(module or Block()), rules, **options)
    return {group.name: [named.name for named in group.members] for group in groups}


LSTM_WEIGHTS = ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]
LSTM_BIASES = ["lstm.bias_ih_l0", "lstm.bias_hh_l0"]
FC = ["fc.bias", "fc.parametrizations.weight.original0", "fc.parametrizations.weight.original1"]
NORM = ["bn.weight", "bn.bias", "own.g"]


def test_names_and_kinds():
    rules = [
        Rule("first", names=("conv.*", "lstm.weight*")),
        Rule("norm", kinds=("norm",)),
        Rule("bias", kinds=("bias",)),
        Rule("linear", kinds=("Lin*", "Conv*")),
    ]
    found = parts(rules)
    assert found == {
        "first": ["conv.weight", *LSTM_WEIGHTS],
        "norm": NORM,
        "bias": [*LSTM_BIASES, "fc.bias"],
        "linear": FC[1:],
    }


def test_the_first_rule_takes_a_parameter_and_rest_stands_first():
    found = parts([Rule("a", names=("lstm.*",), kinds=("bias",)), Rule("b", names=("lstm.*",))])
    assert list(found) == ["rest", "a", "b"]
    assert found["a"] == LSTM_BIASES
    assert found["b"] == LSTM_WEIGHTS
    assert found["rest"] == ["conv.weight", *NORM, *FC]


def test_bias_and_norm_is_either():
    assert parts([Rule("x", kinds=("bias and norm",))])["x"] == ["bn.weight", "bn.bias", *LSTM_BIASES, "own.g", FC[0]]


def test_without_decay_on_biases_and_norms():
    rules = [
        Rule("lstm", names=("lstm.*",), settings={"lr": 1.0}),
        Rule("own", names=("bn.*",), settings={"weight_decay": 1.0}),
    ]
    groups = partition(named_in(Block()), rules, decay_bias_and_norm=False)
    assert {g.name: (dict(g.settings), [n.name for n in g.members]) for g in groups} == {
        "rest": ({}, ["conv.weight", *FC[1:]]),
        "rest.no_decay": ({"weight_decay": 0.0}, ["own.g", "fc.bias"]),
        "lstm": ({"lr": 1.0}, LSTM_WEIGHTS),
        "lstm.no_decay": ({"lr": 1.0, "weight_decay": 0.0}, LSTM_BIASES),
        "own": ({"weight_decay": 1.0}, ["bn.weight", "bn.bias"]),
    }


def test_a_losss_own_parameters_are_called_after_it_and_spared_decay():
    run = build(compose("dataset=diabetes", "loss=adaptive_robust", "optim.decay_bias_and_norm=false"))
    names = {g["name"]: len(g["params"]) for g in run.player.optimizers[0].param_groups}
    assert names == {"rest": 3, "rest.no_decay": 5}  # three weights; three biases, shape and scale
    run = build(
        compose("dataset=diabetes", "loss=adaptive_robust", '+optim.groups.shape={name: "adaptive_robust.*", lr: 0.1}')
    )
    assert [len(g["params"]) for g in run.player.optimizers[0].param_groups] == [6, 2]


def test_no_rules_is_one_group_of_the_optimizers_name():
    (optimizer,) = build(compose("optim=sgd")).player.optimizers
    (group,) = optimizer.param_groups
    assert (group["name"], len(group["params"])) == ("sgd", 6)


def test_biases_do_not_decay():
    """SGD without a gradient: w = w - lr x weight_decay x w, and a bias stays."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    for p in model.parameters():
        p.data.fill_(2.0)
        p.grad = torch.zeros_like(p)
    groups = partition(named_in(model), [], decay_bias_and_norm=False)
    (optimizer,) = build_optimizers(Call("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.5}), groups)
    optimizer.step()
    found = {name: p.flatten()[0].item() for name, p in model.named_parameters()}
    assert found == {"0.weight": pytest.approx(1.9), "0.bias": 2.0, "1.weight": 2.0, "1.bias": 2.0}


SMALL = ("model.hidden=[8]", "model.norm=batch", "trainer.batch_size=64")


@pytest.mark.parametrize(
    ("optim", "kind", "options"),
    [
        ("adamw", torch.optim.AdamW, {"lr": 0.001, "weight_decay": 0.01}),
        ("momentum", torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        ("rmsprop", torch.optim.RMSprop, {"lr": 0.001}),
    ],
)
def test_follows_a_bare_loop_with_the_same_groups_and_freezing(optim, kind, options):
    """Bit for bit, through the thaw at step 21, the first of the second epoch."""
    head, stem = '{name: "4.*", lr: 0.05}', '{name: ["1.*"], unfreeze: 2}'
    rules = f"optim.groups={{head: {head}, stem: {stem}, bn: {{kind: norm, freeze: true}}}}"
    words = (f"optim={optim}", rules, *SMALL)
    run, bare = build(compose(*words)), build(compose(*words))
    model = bare.player.model
    for p in model.parameters():
        p.requires_grad_(True)
    _flat, first, norm, _, head = model
    assert isinstance(norm, nn.BatchNorm1d)
    norm.requires_grad_(False)
    fused = {} if optim == "rmsprop" else {"fused": True}
    groups = [{"params": head.parameters(), "lr": 0.05}, {"params": first.parameters()}]
    optimizer = kind(groups, **options, **fused)
    frozen = [p.detach().clone() for p in norm.parameters()]
    stream = [batch for epoch in (0, 1) for batch in run.batches.epoch(epoch, 0)][:25]
    start = [p.detach().clone() for p in first.parameters()]
    for step, micro in enumerate(stream, 1):
        run.player.begin(step)
        run.player.step(micro)
        first.requires_grad_(step > 20)
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(micro[0]["input"]), micro[0]["target"]).backward()
        optimizer.step()
        held = run.player.model[1]
        moved = not all(map(torch.equal, held.parameters(), start))
        assert moved is (step > 20)
        assert all((p.grad is None) is (step <= 20) for p in held.parameters())
        assert all((p in run.player.optimizers[0].state) is (step > 20) for p in held.parameters())
    for p, q in zip(run.player.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(p, q)
    assert all(map(torch.equal, run.player.model[2].parameters(), frozen))
    assert not torch.equal(run.player.model[2].running_mean, torch.zeros(8))  # its statistics go on


def test_thawing_is_a_function_of_the_step():
    a, b, c = (nn.Parameter(torch.ones(1)) for _ in range(3))
    thaw = Thaw([(3, [a]), (5, [b])])
    seen = []
    for step in (1, 2, 3, 4, 5, 4, 2, 5):
        more = thaw.begin(step)
        seen.append((more, a.requires_grad, b.requires_grad))
        a.grad = torch.ones(1)
    no, yes = False, True
    assert seen == [
        *[(no, no, no)] * 2,
        (yes, yes, no),
        (no, yes, no),
        (yes, yes, yes),
        (no, yes, no),
        (no, no, no),
        (yes, yes, yes),
    ]
    thaw.begin(1)
    assert (a.grad, c.requires_grad) == (None, True)


@pytest.mark.parametrize("gate", ["host", "device"])
@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_step_at_the_thaw_leaves_no_trace(gate, earlier, device):
    """The first step of what is thawed is an optimizer's first: a fused SGD would keep garbage as its momentum.

    Where an `earlier` step was bad and the host has not looked yet, the thaw's step is one that never happened.
    """
    words = (f"trainer.device={device}", 'optim.groups={stem: {name: "1.*", unfreeze: 2}}')
    run = build(compose("optim=momentum", *words, *SMALL))
    player = run.player
    player.guard.gate = gate
    stream = [batch for epoch in (0, 1) for batch in run.batches.epoch(epoch, 0)]

    def bad(micro):
        return [{**micro[0], "input": torch.full_like(micro[0]["input"], float("nan"))}]

    def state():
        moments = [t for s in player.optimizers[0].state.values() for t in s.values() if isinstance(t, torch.Tensor)]
        return [t.detach().clone() for t in (*player.model.state_dict().values(), *moments)]

    for step, micro in enumerate(stream[:20], 1):
        player.begin(step)
        if step == 20:
            before = state()
        player.step(bad(micro) if earlier and step == 20 else micro)
    before = before if earlier else state()
    garbage = [torch.full(shape, float("nan"), device=device) for shape in ((8, 64), (8,)) for _ in range(64)]
    del garbage
    player.begin(21)
    verdict = player.step(stream[20] if earlier and gate == "device" else bad(stream[20]))[3].item()
    assert verdict == (4.0 if earlier and gate == "device" else 3.0)
    after = state()
    assert len(before) == len(after)
    assert all(map(torch.equal, before, after))
    player.guard.load_state_dict(player.guard.state_dict())  # the host has looked
    player.begin(22)
    player.step(stream[21])
    assert all(bool(torch.isfinite(t).all()) for t in state())


def test_penalties_are_on_what_is_trained():
    words = (
        "loss=regularized",
        'optim.groups={stem: {name: "1.*", unfreeze: 2}}',
    )
    run = build(compose(*words, *SMALL))
    before = run.player.objective.penalties()[0].values
    run.player.begin(21)
    assert run.player.objective.penalties()[0].values > before


STEM = '{name: "1.*", unfreeze: 3, weight_decay: 0}'
RULES = f'optim.groups={{head: {{name: "4.*", lr: 0.01}}, stem: {STEM}, bn: {{kind: norm, freeze: true}}}}'
TRAIN = ("train", RULES, *SMALL, "scheduler=cosine", "trainer.epochs=4")


def test_what_is_recorded_of_groups(cli, tmp_path):
    code, out, _ = cli(*TRAIN, "hydra.run.dir=run", "model.hidden=[8, 8]", "trainer.batch_size=128")
    assert code == 0
    rows = steps_of("run")
    assert {"lr/rest", "lr/head", "lr/stem"} <= rows[0].keys()
    assert "lr/bn" not in rows[0]
    assert all(row["lr"] == row["lr/rest"] for row in rows)
    assert [float(rows[0][f"lr/{name}"]) for name in ("rest", "head", "stem")] == [0.001, 0.01, 0.001]
    for row in rows:
        assert float(row["lr/head"]) == pytest.approx(10 * float(row["lr/rest"]))
    board = EventAccumulator("run", size_guidance={"scalars": 0}).Reload()
    shown = [e.value for e in board.Scalars("train/lr/head")]
    assert shown == pytest.approx([float(row["lr/head"]) for row in rows])
    summary = json.loads(Path("run/summary.json").read_text())
    last = rows[-1]
    assert summary["groups"] == [
        group("rest", 90, 0.001, 0.01, lr_end=float(last["lr/rest"])),
        group("head", 72, 0.01, 0.01, lr_end=float(last["lr/head"])),
        group("stem", 520, 0.001, 0.0, lr_end=float(last["lr/stem"]), unfreeze=3),
        group("bn", 32, None, None, lr_end=None, frozen=True),
    ]
    assert summary["parameters"] == 90 + 72 + 520
    assert re.search(r"stem +│ +520 │ +0.001 │ +\S+ │ +0 │ from epoch 3 on", out)
    assert re.search(r"bn +│ +32 │ +- │ +- │ +- │ never \(frozen\)", out)


def test_only_the_name_of_a_group_is_folded():
    one = {"name": "a_long_name.no_decay.adamw", "parameters": 12345678, "lr": 0.00123, "lr_end": 1.234e-06}
    screen = Console(width=80, file=io.StringIO())
    screen.print(group_table([{**one, "weight_decay": 0.01, "frozen": False, "unfreeze": 30}]))
    found = screen.file.getvalue()
    assert re.search("│ 12,345,678 │ +0.00123 │ 1.234e-06 │ +0.01 │ from epoch 30 on │\n", found)
    assert "".join(re.findall(r"^│ (\S+)", found, re.MULTILINE)) == one["name"]


def steps_of(run):
    return list(csv.DictReader(Path(run, "steps.csv").read_text().splitlines()))


def group(name, parameters, lr, weight_decay, *, lr_end, frozen=False, unfreeze=None):
    return {
        "name": name,
        "parameters": parameters,
        "lr": lr,
        "weight_decay": weight_decay,
        "frozen": frozen,
        "unfreeze": unfreeze,
        "lr_end": lr_end,
    }


def test_check_lists_the_groups(cli):
    code, out, _ = cli("check", RULES, *SMALL)
    assert code == 0
    assert re.search(r"stem +│ +520 │ 0.001 │ +0 │ from epoch 3 on", out)


def test_a_sweep_over_a_groups_rate(cli):
    words = ("+optim.groups.head.name=4.*", "+optim.groups.head.lr=0.01,0.1", "trainer.steps=1", *SMALL)
    code, out, _ = cli("train", "-m", *words, "hydra.sweep.dir=all")
    assert code == 0
    assert "optim.groups.head.lr" in out
    ends = [json.loads(path.read_text())["groups"] for path in sorted(Path("all").glob("*/summary.json"))]
    assert [found[1]["lr"] for found in ends] == [0.01, 0.1]


@pytest.mark.parametrize("stop", [30, 45])
@pytest.mark.parametrize("optim", ["adamw", "momentum", "muon"])
def test_resume_across_the_thaw(cli, monkeypatch, optim, stop):
    """Of 20 steps an epoch, thawed at step 41: before it and after it."""
    words = (*TRAIN, f"optim={optim}", "trainer.steps=50")
    if optim == "muon":
        words = (*words, "optim.decay_bias_and_norm=false")
    assert cli(*words, "hydra.run.dir=whole")[0] == 0
    stop_after(monkeypatch, stop)
    assert cli(*words, "hydra.run.dir=parts")[0] == 143
    stop_after(monkeypatch, 0)
    code, _, err = cli("train", "resume=parts")
    assert (code, err) == (0, "")
    assert_equal_runs("whole", "parts")


def test_groups_may_change_in_numbers_only(cli, monkeypatch):
    stop_after(monkeypatch, 5)
    assert cli(*TRAIN, "hydra.run.dir=run")[0] == 143
    for word, line in (
        ("optim.groups.head.name=1.*", r"trained with optim\.groups\.head\.name=4\.\*, and .*=1\.\* is asked for; .*"),
        ("optim.groups.stem.unfreeze=2", r"trained with optim\.groups\.stem\.unfreeze=3, and .*"),
        ("+optim.groups.new={kind: bias, lr: 1}", r"trained with optim\.groups\.new\.kind=null, and .*"),
        (
            "optim.decay_bias_and_norm=false",
            r".* has the parameter groups head, stem, and this run would have .*",
        ),
    ):
        code, _, err = cli("train", "resume=run", word)
        assert code == 5
        assert re.fullmatch(f"lossbench: error: .*{line}\n", err), err
    stop_after(monkeypatch, 0)
    code, out, _ = cli("train", "resume=run", "optim.groups.head.lr=0.02", "scheduler=constant", "trainer.steps=45")
    assert code == 0
    assert "optim.groups.head.lr was 0.01 and is 0.02 from here on" in out
    rates = [row["lr/head"] for row in steps_of("run")]
    assert rates[5:] == ["0.02"] * 40


def test_hparams_have_the_groups_settings():
    from lossbench.summary import hparams

    found = hparams(compose(RULES, *SMALL))
    assert found["optim.groups.head.lr"] == 0.01
    assert found["optim.groups.stem.unfreeze"] == 3


CODE = """
import torch
class Picky(torch.optim.SGD):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() == 1:
                    raise ValueError("biases are not for me")
class Stubborn(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, weight_decay=0.0):
        super().__init__(params, {"lr": lr})
def forgetful(params, lr=0.1): return torch.optim.SGD(params[:1], lr)
def greedy(params, lr=0.1): return [torch.optim.SGD(params, lr), torch.optim.SGD(params, lr)]
def none(params, lr=0.1): return []
def roomy(params, lr=0.1): return torch.optim.SGD([{"params": [], "name": "spare"}, *params], lr)
def two(params, lr=0.1):
    everything = [p for group in params for p in group["params"]]
    return torch.optim.SGD(everything[:2], lr), torch.optim.SGD(everything[2:], lr, momentum=0.9)
"""


@pytest.mark.parametrize(
    ("target", "words", "line"),
    [
        ("Picky", (), r"optim 'own': biases are not for me \(at parameter '1\.bias', 8, of group 'own' and 1 more\)"),
        ("Stubborn", ("+optim.weight_decay=0.1", '+optim.groups.a={name: "1.*", weight_decay: 0}'),
         r"optim\.groups\.a\.weight_decay: optim 'own' has one weight_decay for all parameters"),
        ("forgetful", ('+optim.groups.a={name: "1.*"}',), r"optim 'own' leaves out the parameter '1\.weight'"),
        ("greedy", (), r"optim 'own' takes more than once the parameter '1\.weight'"),
        ("none", (), "optim 'own' gives no optimizer"),
    ],
)  # fmt: skip
def test_optimizers_of_the_users_own_that_cannot_be(cli, tmp_path, target, words, line):
    own(tmp_path, target)
    code, _, err = cli("check", "--config-dir", "conf", "optim=own", *words, "model.hidden=[8]")
    assert code == 2
    assert re.fullmatch(f"lossbench: error: {line}\n", err), err


def test_two_optimizers_of_the_users_own(cli, tmp_path):
    own(tmp_path, "two")
    words = ("optim=own", "model.hidden=[8]", "trainer.steps=3", "trainer.precision=fp16", "trainer.clip_norm=1")
    assert cli("train", "--config-dir", "conf", *words, "hydra.run.dir=run")[0] == 0
    assert "lr/own,lr/own.1" in Path("run/steps.csv").read_text().splitlines()[0]


def test_a_group_of_no_parameters_of_the_users_own(cli, tmp_path):
    own(tmp_path, "roomy")
    assert cli("train", "--config-dir", "conf", "optim=own", "trainer.steps=3", *SMALL, "hydra.run.dir=run")[0] == 0
    spare = json.loads(Path("run/summary.json").read_text())["groups"][0]
    assert (spare["name"], spare["parameters"], spare["unfreeze"]) == ("spare", 0, None)


def own(tmp_path, target):
    (tmp_path / "own_optim.py").write_text(CODE)
    (tmp_path / "conf/optim").mkdir(parents=True)
    (tmp_path / "conf/optim/own.yaml").write_text(f"_target_: own_optim.{target}\nlr: 0.1\n")


def test_a_pattern_that_matches_nothing_names_some_parameters():
    model = nn.Sequential(*(nn.Linear(1, 1) for _ in range(5)))
    with pytest.raises(
        ConfigError, match=re.escape("(names: 0.weight, 0.bias, 1.weight, ..., 3.bias, 4.weight, 4.bias)")
    ):
        parts([Rule("a", names=("head.*",))], model)
