"""What students see of a batch: the training-time augmentations of the published protocols.

Batches of raw images in [0, 1] become normalised, augmented ones, all on their device; random
numbers come from one CPU generator. Shapes: N batch, C channels, H and W.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.data.augment import SINGLE_DSA, augment
from distillery.data.normalise import Normalisation

View = Callable[[Tensor, torch.Generator], Tensor]
"""(images in [0, 1] (N, C, H, W), generator) -> normalised images of the same shape."""
JITTER = 0.4
"""Largest change of brightness, contrast and saturation."""
LIGHTING = 0.1
"""Standard deviation of the colour shift along the principal axes of ImageNet's colours."""
LIGHTING_AXES = (
    (-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203),
)  # fmt: skip
LIGHTING_VALUES = (0.2175, 0.0188, 0.0045)
LUMA = (0.299, 0.587, 0.114)
SHUFFLE_FACTOR = 2
"""Patches a side that `shuffle-crop` shuffles."""


def make_view(augmentation: str, normalisation: Normalisation, *, flip: bool) -> View:
    """Return the view that a recipe's augmentation names; `flip` allows mirrored images."""
    normalise = _normaliser(normalisation)
    if augmentation == "none":
        return lambda images, _: normalise(images)
    if augmentation == "dsa":
        return lambda images, generator: dsa(normalise(images), generator, flip=flip)
    if augmentation == "crop-jitter":
        return lambda images, generator: normalise(crop_jitter(images, generator, flip=flip))
    assert augmentation == "shuffle-crop", augmentation
    return lambda images, generator: normalise(shuffle_crop(images, generator, flip=flip))


def _normaliser(normalisation: Normalisation) -> Callable[[Tensor], Tensor]:
    """Return a function of images in [0, 1] that normalises them on their own device."""

    def normalise(images: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        mean = torch.tensor(normalisation.mean, device=images.device).reshape(shape)
        return (images - mean) / torch.tensor(normalisation.std, device=images.device).reshape(
            shape
        )

    return normalise


def dsa(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Return a batch under one of colour, crop, cutout, flip, scale and rotation, drawn for it all.

    Strengths are drawn for each image; what lies beyond the edge is the mean colour, 0.
    Source: Zhao & Bilen (2021), the released code's single mode.
    """
    return augment(images, replace(SINGLE_DSA, flip=flip), generator)


def crop_jitter(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Return random crops of half the area or more, mirrored, with colour jitter and lighting.

    Source: Kim et al. (2022), IDC's transforms for ImageNet.
    """
    images = random_resized_crop(images, generator, smallest=0.5, flip=flip)
    images = colour_jitter(images, generator)
    if images.shape[1] == 3:
        images = images + lighting(len(images), generator).to(images)[:, :, None, None]
    return images


def shuffle_crop(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Return images with their quarters shuffled, cropped to half the area or more, mirrored.

    Source: Sun et al. (2024), RDED: patch shuffle of factor 2, crop scale (1/2, 1).
    """
    images = shuffle_patches(images, generator)
    return random_resized_crop(images, generator, smallest=1 / SHUFFLE_FACTOR, flip=flip)


def random_resized_crop(
    images: Tensor, generator: torch.Generator, *, smallest: float, flip: bool
) -> Tensor:
    """Return crops of `smallest` to all of the area and sides of 3:4 to 4:3, at the old size."""
    uniform = torch.rand(len(images), 5, generator=generator)
    area = smallest + (1 - smallest) * uniform[:, 0]
    widest = torch.clamp(-area.log(), max=math.log(4 / 3))  # beyond it the crop does not fit
    ratio = torch.exp((2 * uniform[:, 1] - 1) * widest)
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    mirror = torch.where(uniform[:, 2] < 0.5, -1.0, 1.0) if flip else torch.ones(len(images))
    zero = torch.zeros(len(images))
    theta = torch.stack(
        [
            torch.stack([mirror * width, zero, (1 - width) * (2 * uniform[:, 3] - 1)], 1),
            torch.stack([zero, height, (1 - height) * (2 * uniform[:, 4] - 1)], 1),
        ],
        dim=1,
    )  # (N, 2, 3)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def colour_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images with brightness, contrast and saturation changed, in an order of the batch."""
    factors = 1 + JITTER * (2 * torch.rand(len(images), 3, generator=generator) - 1)
    factors = factors.to(images)[:, :, None, None, None]
    for kind in torch.randperm(3, generator=generator).tolist():
        if kind == 0:
            images = images * factors[:, 0]
        elif kind == 1:
            mean = _gray(images).mean((1, 2, 3), keepdim=True)
            images = mean + (images - mean) * factors[:, 1]
        elif images.shape[1] == 3:
            gray = _gray(images)
            images = gray + (images - gray) * factors[:, 2]
    return images


def _gray(images: Tensor) -> Tensor:
    """Return the luma of images, (N, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(LUMA, device=images.device).reshape(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def lighting(num_images: int, generator: torch.Generator) -> Tensor:
    """Return the colour shift of each image, (N, 3). Source: Krizhevsky et al. (2012)."""
    strength = LIGHTING * torch.randn(num_images, 3, generator=generator)
    return (strength * torch.tensor(LIGHTING_VALUES)) @ torch.tensor(LIGHTING_AXES).T


def shuffle_patches(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images whose columns, then rows, of `SHUFFLE_FACTOR` patches a side are permuted."""
    for dim in (3, 2):
        length = images.shape[dim]
        starts = [length // SHUFFLE_FACTOR * part for part in range(SHUFFLE_FACTOR)] + [length]
        strips = [torch.arange(a, b) for a, b in zip(starts, starts[1:], strict=False)]
        orders = torch.rand(len(images), SHUFFLE_FACTOR, generator=generator).argsort(1)  # (N, 2)
        distinct, which = orders.unique(dim=0, return_inverse=True)
        rows = [torch.cat([strips[part] for part in order]) for order in distinct.tolist()]
        places = torch.stack(rows)[which]  # (N, length)
        shape = [len(images), 1, 1, 1]
        shape[dim] = length
        index = places.reshape(shape).to(images.device).expand_as(images)
        images = images.gather(dim, index)
    return images


def cutmix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Return (images with one rectangle of another image, its index (N,), share that is kept).

    One rectangle for the batch; its area is uniform, cut off at the edges.
    Source: Yun et al. (2019), with beta 1.
    """
    size = images.shape[-1]
    draws = torch.rand(3, generator=generator).tolist()
    half = int(size * math.sqrt(draws[0])) // 2
    top, left = int(draws[1] * size), int(draws[2] * size)
    rows = slice(max(0, top - half), min(size, top + half))
    columns = slice(max(0, left - half), min(size, left + half))
    partner = torch.randperm(len(images), generator=generator).to(images.device)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[partner][:, :, rows, columns]
    return mixed, partner, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / size**2
