"""Batches: their order, their sizes, and the same content wherever the inputs are kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lossbench.data import Batches, DatasetOptions, Source, Split, SplitShares, gather, prepare
from lossbench.data.rowwise import Rowwise
from lossbench.errors import DataError

# From Python 3.12 on, a fork beside torch's own threads is warned of.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

N = 10
SPLIT = Split(
    inputs=10.0 + torch.arange(N)[:, None],
    target=20.0 + torch.arange(N),
    weight=30.0 + torch.arange(N),
    rows=torch.arange(N) * 2,
)


def steps(epoch=0, split=SPLIT, **options):
    """The places in the split, by step and micro-batch."""
    batches = Batches(split, **{"batch_size": 4, **options}).epoch(epoch)
    return [[batch["index"].tolist() for batch in step] for step in batches]


def flat(nested):
    return [i for step in nested for batch in step for i in batch]


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 99])
def test_every_example_comes_once_an_epoch(batch_size):
    for epoch in range(3):
        assert sorted(flat(steps(epoch, batch_size=batch_size))) == list(range(N))


def test_the_order_is_a_function_of_seed_and_epoch():
    batches = Batches(SPLIT, batch_size=4, seed=7)
    torch.manual_seed(1)
    later, first = [flat(steps(epoch, seed=7)) for epoch in (3, 0)]
    torch.manual_seed(2)
    assert [batches.order(epoch).tolist() for epoch in (0, 3)] == [first, later]
    assert flat(steps(seed=7, batch_size=3, accumulate=2, workers=2)) == first
    assert len({tuple(flat(steps(epoch, seed=seed))) for epoch in range(5) for seed in range(5)}) == 25


def test_drawing_an_order_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    steps()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [[4], [4], [2]]),
        ({"drop_last": True}, [[4], [4]]),
        ({"accumulate": 2}, [[4, 4], [2]]),
        ({"accumulate": 2, "drop_last": True}, [[4, 4]]),
        ({"accumulate": 3}, [[4, 4, 2]]),
        ({"accumulate": 9}, [[4, 4, 2]]),
        ({"batch_size": 5, "accumulate": 2}, [[5, 5]]),
        ({"batch_size": 5, "drop_last": True}, [[5], [5]]),
        ({"batch_size": 99}, [[10]]),
        ({"batch_size": 99, "drop_last": True}, []),
    ],
)
def test_sizes_of_batches_and_steps(options, sizes):
    found = steps(**options)
    assert [[len(batch) for batch in step] for step in found] == sizes
    batches = Batches(SPLIT, **{"batch_size": 4, **options})
    assert batches.steps_per_epoch == len(sizes)
    assert batches.batches_per_epoch == sum(map(len, sizes))
    assert batches.examples_per_epoch == sum(map(sum, sizes))


def test_drop_last_leaves_out_other_examples_each_epoch():
    assert len({frozenset(flat(steps(epoch, drop_last=True))) for epoch in range(9)}) > 1


def test_a_batch_holds_the_examples_of_its_index():
    for step in Batches(SPLIT, batch_size=4).epoch(0):
        for batch in step:
            index = batch["index"]
            assert torch.equal(batch["input"][:, 0], 10.0 + index)
            assert torch.equal(batch["target"], 20.0 + index)
            assert torch.equal(batch["weight"], 30.0 + index)


def test_without_weights_a_batch_has_none():
    (batch,) = gather(replace(SPLIT, weight=None), torch.arange(3), 4)
    assert list(batch) == ["input", "target", "index"]


def test_some_examples_of_a_split():
    some = SPLIT.take(torch.tensor([7, 2]))
    assert (len(some), some.rows.tolist(), some.target.tolist()) == (2, [14, 4], [27, 22])
    (batch,) = gather(some, torch.tensor([1, 0]), 4)
    assert batch["input"].tolist() == [[12], [17]]


class Items(Dataset):
    """What `make` gives for a row, read one by one; with `at`, for that row alone."""

    def __init__(self, make, at=None):
        self.make, self.at = make, at

    def __len__(self):
        return 40

    def __getitem__(self, row):
        return self.make(row) if self.at in (None, row) else TENSOR[row]


POINTS = np.random.default_rng(0).normal(size=(40, 3, 2)).astype(np.float32)
TENSOR = torch.tensor(POINTS)
LABELS = np.arange(40) % 2


def ready(features):
    options = DatasetOptions(split={}, standardize=False)
    return prepare(Source(features, LABELS, "binary"), options, SplitShares(), 0, torch.device("cpu"))


def content(split, workers=0, **options):
    batches = Batches(split, batch_size=8, workers=workers, **options)
    return [{k: v.tolist() for k, v in batch.items()} for e in (0, 1) for step in batches.epoch(e) for batch in step]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "item", [TENSOR.__getitem__, POINTS.astype(np.float64).__getitem__], ids=["tensors", "float64 arrays"]
)
def test_a_dataset_gives_the_batches_that_a_tensor_gives(item, workers):
    resident, lazy = ready(POINTS), ready(Items(item))
    assert lazy.input_shape == resident.input_shape == (3, 2)
    assert next(gather(lazy.test, torch.arange(2), 2, workers))["input"].dtype == torch.float32
    before = torch.get_rng_state()
    assert content(lazy.train, workers) == content(resident.train)
    assert torch.equal(torch.get_rng_state(), before)
    some = torch.tensor([5, 1, 3])
    assert content(lazy.val.take(some), workers) == content(resident.val.take(some))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_array_that_stays_in_host_memory_gives_the_same_batches(workers):
    resident = ready(POINTS).train
    rows = resident.rows.numpy()
    hosted = replace(resident, inputs=Rowwise(POINTS, rows, (3, 2)))
    assert content(hosted, workers) == content(resident)
    assert torch.equal(hosted.inputs[4], resident.inputs[4])


def drawn(row):
    return torch.rand(2)


def test_loader_processes_draw_anew_each_epoch_and_the_same_in_each_run():
    split = ready(Items(drawn)).train
    first = [batch["input"] for batch in content(split, workers=2, seed=5)]
    assert [batch["input"] for batch in content(split, workers=2, seed=5)] == first
    half = len(first) // 2
    assert sorted(map(str, first[:half])) != sorted(map(str, first[half:]))


def nothing(row):
    return None


def pair(row):
    return TENSOR[row], 1


def flat_item(row):
    return torch.ones(4)


def unreadable(row):
    raise OSError(f"cannot identify image file '{row}.png'\nin two lines")


INPUTS_ALONE = "not a tensor; a data set gives the inputs alone, and their targets are Source.target"
FAULTS = [
    (nothing, f"is of type NoneType, {INPUTS_ALONE}"),
    (pair, f"is of type tuple, {INPUTS_ALONE}"),
    (flat_item, "has shape (4,), and example 0 (3, 2)"),
    (unreadable, "cannot be read: OSError: cannot identify image file '{row}.png'"),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("make", "message"), FAULTS)
def test_an_example_that_cannot_be_used_is_named_in_one_line(make, message, workers):
    row = int(ready(POINTS).train.rows[-1])
    faulty = ready(Items(make, at=row)).train
    with pytest.raises(DataError) as error:
        content(faulty, workers)
    assert str(error.value) == f"example {row} {message.format(row=row)}"


def test_a_first_example_that_cannot_be_used_is_refused_at_once():
    with pytest.raises(DataError, match=r"^example 0 is of type NoneType"):
        ready(Items(nothing))
