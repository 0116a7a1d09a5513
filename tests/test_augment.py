"""Training inputs changed at random: exactly what is asked for, each example by its own draw, and by the seed alone."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from lossbench.data import AugmentOptions, augment_for
from lossbench.data.augment import augment
from lossbench.errors import ConfigError

IMAGES = torch.randn(500, 3, 6, 9, generator=torch.Generator().manual_seed(0))
EVERYTHING = AugmentOptions(shift=2, flip=True, rotate=20, scale=0.2, erase=2, noise=0.1)
GEOMETRY = [
    {"shift": 2},
    {"flip": True},
    {"rotate": 20.0},
    {"scale": 0.2},
    {"erase": 2},
    {"noise": 0.1},
    {"rotate": 20.0, "shift": 2},
]


def drawn(seed=0, images=IMAGES, **options):
    torch.manual_seed(seed)
    return augment(images, AugmentOptions(**options))


def moved(images, down, right):
    """The images so many pixels further down and right, by hand; zeros come in."""
    result = torch.zeros_like(images)
    *_, height, width = images.shape
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                result[..., i, j] = images[..., i - down, j - right]
    return result


def test_without_options_there_is_nothing_to_call_and_nothing_changes():
    assert augment_for(AugmentOptions(), (3, 6, 9)) is None
    assert augment_for(AugmentOptions(), (4,)) is None
    before = torch.get_rng_state()
    assert augment(IMAGES, AugmentOptions()) is IMAGES
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [*GEOMETRY, vars(EVERYTHING)], ids=str)
def test_the_generator_alone_decides_and_inputs_stay_as_they_are(options):
    kept = IMAGES.clone()
    first, again, other = drawn(**options), drawn(**options), drawn(seed=1, **options)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(IMAGES, kept)
    assert (first.shape, first.dtype) == (IMAGES.shape, IMAGES.dtype)
    torch.manual_seed(0)
    assert torch.equal(augment_for(AugmentOptions(**options), (3, 6, 9))(IMAGES), first)


@pytest.mark.parametrize("options", GEOMETRY, ids=str)
def test_each_example_has_its_own_draw(options):
    same = IMAGES[:1].expand(200, -1, -1, -1)
    different = torch.unique(drawn(images=same, **options), dim=0)
    wanted = {"shift": 20, "flip": 2, "erase": 40}.get(next(iter(options)), 200)
    assert len(different) >= wanted or ("flip" in options and len(different) == 2)


def test_a_shift_is_the_image_moved_by_whole_pixels_with_zeros():
    """Every one of the 5 x 5 places, each as often: 20 of 500, give or take 4 x 4.4."""
    result = drawn(shift=2)
    places = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    found = torch.stack([(result == moved(IMAGES, *place)).flatten(1).all(1) for place in places])
    assert torch.equal(found.sum(0), torch.ones(500, dtype=torch.int64))
    assert (found.sum(1) - 20).abs().max() < 18


def test_half_of_the_images_are_flipped_and_twice_is_none():
    """250 of 500, give or take 4 x 11."""
    result = drawn(flip=True)
    flipped = (result == IMAGES.flip(3)).flatten(1).all(1)
    assert abs(int(flipped.sum()) - 250) < 45
    assert torch.equal(result[~flipped], IMAGES[~flipped])
    assert torch.equal(drawn(images=result, flip=True), IMAGES)  # the same draw again


def test_a_square_of_the_side_is_erased_and_lies_within():
    images = IMAGES.abs() + 1
    result = drawn(images=images, erase=4)
    gone = (result == 0).all(1)
    assert torch.equal((result == 0).any(1), gone)
    assert torch.equal(gone.any(2).sum(1), torch.full((500,), 4))
    assert torch.equal(gone.any(1).sum(1), torch.full((500,), 4))
    assert torch.equal(gone.sum((1, 2)), torch.full((500,), 16))
    assert torch.equal(result[~gone[:, None].expand_as(result)], images[~gone[:, None].expand_as(images)])
    assert gone.any(0).all()  # everywhere at some time


@pytest.mark.parametrize("shape", [(4000, 7), (400, 3, 6, 9)])
def test_noise_has_the_deviation_that_is_asked_for(shape):
    inputs = torch.ones(shape)
    noise = drawn(images=inputs, noise=0.3) - inputs
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(0.3, abs=0.01)
    assert len(noise.unique()) > 0.9 * noise.numel()


def disc(height=33, width=33, across=6.0):
    """A smooth blob a little to the right of the middle, (1, 1, H, W), and its middle, in pixels from the middle."""
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    return torch.exp(-(rows[:, None] ** 2 + (columns - across) ** 2) / 8)[None, None]


def middle(images):
    """Down and right of the middle, in pixels, and the mass."""
    height, width = images.shape[2:]
    mass = images.sum((1, 2, 3))
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    down = (images.sum((1, 3)) * rows).sum(1) / mass
    return down, (images.sum((1, 2)) * columns).sum(1) / mass, mass


@pytest.mark.parametrize("size", [(33, 33), (41, 29), (29, 41)])
def test_a_turn_goes_about_the_middle_in_pixels_and_keeps_its_distance(size):
    down, right, mass = middle(drawn(images=disc(*size).expand(300, -1, -1, -1), rotate=60))
    torch.testing.assert_close((down**2 + right**2).sqrt(), torch.full((300,), 6.0), atol=0.05, rtol=0)
    torch.testing.assert_close(mass, disc(*size).sum().expand(300), rtol=0.02, atol=0)
    angle = torch.atan2(down, right).rad2deg()
    assert -60.5 < angle.min() < -55
    assert 55 < angle.max() < 60.5
    assert abs(angle.mean()) < 8


def test_a_zoom_goes_by_the_share_that_is_asked_for():
    _, right, mass = middle(drawn(images=disc().expand(300, -1, -1, -1), scale=0.25))
    zoom = right / 6
    assert 0.74 < zoom.min() < 0.78
    assert 1.22 < zoom.max() < 1.26
    torch.testing.assert_close(mass / disc().sum(), zoom**2, rtol=0.02, atol=0)


def test_turn_zoom_and_shift_are_one_reading_and_the_shift_comes_last():
    """However an image is turned and grown, a whole number of pixels is added to where its middle goes."""
    images = disc(across=0.0).expand(300, -1, -1, -1)
    down, right, _ = middle(drawn(images=images, rotate=90, scale=0.1, shift=4))
    for place in (down, right):
        torch.testing.assert_close(place, place.round(), atol=0.02, rtol=0)
        assert set(place.round().int().tolist()) == set(range(-4, 5))


def test_a_turn_by_hand(monkeypatch):
    """Every draw at its upper end: a quarter turn of a square image is `rot90`, then a pixel down and right."""
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, low, high: self.fill_(high))
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.full(size, high - 1, device=device))
    images = IMAGES[:4, :, :, :6].contiguous()
    result = augment(images, AugmentOptions(rotate=90, shift=1))
    wanted = F.pad(torch.rot90(images, -1, (2, 3)), (1, 0, 1, 0))[:, :, :6, :6]
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=0)
    assert math.isclose(result[0, 0, 0].abs().sum().item(), 0, abs_tol=1e-5)


def test_nothing_is_read_back_from_the_device():
    """On a device without values, whatever needs one fails."""
    meta = torch.empty(8, 3, 6, 9, device="meta")
    assert augment(meta, EVERYTHING).shape == meta.shape
    assert augment(meta, AugmentOptions(shift=2)).shape == meta.shape


IMAGE = "is for images (C, H, W), and these inputs have shape"
REFUSED = [
    ({key: value}, shape, f"dataset.augment.{key} {IMAGE} {shape}; dataset.augment.noise is for every input")
    for key, value in {"shift": 1, "flip": True, "rotate": 5.0, "scale": 0.1, "erase": 1}.items()
    for shape in [(30,), (3, 2)]
] + [
    (
        {key: 6},
        (1, 8, 6),
        f"dataset.augment.{key}=6 would leave nothing of images of 8 x 6; it must be below the shorter side",
    )
    for key in ("shift", "erase")
]


@pytest.mark.parametrize(("options", "shape", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_what_cannot_be_is_refused_in_one_line(options, shape, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        augment_for(AugmentOptions(**options), shape)


def test_what_can_be_is_not_refused():
    assert augment_for(AugmentOptions(shift=5, erase=5), (1, 8, 6)) is not None
    assert augment_for(AugmentOptions(noise=0.1), (30,)) is not None
