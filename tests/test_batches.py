"""Batches: their order, their sizes, and the same content wherever the inputs are kept."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from lossbench.data import Batches, DatasetOptions, Source, Split, SplitShares, gather, prepare
from lossbench.data.rowwise import Rowwise
from lossbench.errors import DataError, ResourceError

# From Python 3.12 on, a fork beside torch's own threads is warned of.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

N = 10
SPLIT = Split(
    inputs=10.0 + torch.arange(N)[:, None],
    target=20.0 + torch.arange(N),
    weight=30.0 + torch.arange(N),
    rows=torch.arange(N) * 2,
    group=torch.arange(N) % 3,
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

            assert torch.equal(batch["group"], index % 3)


def test_without_weights_and_groups_a_batch_has_none():
    (batch,) = gather(replace(SPLIT, weight=None, group=None), torch.arange(3), 4)
    assert list(batch) == ["input", "target", "index"]


def test_some_examples_of_a_split():
    some = SPLIT.take(torch.tensor([7, 2]))
    assert (len(some), some.rows.tolist(), some.target.tolist()) == (2, [14, 4], [27, 22])
    assert (some.weight.tolist(), some.group.tolist()) == ([37, 32], [1, 2])
    (batch,) = gather(some, torch.tensor([1, 0]), 4)
    assert batch["input"].tolist() == [[12], [17]]


RARE = replace(SPLIT, target=torch.tensor([0, 2, 2, 2, 2, 2, 2, 2, 2, 5]))  # classes 1, 3 and 4 have no example


def test_a_balanced_order_draws_each_class_equally_often():
    """Of 9,000 draws 3,000 a class, give or take 4 x 45; class 2's eight examples share theirs, 375 each."""
    balanced = Batches(RARE, batch_size=4, sampler="balanced")
    drawn = torch.cat([balanced.order(epoch) for epoch in range(900)]).bincount(minlength=N)
    assert drawn.sum() == 9000
    assert (drawn[[0, 9]] - 3000).abs().max() < 180
    assert (drawn[1:9] - 375).abs().max() < 80


@pytest.mark.parametrize("target", [torch.tensor([0.0] * 9 + [1.0]), torch.tensor([0] * 9 + [1])], ids=["0/1", "ids"])
def test_a_balanced_order_of_two_classes(target):
    orders = [Batches(replace(SPLIT, target=target), batch_size=4, sampler="balanced").order(e) for e in range(300)]
    assert abs(sum(int((order == 9).sum()) for order in orders) - 1500) < 110


def test_a_balanced_order_is_a_function_of_seed_and_epoch_and_as_long_as_any():
    balanced = Batches(RARE, batch_size=4, sampler="balanced", seed=7)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    later, first = balanced.order(3), balanced.order(0)
    assert torch.equal(torch.get_rng_state(), before)
    again = Batches(RARE, batch_size=2, sampler="balanced", seed=7, accumulate=2, workers=2)
    assert torch.equal(again.order(0), first)
    assert torch.equal(again.order(3), later)
    assert (
        len({tuple(Batches(RARE, batch_size=4, sampler="balanced", seed=s).order(0).tolist()) for s in range(9)}) == 9
    )
    assert [[len(batch["index"]) for batch in step] for step in balanced.epoch(0)] == [[4], [4], [2]]
    assert (balanced.steps_per_epoch, balanced.examples_per_epoch, len(first)) == (3, 10, 10)


def test_where_nothing_is_asked_every_example_comes_once():
    orders = [Batches(RARE, batch_size=4, **options).order(2).tolist() for options in ({}, {"sampler": "shuffle"})]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(N))


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


def ready(features, **more):
    options = DatasetOptions(split={}, standardize=False, **more)
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
    """From each of the global streams that an augmentation may draw from."""
    return torch.tensor([torch.rand(()).item(), np.random.random(), random.random(), row])  # noqa: NPY002


def inputs(batches):
    return [batch["input"].tolist() for batch in batches]


def streams():
    return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # noqa: NPY002


def test_random_reading_depends_on_seed_epoch_and_batch_alone():
    split = ready(Items(drawn)).train
    here, before = Batches(split, batch_size=8, seed=5), streams()
    first = [[inputs(step) for step in here.epoch(epoch)] for epoch in (0, 1)]
    assert streams() == before
    for workers in (1, 2):
        torch.manual_seed(workers)
        np.random.seed(workers)  # noqa: NPY002
        random.seed(workers)
        batches = Batches(split, batch_size=8, seed=5, workers=workers)
        assert [[inputs(step) for step in batches.epoch(epoch)] for epoch in (0, 1)] == first
    values = [number for epoch in first for step in epoch for batch in step for row in batch for number in row[:3]]
    assert len(set(values)) == len(values)
    other = Batches(split, batch_size=8, seed=6)
    assert not set(values) & {number for step in other.epoch(0) for row in step[0]["input"] for number in row.tolist()}


def test_an_evaluation_reads_the_same_every_time():
    split = ready(Items(drawn)).val
    every = torch.arange(len(split))
    first = inputs(gather(split, every, 4))
    torch.manual_seed(9)
    assert inputs(gather(split, every, 4)) == inputs(gather(split, every, 4, workers=2)) == first


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize("kind", ["tensor", "read"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_that_are_skipped_change_nothing_in_the_others(kind, workers, accumulate, sampler):
    """28 training rows in batches of 4: 7 batches, so 3 steps of 3, 3 and 1 of them."""
    split = ready(POINTS if kind == "tensor" else Items(drawn)).train
    batches = Batches(split, batch_size=4, sampler=sampler, accumulate=accumulate, seed=3, workers=workers)
    whole = [inputs(step) for step in batches.epoch(2)]
    for skip in range(batches.steps_per_epoch + 1):
        assert [inputs(step) for step in batches.epoch(2, skip=skip)] == whole[skip:]


def test_what_is_skipped_is_not_read():
    seen = []

    def make(row):
        seen.append(row)
        return torch.zeros(2)

    split = ready(Items(make)).train
    batches = Batches(split, batch_size=4, accumulate=2)
    seen.clear()
    (last,) = batches.epoch(1, skip=3)
    assert seen == split.rows[batches.order(1)[24:]].tolist()
    assert [len(batch["index"]) for batch in last] == [4]


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("kind", ["tensor", "read"])
def test_each_step_can_be_had_again(kind, drop_last, sampler):
    split = ready(POINTS if kind == "tensor" else Items(drawn)).train
    batches = Batches(split, batch_size=8, sampler=sampler, accumulate=2, seed=3, workers=2, drop_last=drop_last)
    steps = [step for epoch in range(3) for step in batches.epoch(epoch)]
    before = streams()
    for number, step in enumerate(steps, 1):
        again = batches.at(number)
        assert inputs(again) == inputs(step)
        for name in ("index", "target"):
            assert [batch[name].tolist() for batch in again] == [batch[name].tolist() for batch in step]
    assert streams() == before


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


def process():
    return torch.utils.data.get_worker_info()


def killed(row):
    if process():
        os.kill(os.getpid(), signal.SIGKILL)
    return TENSOR[row]


def left(row):
    if process():
        sys.exit(3)
    return TENSOR[row]


def hanging(row):
    if process():
        time.sleep(600)
    return TENSOR[row]


def slow(row):
    time.sleep(0.03)
    return TENSOR[row]


KILLED = r"^a loader process was killed by signal 9 \(SIGKILL\); probably out of memory: lower dataset\.workers$"
HANGS = (
    r"^no batch from the loader processes for 0\.5 s \(dataset\.timeout\); an example's reading hangs, or is slower "
    r"than that: see what it waits for with dataset\.workers=0, or raise dataset\.timeout$"
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (killed, KILLED),
        (left, r"^a loader process ended by itself with exit code 3; dataset\.workers=0 shows why$"),
        (hanging, HANGS),
    ],
)
def test_a_loader_process_that_gives_nothing_is_said_and_none_is_left(make, message):
    data = ready(Items(make), timeout=0.5)
    row = int(data.train.rows[-1])
    split = replace(data.train, inputs=Rowwise(Items(make, at=row), data.train.rows.numpy(), (3, 2), 0.5))
    started = time.monotonic()
    with pytest.raises(ResourceError, match=message):
        content(split, workers=2)
    assert time.monotonic() - started < 4.5  # torch alone would wait 5 s for each
    assert multiprocessing.active_children() == []


def test_an_epoch_that_is_left_leaves_no_process():
    batches = Batches(ready(Items(hanging, at=-1)).train, batch_size=2, workers=2)
    steps = batches.epoch(0)
    next(steps)
    assert len(multiprocessing.active_children()) == 2
    steps.close()
    assert multiprocessing.active_children() == []


def test_an_epoch_that_is_left_while_its_processes_hang_ends_soon(monkeypatch):
    monkeypatch.setattr("lossbench.data.loader.GRACE", 0.3)
    split = ready(Items(TENSOR.__getitem__)).train
    late = int(split.rows[Batches(split, batch_size=1).order(0)[-1]])
    hung = replace(split, inputs=Rowwise(Items(hanging, at=late), split.rows.numpy(), (3, 2)))
    steps = Batches(hung, batch_size=1, workers=2).epoch(0)
    for _ in range(len(split) - 1):
        next(steps)
    started = time.monotonic()
    steps.close()
    assert time.monotonic() - started < 4
    while multiprocessing.active_children() and time.monotonic() - started < 20:  # killed, and the system is busy
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


def test_reading_that_is_slower_than_a_look_at_the_processes_is_no_fault(monkeypatch):
    monkeypatch.setattr("lossbench.data.loader.POLL", 0.01)
    assert content(ready(Items(slow)).val, workers=1) == content(ready(POINTS).val)


def test_a_process_that_is_killed_during_a_step_does_not_disturb_the_step():
    """torch would raise wherever the main process is; the next batch says it in our words."""
    split = ready(Items(TENSOR.__getitem__)).train
    steps = Batches(split, batch_size=2, workers=2).epoch(0)
    next(steps)
    for child in multiprocessing.active_children():
        child.kill()
    for _ in range(50):
        time.sleep(0.01)
    with pytest.raises(ResourceError, match=KILLED):
        list(steps)


def test_signals_to_the_whole_group_are_the_main_process_own():
    split = ready(Items(slow)).train
    steps = Batches(split, batch_size=2, workers=2).epoch(0)
    rows = [next(steps)[0]["input"]]
    for child in multiprocessing.active_children():
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
            os.kill(child.pid, getattr(signal, name))
    rows += [step[0]["input"] for step in steps]
    assert len(torch.cat(rows)) == len(split)


PROGRAM = """
import sys, time
import numpy as np
import torch
from torch.utils.data import Dataset
from lossbench.data import Batches, DatasetOptions, Source, SplitShares, prepare

class Items(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, row):
        if torch.utils.data.get_worker_info() and row > 20:
            time.sleep(600)
        return torch.ones(2)

if __name__ == "__main__":
    source = Source(Items(), np.arange(40) % 2, "binary")
    options = DatasetOptions(split={}, timeout=1)
    train = prepare(source, options, SplitShares(), 0, torch.device("cpu")).train
    ENDING
"""


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("list(Batches(train, batch_size=2, workers=2).epoch(0))", "no batch from the loader processes for 1 s"),
        ("kept = Batches(train.take(torch.arange(28)), batch_size=1, workers=2).epoch(0); next(kept); 1 / 0",
         "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_a_program_ends_while_loader_processes_hang(tmp_path, ending, said):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.replace("ENDING", ending))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert said in done.stderr
