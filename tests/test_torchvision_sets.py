"""torchvision's sets, on small files in the real formats: what is read, and what is said where files are absent."""

import gzip
import hashlib
import pickle
import re
import struct
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
from torchvision import datasets

from lossbench.data import torchvision_sets
from lossbench.errors import DataError, ResourceError

RNG = np.random.default_rng(0)


def pixels(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def idx(array):
    """LeCun's format: a magic number with type and dimensions, the sizes, the bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def write_mnist(tmp_path):
    def write(folder, images, labels):
        (tmp_path / folder / "raw").mkdir(parents=True)
        for part in ("train", "t10k"):
            (tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte").write_bytes(idx(images[part]))
            (tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels[part]))

    return write


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_are_read(tmp_path, write_mnist, name, folder):
    images = {"train": pixels(6, 28, 28), "t10k": pixels(4, 28, 28)}
    labels = {"train": np.arange(6, dtype=np.uint8), "t10k": np.arange(6, 10, dtype=np.uint8)}
    write_mnist(folder, images, labels)
    source = getattr(torchvision_sets, name)(root=str(tmp_path))
    whole = np.concatenate([images["train"], images["t10k"]])
    assert (source.features.shape, source.features.dtype) == ((10, 1, 28, 28), np.float32)
    np.testing.assert_allclose(source.features[:, 0], whole / 255, rtol=1e-6)
    assert (source.target.tolist(), source.task, source.held_out) == (list(range(10)), "multiclass", 4)
    assert source.classes[0] == {"mnist": "0", "fashion_mnist": "T-shirt/top"}[name]
    assert len(source.classes) == 10


def write_cifar(root, kind, names, label_key, monkeypatch):
    """Batches as CIFAR has them: pickled dicts of rows of red, green and blue planes."""
    folder = root / kind.base_folder
    folder.mkdir()
    data = {}
    for i, name in enumerate([*names, kind.test_list[0][0]]):
        data[name] = pixels(2, 3072)
        (folder / name).write_bytes(pickle.dumps({"data": data[name], label_key: [i, i + 1]}))
    words = [f"class {i}" for i in range(100 if label_key == "fine_labels" else 10)]
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: words}))
    monkeypatch.setattr(kind, "train_list", [[name, md5(folder / name)] for name in names])
    monkeypatch.setattr(kind, "test_list", [[kind.test_list[0][0], md5(folder / kind.test_list[0][0])]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    return np.concatenate(list(data.values()))


CIFAR = [
    ("cifar10", datasets.CIFAR10, [f"data_batch_{i}" for i in range(1, 6)], "labels"),
    ("cifar100", datasets.CIFAR100, ["train"], "fine_labels"),
]


@pytest.mark.parametrize(("name", "kind", "names", "key"), CIFAR)
def test_cifars_batches_are_read(tmp_path, monkeypatch, name, kind, names, key):
    rows = write_cifar(tmp_path, kind, names, key, monkeypatch)
    source = getattr(torchvision_sets, name)(root=str(tmp_path))
    np.testing.assert_allclose(source.features, rows.reshape(-1, 3, 32, 32) / 255, rtol=1e-6)
    assert source.target.tolist() == [label for i in range(len(names) + 1) for label in (i, i + 1)]
    assert (source.held_out, source.classes[1], source.features.dtype) == (2, "class 1", np.float32)


def test_a_pickle_that_is_not_the_published_one_is_never_opened(tmp_path, monkeypatch):
    opened = tmp_path / "opened"

    class Trap:
        def __reduce__(self):
            return (opened.touch, ())

    kind = datasets.CIFAR10
    write_cifar(tmp_path, kind, CIFAR[0][2], "labels", monkeypatch)
    for name in ("data_batch_3", "test_batch", "batches.meta"):
        path = tmp_path / kind.base_folder / name
        good = path.read_bytes()
        path.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(DataError, match="or are not the published ones"):
            torchvision_sets.cifar10(root=str(tmp_path))
        assert not opened.exists()
        path.write_bytes(good)
    torchvision_sets.cifar10(root=str(tmp_path))


@pytest.fixture
def write_svhn(tmp_path, monkeypatch):
    """MATLAB files of images (32, 32, 3, N) and labels (N, 1), where 10 stands for 0."""
    images = {"train": pixels(32, 32, 3, 4), "test": pixels(32, 32, 3, 2)}
    labels = {"train": [1, 10, 9, 5], "test": [10, 3]}
    listed = dict(datasets.SVHN.split_list)
    for part, array in images.items():
        path = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": array, "y": np.array(labels[part], dtype=np.uint8)[:, None]})
        listed[part] = [listed[part][0], path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    return np.concatenate([array.transpose(3, 2, 0, 1) for array in images.values()])


def test_svhns_files_are_read(tmp_path, write_svhn):
    source = torchvision_sets.svhn(root=str(tmp_path))
    np.testing.assert_allclose(source.features, write_svhn / 255, rtol=1e-6)
    assert (source.target.tolist(), source.held_out) == ([1, 0, 9, 5, 0, 3], 2)
    assert source.classes == tuple("0123456789")


FOLDERS = {
    "mnist": "/MNIST/raw",
    "fashion_mnist": "/FashionMNIST/raw",
    "cifar10": "/cifar-10-batches-py",
    "cifar100": "/cifar-100-python",
    "svhn": "",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_absent_files_are_said_and_how_to_get_them(cli, tmp_path, name):
    code, out, err = cli("train", f"dataset={name}", "dataset.root=sets")
    assert (code, out) == (3, "")
    assert err == (
        f"lossbench: error: dataset '{name}': its files are not in 'sets{FOLDERS[name]}', or are not the published "
        "ones; dataset.download=true downloads them there, dataset.root=PATH says where you have them\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("reason", [URLError("no route to host"), ConnectionResetError("no route to host")])
def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch, name, reason):
    def fails(*_, **__):
        raise reason

    monkeypatch.setattr(urllib.request, "urlopen", fails)
    wanted = f"dataset '{name}': cannot download its files to '{tmp_path}': "
    with pytest.raises(ResourceError, match=f"^{re.escape(wanted)}.*no route to host") as caught:
        getattr(torchvision_sets, name)(root=str(tmp_path), download=True)
    assert "\n" not in str(caught.value)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A directory that a server of our own serves, and its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_download_is_asked_for_and_checked(tmp_path, monkeypatch, served):
    images = {"train": pixels(3, 28, 28), "t10k": pixels(2, 28, 28)}
    labels = {"train": np.arange(3, dtype=np.uint8), "t10k": np.arange(2, dtype=np.uint8)}
    folder, address = served
    sums = []
    for name, _ in datasets.MNIST.resources:
        part, kind = name.split("-")[:2]
        path = folder / name
        path.write_bytes(gzip.compress(idx((images if kind == "images" else labels)[part])))
        sums.append((name, md5(path)))
    monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
    monkeypatch.setattr(datasets.MNIST, "resources", sums)
    root = tmp_path / "root"
    with pytest.raises(DataError, match=r"dataset\.download=true"):
        torchvision_sets.mnist(root=str(root))
    source = torchvision_sets.mnist(root=str(root), download=True)
    assert source.target.tolist() == [0, 1, 2, 0, 1]
    assert torchvision_sets.mnist(root=str(root)).held_out == 2
    (folder / sums[0][0]).write_bytes(b"something else")
    with pytest.raises(ResourceError, match="cannot download its files"):
        torchvision_sets.mnist(root=str(tmp_path / "other"), download=True)


def test_damaged_files_are_said(tmp_path, write_mnist):
    images = {"train": pixels(3, 28, 28), "t10k": pixels(2, 28, 28)}
    labels = {"train": np.arange(3, dtype=np.uint8), "t10k": np.arange(2, dtype=np.uint8)}
    write_mnist("MNIST", images, labels)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for damaged in (b"", whole[:3], whole[:100], b"\xff" * 100):
        path.write_bytes(damaged)
        wanted = f"dataset 'mnist': its files in '{path.parent}' cannot be read: "
        with pytest.raises(DataError, match=f"^{re.escape(wanted)}"):
            torchvision_sets.mnist(root=str(tmp_path))
