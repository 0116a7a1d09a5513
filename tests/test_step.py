"""A step against the same step written out in plain torch."""

from __future__ import annotations

import pytest
import torch
from devices import ON_CUDA
from torch import nn
from torch.nn import functional as F

from lossbench.engine import (
    Average,
    Clip,
    Guard,
    LossScale,
    Objective,
    Part,
    Player,
    Term,
    autocast,
    choose_gate,
    reduce,
)
from lossbench.losses import cross_entropy, mse
from lossbench.tasks import Multiclass, Regression

CPU = torch.device("cpu")


def make(task, loss, model, optimizer, *, clip=None, policy="abort", precision="fp32", reduction="mean", device=CPU):
    scale = LossScale(device, enabled=precision == "fp16")
    objective = Objective([Part("loss", 1.0, loss, task.pair)], reduction)
    gate = choose_gate(policy, device, scale, [optimizer])
    guard = Guard(policy, gate, [optimizer], scale, [model], device=device)
    return Player(
        model,
        task,
        objective,
        list(model.parameters()),
        [optimizer],
        [],
        guard,
        scale,
        autocast(precision, device),
        clip or Clip(),
    )


def classes(n=12, seed=0):
    g = torch.Generator().manual_seed(seed)
    batch = {"input": torch.randn(n, 5, generator=g), "target": torch.randint(0, 3, (n,), generator=g)}
    return batch | {"index": torch.arange(n)}


def split(batch, *sizes):
    parts = [{}, *({} for _ in sizes[1:])]
    for key, value in batch.items():
        for part, piece in zip(parts, value.split(sizes), strict=True):
            part[key] = piece
    return parts


def net(seed=0, out=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, out))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.Adam, {"lr": 0.01}),
        (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
        (torch.optim.RMSprop, {"lr": 0.01}),
    ],
)
@pytest.mark.parametrize("clip", [None, 0.05, 100.0])
def test_follows_a_bare_loop(kind, options, clip):
    model, bare = net(), net()
    player = make(Multiclass(3), cross_entropy, model, kind(model.parameters(), **options), clip=Clip(norm=clip))
    optimizer = kind(bare.parameters(), **options)
    for i in range(8):
        batch = classes(seed=i)
        loss, norm, _, verdict = player.step([batch]).tolist()
        optimizer.zero_grad()
        expected = F.cross_entropy(bare(batch["input"]), batch["target"])
        expected.backward()
        total = nn.utils.clip_grad_norm_(bare.parameters(), clip or float("inf"))
        optimizer.step()
        assert (loss, norm, verdict) == (pytest.approx(expected.item(), rel=1e-6), pytest.approx(total.item()), 0)
    for p, q in zip(model.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_clip_value():
    model = net()
    player = make(
        Multiclass(3), cross_entropy, model, torch.optim.SGD(model.parameters(), lr=1.0), clip=Clip(value=1e-3)
    )
    before = [p.detach().clone() for p in model.parameters()]
    player.step([classes()])
    moved = torch.cat([(p - q).abs().flatten() for p, q in zip(model.parameters(), before, strict=True)])
    assert moved.max() <= 1.001e-3  # at a rate of 1 a parameter moves by its gradient


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 5, 2), (11, 1)])
def test_accumulation_is_the_large_batch(reduction, sizes):
    """With class weights, ignored labels, and weights per example, in batches of unequal size."""

    def loss(logits, labels):
        return cross_entropy(logits, labels, weight=torch.tensor([1.0, 2.0, 0.5]), ignore_index=2)

    batch = classes() | {"weight": torch.rand(12, generator=torch.Generator().manual_seed(3))}
    whole, parts = net(), net()
    rows = []
    for model, micro in ((whole, [batch]), (parts, split(batch, *sizes))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rows.append(make(Multiclass(3), loss, model, optimizer, reduction=reduction, clip=Clip(norm=0.1)).step(micro))
    torch.testing.assert_close(*rows)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_accumulation_bears_a_micro_batch_without_weight():
    batch = classes()
    batch["target"][:4] = -100
    whole, parts = net(), net()
    for model, micro in ((whole, [batch]), (parts, split(batch, 4, 8))):
        make(Multiclass(3), cross_entropy, model, torch.optim.SGD(model.parameters(), lr=0.1)).step(micro)
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_reduce_by_hand():
    plain = Term("a", 1.0, torch.tensor([1.0, 3.0]), None)
    weighted = Term("b", 0.5, torch.tensor([2.0, 6.0]), torch.tensor([1.0, 3.0]))
    # (1 + 3) / 2 + 0.5 (2 + 6) / (1 + 3) = 2 + 1; as sums: 4 + 0.5 x 8
    assert reduce([plain, weighted]).item() == 3.0
    assert reduce([plain, weighted], "sum").item() == 8.0
    assert reduce([Term("c", 1.0, torch.tensor(5.0), None)]).item() == 5.0
    assert torch.isnan(reduce([Term("d", 1.0, torch.zeros(2), torch.zeros(2))]))


def test_example_weights_scale_the_mean():
    """mse values 4 and 16 with weights 3 and 1: (12 + 16) / 4 = 7."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    batch = {
        "input": torch.tensor([[2.0], [4.0]]),
        "target": torch.zeros(2),
        "weight": torch.tensor([3.0, 1.0]),
        "index": torch.arange(2),
    }
    player = make(Regression(), mse, model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert player.step([batch])[0].item() == 7.0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_follows_fp32(precision):
    exact, rough = net(), net()
    steps = {}
    for name, model in (("fp32", exact), (precision, rough)):
        player = make(
            Multiclass(3),
            cross_entropy,
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            precision=name,
            clip=Clip(norm=1.0),
        )
        steps[name] = [player.step([classes(seed=i)]) for i in range(5)]
    for a, b in zip(steps["fp32"], steps[precision], strict=True):
        torch.testing.assert_close(a[:2], b[:2], rtol=0.05, atol=0.02)
    for p, q in zip(exact.parameters(), rough.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.05, atol=0.01)


def test_fp16_accumulation_follows_fp32():
    exact, rough = net(), net()
    for name, model in (("fp32", exact), ("fp16", rough)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        player = make(Multiclass(3), cross_entropy, model, optimizer, precision=name, clip=Clip(norm=0.5))
        for i in range(3):
            player.step(split(classes(seed=i), 4, 4, 4))
    for p, q in zip(exact.parameters(), rough.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("average", [pytest.param(kind, marks=ON_CUDA) for kind in (None, "ema", "swa")])
def test_no_host_sync_on_cuda(average):
    device = torch.device("cuda")
    model = net().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    player = make(Multiclass(3), cross_entropy, model, optimizer, clip=Clip(norm=1.0), precision="bf16", device=device)
    assert player.guard.gate == "device"
    player.average = Average(average, player.parameters) if average else None
    batches = [{k: v.to(device) for k, v in classes(seed=i).items()} for i in range(5)]
    player.step([batches[0]])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step, batch in enumerate(batches, 1):
            player.begin(step)
            player.step([batch])
    finally:
        torch.cuda.set_sync_debug_mode("default")
