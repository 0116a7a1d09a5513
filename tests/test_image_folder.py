"""A user's folders of images: how they are read, in memory or when needed, and what is said when they are wrong."""

import io
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lossbench.data import DatasetOptions, SplitShares, prepare
from lossbench.data.image_folder import image_folder
from lossbench.errors import DataError

RNG = np.random.default_rng(0)
RED, GREEN = (200, 0, 0), (0, 100, 50)


@pytest.fixture
def write(tmp_path):
    """Writes images below a directory, by their path: an image, a colour, or bytes."""

    def writer(files):
        for name, image in files.items():
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(image, bytes):
                path.write_bytes(image)
            else:
                found = Image.new("RGB", (4, 4), image) if isinstance(image, tuple) else image
                found.save(path)
        return str(tmp_path / "images")

    return writer


TWO = {"b/1.png": RED, "b/0.png": RED, "a/x.png": GREEN}


def test_folders_are_classes_and_images_are_in_order(write):
    source = image_folder(root=write(TWO), size=2)
    assert (source.task, source.classes, source.target.tolist()) == ("binary", ("a", "b"), [0, 1, 1])
    assert (source.features.shape, source.features.dtype) == ((3, 3, 2, 2), np.float32)
    np.testing.assert_allclose(source.features[0, :, 0, 0], np.array(GREEN) / 255, rtol=1e-6)
    np.testing.assert_allclose(source.features[2, :, 1, 1], np.array(RED) / 255, rtol=1e-6)


def test_grey_is_one_channel(write):
    """Rec. 601 luma: 0.299 x 200 = 59.8."""
    source = image_folder(root=write(TWO), size=4, grey=True)
    assert source.features.shape == (3, 1, 4, 4)
    assert source.features[2, 0, 0, 0] == pytest.approx(60 / 255)


def test_many_formats_and_modes_are_read(write):
    square = Image.fromarray(np.full((6, 6, 3), 128, np.uint8))
    files = {f"a/{suffix}.{suffix}": square for suffix in ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm", "JPEG")}
    files |= {f"b/{mode}.png": square.convert(mode) for mode in ("L", "P", "RGBA", "LA")}
    files["b/deep.png"] = Image.fromarray(np.full((6, 6), 128 * 257, np.uint16))
    palette = square.convert("P")
    palette.info["transparency"] = bytes([0])
    files["b/clear.png"] = palette
    source = image_folder(root=write(files), size=3)
    assert len(source.features) == 14
    np.testing.assert_allclose(source.features, 128 / 255, atol=0.01)


def test_images_are_turned_as_their_camera_was(write):
    """EXIF orientation 6: to be turned clockwise, so that the left column becomes the top row."""
    image = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 2, axis=0))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "png", exif=exif)
    root = write({"a/turned.png": buffer.getvalue(), "b/x.png": RED})
    found = image_folder(root=root, size=2, grey=True).features[0, 0]
    np.testing.assert_array_equal(found, [[0, 0], [1, 1]])


def test_what_is_no_image_or_hidden_is_passed_over(write):
    extra = {"a/notes.txt": b"x", "a/.hidden.png": b"x", ".cache/x.png": b"x", "readme.png": b"x", "empty/x.txt": b"x"}
    source = image_folder(root=write(TWO | extra), size=2)
    assert (len(source.features), source.classes) == (3, ("a", "b"))
    assert source.notes == ("folder 'empty' has no images in it: left out",)


def many(n=40):
    return {
        f"{'abc'[i % 3]}/{i:02}.png": Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for i in range(n)
    }


def ready(source, **options):
    return prepare(source, DatasetOptions(split={}, **options), SplitShares(), 0, torch.device("cpu"))


def test_a_set_beyond_memory_is_read_when_needed(write):
    root = write(many())
    whole, lazy = image_folder(root=root, size=8), image_folder(root=root, size=8, memory=0)
    assert (whole.task, whole.target.tolist()) == (lazy.task, lazy.target.tolist())
    assert not isinstance(lazy.features, np.ndarray)
    resident, hosted = ready(whole, standardize=False), ready(lazy)
    assert torch.equal(resident.val.rows, hosted.val.rows)
    torch.testing.assert_close(hosted.val.inputs.read(list(range(6))), 4 * resident.val.inputs - 2)


def test_an_image_that_breaks_later_is_said(write, tmp_path):
    lazy = image_folder(root=write(many()), size=8, memory=0)
    data = ready(lazy)
    row = int(data.val.rows[2])
    lazy.features.paths[row].write_bytes(b"no image")
    with pytest.raises(
        DataError, match=rf"^image {row} \({lazy.features.paths[row]}\) cannot be decoded: cannot ident"
    ):
        data.val.inputs.read([2])


PNG = io.BytesIO()
Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(PNG, "png")
TO_HOLD = "; it must hold a folder for each of two or more classes: ROOT/CLASS/NAME.png"
ERRORS = [
    ({"readme.txt": b""}, "ROOT holds no folder with images in it"),
    ({"a/readme.txt": b""}, "ROOT holds no folder with images in it"),
    ({"a/x.png": RED}, "ROOT holds class 'a' alone"),
    (TWO | {"b/0.png": b""}, "image 1 (ROOT/b/0.png) cannot be decoded: cannot identify image file 'ROOT/b/0.png'"),
    (TWO | {"b/0.png": b"text"}, "image 1 (ROOT/b/0.png) cannot be decoded: cannot identify image file 'ROOT/b/0.png'"),
]


@pytest.mark.parametrize(("files", "message"), ERRORS)
def test_what_is_wrong_is_said(write, files, message):
    root = write(files)
    message = message.replace("ROOT", root)
    message += TO_HOLD if "cannot" not in message else ""
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        image_folder(root=root)


def test_a_truncated_image_is_said(write):
    root = write(TWO | {"b/1.png": PNG.getvalue()[:2000]})
    with pytest.raises(DataError, match=rf"^image 2 \({root}/b/1\.png\) cannot be decoded: .*truncated"):
        image_folder(root=root)


def test_a_directory_that_is_not_there_is_a_file_or_cannot_be_read(write, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"^dataset\.root: there is no directory '{tmp_path}/none'$"):
        image_folder(root=f"{tmp_path}/none")
    root = write(TWO)
    with pytest.raises(DataError, match=rf"^dataset\.root: cannot read '{root}/a/x\.png': Not a directory$"):
        image_folder(root=f"{root}/a/x.png")

    def refuses(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(DataError, match=rf"^dataset\.root: cannot read '{root}': Permission denied$"):
        image_folder(root=root)


@pytest.mark.parametrize("settings", [(), ("dataset.memory=0", "dataset.workers=1")])
def test_it_trains_from_the_command_line(cli, write, settings):
    words = ("dataset=image_folder", f"dataset.root={write(many(60))}", "dataset.size=8", "trainer.epochs=2")
    code, out, err = cli("train", *words, *settings, "hydra.run.dir=run")
    assert (code, err) == (0, "")
    assert "image_folder-mlp" in out
