"""A user's arrays: what they become, and what is said when they are wrong."""

import re

import numpy as np
import pytest

from lossbench.data.npz import npz
from lossbench.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(6, 2))


@pytest.fixture
def read(tmp_path):
    def reader(x=POINTS, y=(0, 1, 0, 1, 0, 1), names=("x", "y"), **options):
        path = tmp_path / "arrays.npz"
        np.savez(path, **dict(zip(names, (np.asarray(x), np.asarray(y)), strict=True)))
        return npz(path=str(path), **options)

    return reader


SHARES = [[0.25, 0.75, 0], [1, 0, 0]] * 3
TARGETS = {
    "two whole numbers": ([3, 7] * 3, "binary", ("3", "7"), [0, 1] * 3),
    "truth values": ([True, False] * 3, "binary", ("0", "1"), [1, 0] * 3),
    "few whole numbers": ([2, 0, 1] * 2, "multiclass", ("0", "1", "2"), [2, 0, 1] * 2),
    "many whole numbers": ([2, 0, 1, 5, 8, 9], "regression", (), [2, 0, 1, 5, 8, 9]),
    "words": (["b", "a", "c"] * 2, "multiclass", ("a", "b", "c"), [1, 0, 2] * 2),
    "floats": ([0.0, 1.0, 0.0] * 2, "regression", (), [0, 1, 0] * 2),
    "a column": ([[0.5], [1.5], [2.5]] * 2, "regression", (), [0.5, 1.5, 2.5] * 2),
    "rows of 0 and 1": ([[0, 1, 1], [1, 0, 0]] * 3, "multilabel", ("0", "1", "2"), [[0, 1, 1], [1, 0, 0]] * 3),
    "rows of truth values": ([[False, True], [True, True]] * 3, "multilabel", ("0", "1"), [[0, 1], [1, 1]] * 3),
    "rows of 0.0 and 1.0": ([[0.0, 1, 1], [1, 0, 0]] * 3, "multilabel", ("0", "1", "2"), [[0, 1, 1], [1, 0, 0]] * 3),
    "rows of probabilities": (SHARES, "multiclass", ("0", "1", "2"), SHARES),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_the_task_is_inferred_from_type_and_shape(read, kind):
    y, task, classes, target = TARGETS[kind]
    source = read(y=y)
    assert (source.task, source.classes, source.target.tolist()) == (task, classes, target)
    assert source.notes == (f"task {task}, inferred from 'y'; dataset.task=... states another",)


@pytest.mark.parametrize(
    ("y", "task", "target"),
    [
        ([0, 1] * 3, "regression", [0, 1] * 3),
        ([0.0, 1.0] * 3, "binary", [0, 1] * 3),
        ([0, 1] * 3, "multiclass", [0, 1] * 3),
        ([[0, 1], [1, 0]] * 3, "multiclass", [[0, 1], [1, 0]] * 3),
        ([[0.0, 1.0], [1.0, 0.0]] * 3, "multilabel", [[0, 1], [1, 0]] * 3),
    ],
)
def test_a_stated_task_is_taken(read, y, task, target):
    source = read(y=y, task=task)
    assert (source.task, source.target.tolist(), source.notes) == (task, target, ())


def test_arrays_have_the_stated_names(read):
    source = read(names=("images", "labels"), inputs="images", target="labels")
    np.testing.assert_array_equal(source.features, POINTS)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


IMAGES = [
    (pixels(6, 5, 4), "auto", lambda x: x[:, None] / 255),
    (pixels(6, 3, 5, 6), "auto", lambda x: x / 255),
    (pixels(6, 5, 6, 3), "auto", lambda x: x.transpose(0, 3, 1, 2) / 255),
    (pixels(6, 5, 6, 1), "auto", lambda x: x.transpose(0, 3, 1, 2) / 255),
    (pixels(6, 3, 5, 3), "first", lambda x: x / 255),
    (pixels(6, 3, 5, 3), "last", lambda x: x.transpose(0, 3, 1, 2) / 255),
    (RNG.random((6, 5, 4, 3), dtype=np.float32), "auto", lambda x: x.transpose(0, 3, 1, 2)),
    (RNG.random((6, 8, 5, 5), dtype=np.float32), "auto", lambda x: x),
    (RNG.random((6, 5, 4)), "auto", lambda x: x),
    (pixels(6, 5), "auto", lambda x: x),
    (RNG.integers(0, 2000, (6, 5, 4)), "auto", lambda x: x),
]


@pytest.mark.parametrize(("x", "channels", "wanted"), IMAGES)
def test_images_have_their_channels_first_and_bytes_become_0_to_1(read, x, channels, wanted):
    features = read(x=x, channels=channels).features
    assert features.shape == wanted(x).shape
    np.testing.assert_allclose(features, wanted(x), rtol=1e-6)
    assert features.dtype == (np.float32 if x.dtype == np.uint8 and x.ndim > 2 else x.dtype)


ROWS = "the target 'y' has 2 columns, which hold neither 0 and 1 alone nor probabilities: row 0"
ERRORS = [
    ({"inputs": "z"}, "dataset.inputs: FILE has no array 'z' (has: x, y)"),
    ({"target": "z"}, "dataset.target: FILE has no array 'z' (has: x, y)"),
    ({"x": np.arange(6)}, "'x' must hold numbers (N, ...), got int64 of shape (6,)"),
    ({"x": np.full((6, 2), "a")}, "'x' must hold numbers (N, ...), got <U1 of shape (6, 2)"),
    ({"y": [0, 1]}, "'x' has shape (6, 2) and 'y' (2,): their lengths differ"),
    ({"y": 1}, "'x' has shape (6, 2) and 'y' (): their lengths differ"),
    ({"y": np.zeros((6, 2, 2))}, "the target 'y' must have shape (N,) or (N, K), got (6, 2, 2)"),
    ({"y": np.zeros(6, complex)}, "the target 'y' must hold numbers or words, got complex128"),
    ({"y": np.zeros(6, int)}, "the target 'y' has one value only, '0': nothing can be learned"),
    ({"y": [0.5, np.nan] * 3}, "the target 'y' is missing in 3 rows, first at row 1"),
    ({"y": [0.5, np.inf] * 3}, "the target 'y', row 1: inf is too large a number"),
    ({"y": [1, 2, 3] * 2, "task": "binary"}, "dataset.task=binary, but the target 'y' has 3 values"),
    ({"y": [1, 0] * 3, "task": "multilabel"},
     "dataset.task=multilabel, but the target 'y' has shape (6,), and not (N, K)"),
    ({"y": [[1, 2]] * 6}, f"{ROWS} sums to 3, and must sum to 1"),
    ({"y": [[0.5, 0.4]] * 6}, f"{ROWS} sums to 0.9, and must sum to 1"),
    ({"y": [[1.5, -0.5]] * 6}, f"{ROWS} holds a number below 0"),
    ({"y": [[0, 1], [1, 0]] * 3},
     "each row of the target 'y' holds one 1: dataset.task=multiclass takes it as a class, dataset.task=multilabel as "
     "labels of which more could hold"),
    ({"y": [[1, 2]] * 6, "task": "multilabel"},
     "dataset.task=multilabel, but the target 'y' holds other values than 0 and 1"),
    ({"y": [[1, 1]] * 6, "task": "multiclass"},
     "dataset.task=multiclass, but the target 'y' holds no probabilities: row 0 sums to 2, and must sum to 1"),
    ({"y": [[1, 1]] * 6, "task": "regression"},
     "the target 'y' has shape (6, 2) and type int64, which is not for task regression"),
    ({"x": pixels(6, 3, 5, 3)},
     ConfigError("'x' has shape (6, 3, 5, 3): set dataset.channels=first or dataset.channels=last")),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "wanted"), ERRORS)
def test_what_is_wrong_is_said(read, tmp_path, arrays, wanted):
    kind, message = (type(wanted), str(wanted)) if isinstance(wanted, Exception) else (DataError, wanted)
    with pytest.raises(kind, match=f"^{re.escape(message.replace('FILE', str(tmp_path / 'arrays.npz')))}$"):
        read(**arrays)


def test_python_objects_are_never_loaded(tmp_path):
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return (opened.touch, ())

    for arrays in ({"x": np.array([Trap()]), "y": np.zeros(1)}, {"x": POINTS, "y": np.array([Trap()] * 6)}):
        np.savez(tmp_path / "trap.npz", **arrays)
        with pytest.raises(DataError, match="Python objects, which can run code and are never loaded"):
            npz(path=str(tmp_path / "trap.npz"))
    assert not opened.exists()


def test_a_file_that_is_not_there_or_is_damaged(tmp_path):
    with pytest.raises(DataError, match=rf"^dataset\.path: there is no file '{tmp_path}/none\.npz'$"):
        npz(path=f"{tmp_path}/none.npz")
    path = tmp_path / "one.npy"
    np.save(path, POINTS)
    with pytest.raises(DataError, match=rf"^{path} holds one array; save inputs and targets together"):
        npz(path=str(path))
    path = tmp_path / "damaged.npz"
    np.savez(path, x=POINTS, y=np.zeros(6))
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:80] + bytes(20) + whole[100:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"^{path} "):
            npz(path=str(path))


def test_it_trains_from_the_command_line(cli, tmp_path):
    labels = np.arange(200) % 3
    images = (RNG.integers(0, 100, (200, 8, 8)) + 50 * labels[:, None, None]).astype(np.uint8)
    np.savez_compressed(tmp_path / "images.npz", x=images, y=labels)
    words = ("dataset=npz", "dataset.path=images.npz", "model=cnn", "trainer.epochs=2", "hydra.run.dir=run")
    code, out, err = cli("train", *words)
    assert (code, err) == (0, "")
    assert "npz-cnn" in out
