"""Training inputs changed at random, a batch at a time and on its device, each example by its own draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from lossbench.errors import ConfigError

Augment = Callable[[Tensor], Tensor]

_IMAGES_ONLY = ("shift", "flip", "rotate", "scale", "erase")
_IN_PIXELS = ("shift", "erase")


@dataclass(frozen=True)
class AugmentOptions:
    """`dataset.augment.*`; all but `noise` is for images (C, H, W), and what comes in from outside is 0, the mean.

    Attributes:
        shift: pixels, at the most, to move by, whole ones, along each side.
        flip: left to right, every other image or so.
        rotate: degrees, at the most, either way.
        scale: share, at the most, to grow or shrink by.
        erase: side in pixels of a square that is set to 0.
        noise: standard deviation of Gaussian noise, in units of the standardised inputs.
    """

    shift: Annotated[int, "[0, inf)"] = 0
    flip: bool = False
    rotate: Annotated[float, "[0, 180]"] = 0.0
    scale: Annotated[float, "[0, 1)"] = 0.0
    erase: Annotated[int, "[0, inf)"] = 0
    noise: Annotated[float, "[0, inf)"] = 0.0


def augment_for(options: AugmentOptions, input_shape: tuple[int, ...]) -> Augment | None:
    """What changes a batch of training inputs (N, *input_shape), or None where nothing is asked for.

    Raises:
        ConfigError: options that these inputs cannot have.
    """
    check_augment(options, input_shape)
    return partial(augment, options=options) if any(asdict(options).values()) else None


def check_augment(options: AugmentOptions, input_shape: tuple[int, ...]) -> None:
    """Refuse what is for images on other inputs, and what would leave nothing of the images.

    Raises:
        ConfigError: the first such option.
    """
    for key in _IMAGES_ONLY:
        value = getattr(options, key)
        if value and len(input_shape) != 3:
            raise ConfigError(
                f"dataset.augment.{key} is for images (C, H, W), and these inputs have shape {input_shape}; "
                "dataset.augment.noise is for every input"
            )
        if value and key in _IN_PIXELS and value >= min(input_shape[1:]):
            raise ConfigError(
                f"dataset.augment.{key}={value} would leave nothing of images of {input_shape[1]} x {input_shape[2]}; "
                "it must be below the shorter side"
            )


def augment(inputs: Tensor, options: AugmentOptions) -> Tensor:  # (N, ...) -> (N, ...)
    """The inputs changed as asked. Draws from torch's global generator of their device, and never waits for it."""
    if options.flip:
        inputs = torch.where(_uniform(inputs, 0, 1) < 0.5, inputs.flip(3), inputs)
    if options.rotate or options.scale:
        inputs = _warped(inputs, options)
    elif options.shift:
        inputs = _shifted(inputs, options.shift)
    if options.noise:
        inputs = inputs + options.noise * torch.randn_like(inputs)
    return _erased(inputs, options.erase) if options.erase else inputs


def _warped(images: Tensor, options: AugmentOptions) -> Tensor:
    """Scaled and turned about the middle, then shifted, in one bilinear reading."""
    n, _, height, width = images.shape
    angle = _uniform(images, -math.radians(options.rotate), math.radians(options.rotate)).view(n)
    zoom = _uniform(images, 1 - options.scale, 1 + options.scale).view(n)
    down, right = (_whole(images, -options.shift, options.shift).view(n) for _ in range(2))
    # Where each pixel comes from, x and y in pixels from the middle: undo the shift, then the turn, then the zoom.
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    x = torch.stack((cos, sin * height / width, -(cos * right + sin * down) * 2 / width), 1)
    y = torch.stack((-sin * width / height, cos, (sin * right - cos * down) * 2 / height), 1)
    grid = F.affine_grid(torch.stack((x, y), 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _shifted(images: Tensor, most: int) -> Tensor:
    """By whole pixels, so that every value stays as it is."""
    n, channels, height, width = images.shape
    device = images.device
    rows = _whole(images, 0, 2 * most) + torch.arange(height, device=device)[:, None]
    columns = _whole(images, 0, 2 * most) + torch.arange(width, device=device)
    every = torch.arange(n, device=device).view(n, 1, 1, 1)
    return F.pad(images, (most,) * 4)[every, torch.arange(channels, device=device)[:, None, None], rows, columns]


def _erased(images: Tensor, side: int) -> Tensor:
    """A square within each image set to 0."""
    *_, height, width = images.shape
    top, left = _whole(images, 0, height - side), _whole(images, 0, width - side)
    rows, columns = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    inside = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return images.masked_fill(inside, 0)


def _uniform(images: Tensor, low: float, high: float) -> Tensor:  # -> (N, 1, 1, 1)
    return torch.empty(len(images), 1, 1, 1, device=images.device, dtype=images.dtype).uniform_(low, high)


def _whole(images: Tensor, low: int, high: int) -> Tensor:  # -> (N, 1, 1, 1)
    return torch.randint(low, high + 1, (len(images), 1, 1, 1), device=images.device)
