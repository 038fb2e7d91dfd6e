"""Differentiable image augmentation: the same draw can be applied to several batches.

One affine warp (flip, scale, rotation, shift), then colour and cutout. Students draw per image;
matching draws once and applies it to real and synthetic images alike (siamese).
Source: Zhao & Bilen (2021), "Dataset Condensation with Differentiable Siamese Augmentation".
Shapes: N batch, C channels, H and W.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.data.warp import sample_at


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Strength of each augmentation; zero switches one off."""

    flip: bool = False
    """Mirror left and right with probability one half."""
    shift: float = 0.125
    """Largest shift, as a share of the image side."""
    rotate_degrees: float = 15.0
    """Largest rotation to either side."""
    scale: float = 1.2
    """Largest zoom; the smallest is its reciprocal. 1 for none."""
    brightness: float = 0.0
    """Largest change of brightness, in units of the normalised image."""
    saturation: float = 0.0
    """Largest factor minus one of the distance to gray; colour images only."""
    contrast: float = 0.0
    """Largest factor minus one of the distance to the mean."""
    cutout: float = 0.0
    """Side of a zeroed square, as a share of the image side."""
    single: bool = False
    """Only one of the parts (`parts_of`) at a time, drawn for each batch."""


AFFINE = AugmentConfig()
"""Shift, rotation and scale: for digits and other gray images."""
DSA = AugmentConfig(
    flip=True, shift=0.125, rotate_degrees=15, scale=1.2, brightness=0.5, saturation=1.0,
    contrast=0.5, cutout=0.5,
)  # fmt: skip
"""The published strategy colour, crop, cutout, flip, scale, rotate (brightness 1 in its units)."""

SINGLE_DSA = replace(DSA, single=True)
"""The same as the released code applies it: one part, drawn for each batch."""
_STILL = AugmentConfig(shift=0.0, rotate_degrees=0.0, scale=1.0)


@dataclass(frozen=True, slots=True)
class AugmentDraw:
    """Random numbers of one augmentation of N images (or of one, shared by all)."""

    theta: Tensor
    """Affine matrices from output to input coordinates, (N, 2, 3)."""
    colour: Tensor
    """Brightness offset, saturation factor, contrast factor, (N, 3)."""
    cutout_centre: Tensor
    """Centre of the zeroed square in [0, 1], (N, 2)."""
    is_still: bool | None = None
    """Whether `theta` leaves every pixel where it is; None: whoever asks looks at it, which on a
    GPU waits for the device."""

    def leaves_places(self) -> bool:
        """Say whether every pixel stays where it is."""
        if self.is_still is not None:
            return self.is_still
        return bool((self.theta == torch.eye(2, 3, device=self.theta.device)).all())

    def moved_to(self, device: torch.device) -> "AugmentDraw":
        """Return the draw on a device."""
        return AugmentDraw(
            self.theta.to(device), self.colour.to(device), self.cutout_centre.to(device),
            self.leaves_places(),
        )  # fmt: skip


@lru_cache(maxsize=64)
def parts_of(config: AugmentConfig) -> tuple[AugmentConfig, ...]:
    """Return colour, crop, cutout, flip, scale, rotation, each alone, where it has a strength."""
    parts = (
        replace(
            _STILL,
            brightness=config.brightness,
            saturation=config.saturation,
            contrast=config.contrast,
        ),
        replace(_STILL, shift=config.shift),
        replace(_STILL, cutout=config.cutout),
        replace(_STILL, flip=config.flip),
        replace(_STILL, scale=config.scale),
        replace(_STILL, rotate_degrees=config.rotate_degrees),
    )
    return tuple(part for part in parts if part != _STILL)


def chosen_part(config: AugmentConfig, generator: torch.Generator) -> AugmentConfig:
    """Return the part that a batch gets of a `single` augmentation; any other one as it is."""
    if not config.single:
        return config
    parts = parts_of(config)
    return parts[int(torch.randint(len(parts), (), generator=generator))]


def draw_augmentation(
    num_images: int, config: AugmentConfig, generator: torch.Generator
) -> AugmentDraw:
    """Draw the random numbers for `num_images` images on the CPU."""
    uniform = torch.rand(num_images, 10, generator=generator)
    return _draws_of(uniform, torch.rand(num_images, generator=generator), [config])


def draw_each(
    configs: Sequence[AugmentConfig], generators: Sequence[torch.Generator]
) -> AugmentDraw:
    """Draw for one image of each config, from a generator of its own, on the CPU.

    The numbers are those of `draw_augmentation(1, config, generator)`, one after another.
    """
    uniform = torch.cat([torch.rand(1, 10, generator=own) for own in generators])
    last = torch.cat([torch.rand(1, generator=own) for own in generators])
    return _draws_of(uniform, last, configs)


def _draws_of(uniform: Tensor, last: Tensor, configs: Sequence[AugmentConfig]) -> AugmentDraw:
    """Return what uniform numbers (N, 10) and (N,) mean, by one config for all or one for each."""
    turn, zoom, shift, brightness, saturation, contrast, flip = _strengths(tuple(configs))
    signed = 2 * uniform - 1  # [-1, 1)
    angle = signed[:, 0] * turn
    # One over the zoom, because theta maps output to input; log-uniform, so that in and out match
    zoom_x, zoom_y = (torch.exp(-signed[:, i] * zoom) for i in (1, 2))
    mirror = torch.where((uniform[:, 3] < 0.5) & (flip > 0), -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    row_x = torch.stack([mirror * zoom_x * cos, -mirror * zoom_x * sin, shift * signed[:, 4]], 1)
    row_y = torch.stack([zoom_y * sin, zoom_y * cos, shift * signed[:, 5]], 1)
    colour = torch.stack(
        [
            brightness * signed[:, 6],
            1 + saturation * signed[:, 7],
            1 + contrast * signed[:, 8],
        ],
        dim=1,
    )
    centre = torch.stack([uniform[:, 9], last], 1)
    return AugmentDraw(torch.stack([row_x, row_y], 1), colour, centre)


@lru_cache(maxsize=64)
def _strengths(configs: tuple[AugmentConfig, ...]) -> tuple[Tensor, ...]:
    """Return each strength of the configs as (len(configs),): those that `_draws_of` names."""
    table = [
        (
            math.radians(config.rotate_degrees), math.log(config.scale), 2 * config.shift,
            config.brightness, config.saturation, config.contrast, float(config.flip),
        )
        for config in configs
    ]  # fmt: skip
    return torch.tensor(table).unbind(1)


def apply_augmentation(
    images: Tensor, draw: AugmentDraw, config: AugmentConfig, *, fill: Tensor | float = 0.0
) -> Tensor:
    """Return augmented images, differentiable in `images`.

    Args:
        images: Normalised float images, (N, C, H, W).
        draw: For N images, or for one image: then the same for all (siamese).
        config: Strengths that the draw was made with.
        fill: Value outside the image, a number or (C,): the normalised background.
    """
    num_images = len(images)
    if not draw.leaves_places():
        theta = draw.theta.to(images).expand(num_images, 2, 3)
        background = torch.as_tensor(fill, dtype=images.dtype, device=images.device)
        background = background.reshape(1, -1, 1, 1)
        # Subtracting the background first lets the zeros beyond the edge stand for it
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        images = sample_at(images - background, grid) + background
    colour = draw.colour.to(images).expand(num_images, 3).reshape(num_images, 3, 1, 1, 1)
    if config.saturation and images.shape[1] == 3:
        gray = images.mean(1, keepdim=True)
        images = gray + (images - gray) * colour[:, 1]
    if config.contrast:
        mean = images.mean((1, 2, 3), keepdim=True)
        images = mean + (images - mean) * colour[:, 2]
    if config.brightness:
        images = images + colour[:, 0]
    if config.cutout:
        images = images * _cutout_mask(images, draw.cutout_centre, config.cutout)
    return images


def _cutout_mask(images: Tensor, centre: Tensor, share: float) -> Tensor:
    """Zero inside a square of side `share` x image side around each centre, one elsewhere."""
    height, width = images.shape[-2:]
    centre = centre.to(images).expand(len(images), 2)
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    inside_rows = (rows - centre[:, :1]).abs() < share / 2  # (N, H)
    inside_columns = (columns - centre[:, 1:]).abs() < share / 2  # (N, W)
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return (~inside).to(images.dtype)[:, None]  # (N, 1, H, W)


def augment(
    images: Tensor, config: AugmentConfig, generator: torch.Generator, *, fill: Tensor | float = 0.0
) -> Tensor:
    """Return `images` with an own draw for each image (see `apply_augmentation`)."""
    config = chosen_part(config, generator)
    draw = draw_augmentation(len(images), config, generator)
    return apply_augmentation(images, draw, config, fill=fill)
