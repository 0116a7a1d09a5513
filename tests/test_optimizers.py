"""Every optimizer of the catalogue: its card and defaults, and that the engine moves it just as a bare loop does."""

from __future__ import annotations

import copy
import re
from contextlib import contextmanager
from functools import cache

import pytest
import torch
import yaml
from devices import DEVICES
from test_guard import CountReads
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW, Muon

from lossbench import catalog
from lossbench.build import build
from lossbench.compose import compose
from lossbench.engine import Guard, Term, reduce
from lossbench.engine.checkpoint import packed_state, read, write
from lossbench.engine.tree import cloned
from lossbench.losses import cross_entropy
from lossbench.optim.foreign import has_fused
from lossbench.signatures import parameters
from lossbench.targets import locate

NAN = float("nan")
OPTIMIZERS = catalog.names("optim")
LABELS = ["Update", "Memory", "Typical rates", "When to use", "Pairs with", "Source"]

# What no file has: torch's ways to compute the same, and `maximize`, since a loss is there to be made small.
LEFT_OUT = {"params", "embeddings", "fused", "foreach", "capturable", "differentiable", "maximize"}

OUR_RATE = "SYSTEMS.md, with the reason in the card"
ITSELF = "what it is"
DIFFERENT = {  # from torch's defaults
    ("sgd", "lr"): (0.01, OUR_RATE),
    ("momentum", "lr"): (0.01, OUR_RATE),
    ("momentum", "momentum"): (0.9, ITSELF),
    ("nesterov", "lr"): (0.01, OUR_RATE),
    ("nesterov", "momentum"): (0.9, ITSELF),
    ("nesterov", "nesterov"): (True, ITSELF),
    ("rmsprop", "lr"): (0.001, OUR_RATE),
    ("nadam", "lr"): (0.001, OUR_RATE),
    ("adamax", "lr"): (0.001, OUR_RATE),
    ("amsgrad", "amsgrad"): (True, ITSELF),
    ("lbfgs", "line_search_fn"): ("strong_wolfe", "without a search a step can go uphill, as the card says"),
}


def body(name):
    """The import path of an optimizer's class, and its options."""
    options = yaml.safe_load(catalog.card("optim", name).body)
    return options.pop("_target_"), options


def plain(value):
    return tuple(value) if isinstance(value, list) else value


@cache
def config(name, *overrides):
    data = ("dataset.subset=200", "model.hidden=[12]", "model.norm=batch", "trainer.batch_size=32")
    return compose(f"optim={name}", "trainer.nonfinite=skip", *data, *overrides)


def make(name, *overrides):
    """A run of a small network with BatchNorm on digits, ready to train."""
    return build(config(name, *overrides))


def take(run, *steps):
    """Train at these steps; the verdicts."""
    verdicts = []
    for step in steps:
        run.player.begin(step)
        verdicts.append(run.player.step(run.batches.at(step))[3].item())
    return verdicts


def moved(run):
    """All that a step may move: parameters, buffers, and the optimizers' state."""
    return cloned({key: run.player.state()[key] for key in ("modules", "optimizers")})


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


# Cards


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_of_torchs_class_is_a_key_with_its_default(name):
    path, options = body(name)
    wanted = {key: p.default for key, p in parameters(locate("optim", path)).items() if key not in LEFT_OUT}
    assert list(options) == list(wanted)
    for key, default in wanted.items():
        expected, _ = DIFFERENT.get((name, key), (default, ""))
        assert plain(options[key]) == expected, key
        assert ((name, key) in DIFFERENT) == (plain(options[key]) != default), key


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_card_says_all_and_every_key_has_a_comment(name):
    card = catalog.card("optim", name)
    found = re.findall(r"^([A-Z][\w ]*):", card.text, flags=re.MULTILINE)
    assert [label for label in found if label in LABELS] == LABELS
    assert card.tasks == "any"
    assert "torch.optim." in card.text.partition("Source: ")[2]
    assert all(card.comments[key] for key in body(name)[1])


def kept(name, **changed):
    """How many numbers an optimizer keeps of each parameter of a matrix, of a vector, and of both together."""
    path, options = body(name)
    matrix, vector = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(5))
    built = locate("optim", path)([{"params": [matrix, vector], "name": "all"}], **{**options, **changed})
    optimizers = built if isinstance(built, list) else [built]

    def closure():
        loss = ((matrix - torch.arange(4)).pow(4).mean() + (vector - torch.arange(5)).pow(4).sum()) * 10
        matrix.grad, vector.grad = torch.autograd.grad(loss, [matrix, vector])
        return loss

    for _ in range(3):
        for optimizer in optimizers:
            optimizer.step(closure)

    def count(tree):
        if isinstance(tree, torch.Tensor):
            return tree.numel() if tree.dim() else 0  # step counts and the like are none of each parameter
        values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
        return sum(map(count, values))

    counts = [sum(count(o.state.get(p, {})) for o in optimizers) for p in (matrix, vector)]
    return counts[0] / matrix.numel(), counts[1] / vector.numel(), sum(counts) / (matrix.numel() + vector.numel())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_memory_is_what_the_card_says(name):
    said = re.search(r"^Memory: (.*)\.$", catalog.card("optim", name).text, flags=re.MULTILINE).group(1)
    of_matrix, of_vector, of_all = kept(name)
    for clause in said.split("; "):
        if found := re.fullmatch(r"(\d) numbers? per parameter", clause):
            assert of_matrix == of_vector == int(found[1])
        elif found := re.fullmatch(r"(\d) numbers? per parameter of a matrix", clause):
            assert of_matrix == int(found[1])
        elif found := re.fullmatch(r"(\d) number per parameter of a vector|(\d) per other parameter", clause):
            assert of_vector == int(found[1] or found[2])
        elif clause == "3 with both":
            assert kept(name, momentum=0.9, centered=True)[:2] == (3, 3)
        elif found := re.fullmatch(r"(\d) with (\w+)", clause):
            on = True if isinstance(body(name)[1][found[2]], bool) else 0.9
            assert kept(name, **{found[2]: on})[:2] == (int(found[1]), int(found[1]))
        elif clause == "rows + columns numbers per matrix":
            assert of_matrix == (6 + 4) / 24
        else:
            assert clause == "2 + 2 x history_size numbers per parameter, at the most"
            assert of_all <= 2 + 2 * body(name)[1]["history_size"]
            assert kept(name, history_size=3)[2] == 2 + 2 * 3


# Against a bare loop


def bare_optimizers(name, model, device):
    """The optimizer as one would write it down without us, from the file alone."""
    path, options = body(name)
    if name == "muon":
        own = {key: value for key, value in options.items() if not key.startswith("adamw_")}
        other = {key.removeprefix("adamw_"): value for key, value in options.items() if key.startswith("adamw_")}
        other = {key: own[key] if value is None else value for key, value in other.items()}
        matrices = [p for p in model.parameters() if p.dim() == 2]
        rest = [p for p in model.parameters() if p.dim() != 2]
        return [Muon(matrices, **own), AdamW(rest, **other, fused=True)]
    kind = getattr(torch.optim, path.rpartition(".")[2])
    fused = "fused" in parameters(kind) and has_fused(kind, torch.device(device))
    return [kind(model.parameters(), **options, **({"fused": True} if fused else {}))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_follows_a_bare_loop_bit_for_bit(name, device):
    run = make(name, f"trainer.device={device}")
    model = copy.deepcopy(run.player.model)
    optimizers = bare_optimizers(name, model, device)
    for step in range(1, 21):
        assert take(run, step) == [0.0]
        [batch] = run.batches.at(step)

        def closure(batch=batch):
            model.zero_grad()
            logits, labels = model(batch["input"]), batch["target"]
            loss = F.cross_entropy(logits, labels)
            # The loss, which a line search reads, is torch's to rounding; on CUDA the gradients may be too.
            if name == "lbfgs" or device == "cuda":
                loss = reduce([Term("loss", 1.0, *cross_entropy(logits, labels))])
            loss.backward()
            return loss

        if name == "lbfgs":
            optimizers[0].step(closure)
        else:
            closure()
            for optimizer in optimizers:
                optimizer.step()
        assert same(list(run.player.model.parameters()), list(model.parameters())), step
    # A line search's trials have moved the bare loop's running statistics, and ours are those of one evaluation.
    assert name == "lbfgs" or same(run.player.model.state_dict(), model.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_where_torch_has_it_unless_the_user_chooses(name):
    def fused(*overrides):
        return [o.defaults["fused"] for o in make(name, *overrides).player.optimizers if "fused" in o.defaults]

    known = parameters(locate("optim", body(name)[0]))
    assert fused() == ([True] if "fused" in known or name == "muon" else [])
    if "fused" in known:
        assert fused("+optim.foreach=true") in ([None], [False])
        assert fused("+optim.fused=false") == [False]


def test_the_fused_form_is_for_devices_that_have_its_kernel():
    class Own(torch.optim.Adam):
        pass

    assert has_fused(torch.optim.AdamW, torch.device("cpu"))
    assert not has_fused(torch.optim.AdamW, torch.device("xpu"))
    assert has_fused(Own, torch.device("xpu"))  # torch names no kernel after it


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_state_survives_a_file_in_the_middle(name, tmp_path):
    whole, first, second = make(name), make(name), make(name)
    take(whole, *range(1, 7))
    take(first, *range(1, 4))
    write(tmp_path / "step", {"state.pt": packed_state(first.player.state())}, {})
    take(second, 9)  # what it has learned by itself must not show
    second.player.load(read(tmp_path / "step").state("state.pt"))
    assert same(moved(second), moved(first))
    take(second, *range(4, 7))
    assert same(moved(second), moved(whole))
    assert not same(moved(first), moved(whole))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "lbfgs"])  # it refuses to accumulate
def test_accumulation_gives_the_update_of_the_large_batch(name):
    """With weights per example and ignored labels, in batches of unequal size."""
    whole, parts = make(name), make(name)
    for run, sizes in ((whole, [32]), (parts, [20, 12])):
        run.player.model.eval()  # statistics of the batch are the exception
        for step in range(1, 4):
            [batch] = run.batches.at(step)
            batch["weight"] = torch.rand(32, generator=torch.Generator().manual_seed(step))
            batch["target"] = batch["target"].index_fill(0, torch.tensor([step, 25]), -100)
            pieces = [{} for _ in sizes]
            for key, value in batch.items():
                for piece, part in zip(pieces, value.split(sizes), strict=True):
                    piece[key] = part
            run.player.begin(step)
            run.player.step(pieces)
    for p, q in zip(whole.player.parameters, parts.player.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-3 if name == "muon" else 1e-6)  # bf16


# The guard


def on_device(run):
    """The gate of CUDA, which a fused optimizer knows on the CPU too."""
    player, given = run.player, run.player.guard
    assert all(o.defaults.get("fused") for o in player.optimizers)
    player.guard = Guard("abort", "device", given.optimizers, given.scale, player.modules, device=run.device)


FUSED = [n for n in OPTIMIZERS if "fused" in parameters(locate("optim", body(n)[0]))]
GATES = [(name, "host") for name in OPTIMIZERS] + [(name, "device") for name in FUSED]


def skip_without_kernel(name, device):
    if not has_fused(locate("optim", body(name)[0]), torch.device(device)):
        pytest.skip(f"this version of torch has no fused kernel of {name} for {device}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "gate"), GATES)
@pytest.mark.parametrize("bad", [1, 4])
def test_a_bad_step_leaves_no_trace(name, gate, bad, device):
    """At the first step and later: everything stays as it was, and the training goes on as if it had not been."""
    if gate == "device":
        skip_without_kernel(name, device)
    hit, spared = (make(name, f"trainer.device={device}") for _ in range(2))
    if gate == "device":
        on_device(hit)
    take(hit, *range(1, bad))
    before = moved(hit)
    garbage = [torch.full_like(p, NAN) for p in hit.player.parameters for _ in range(16)]
    del garbage  # what a careless kernel would take for a momentum buffer
    [batch] = hit.batches.at(9)
    batch["input"] = batch["input"].index_fill(0, torch.tensor([3], device=device), NAN)
    hit.player.begin(9)
    assert hit.player.step([batch])[3].item() == 3.0
    assert same(moved(hit), before)
    hit.player.guard.load_state_dict(hit.player.guard.state_dict())  # the host has looked: a latch is released
    verdicts = take(hit, *range(bad, 7))
    assert verdicts == take(spared, *range(1, 7))[bad - 1 :]
    assert same(moved(hit), moved(spared))


@contextmanager
def no_wait(device):
    """Fails where the host reads from the device."""
    if device == "cpu":
        with CountReads() as count:
            yield
        assert count.reads == 0
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FUSED)
def test_a_fused_step_waits_for_no_device(name, device):
    skip_without_kernel(name, device)
    run = make(name, f"trainer.device={device}", "trainer.nonfinite=abort", "trainer.clip_norm=1")
    if device == "cpu":
        on_device(run)
    assert run.player.guard.gate == "device"
    batches = [run.batches.at(step) for step in (2, 3, 4)]
    assert take(run, 1) == [0.0]  # the first step is looked at, on purpose
    with no_wait(device):
        for step, micro_batches in enumerate(batches, 2):
            run.player.begin(step)
            run.player.step(micro_batches)
    before = moved(run)
    assert take(run, 5) == [0.0]
    assert not same(moved(run), before)
