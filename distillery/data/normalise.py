"""Raw pixels to what networks read: per-channel mean and standard deviation of the train split.

Raw images are uint8 (N, C, H, W) in [0, 255]; normalised ones are float32.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Statistics of the train split per channel, in units of [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    border: tuple[float, ...]
    """Median of the outermost pixels: what stands beyond the edge of a shifted image."""

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and std as (1, C, 1, 1) tensors on the device of `like`."""
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean, dtype=torch.float32, device=like.device).reshape(shape)
        return mean, torch.tensor(self.std, dtype=torch.float32, device=like.device).reshape(shape)

    def normalise(self, images: Tensor) -> Tensor:
        """Return raw uint8 images as normalised float32."""
        return self.from_unit(images.float() / 255)

    def from_unit(self, images: Tensor) -> Tensor:
        """Return float images of [0, 1] normalised; differentiable."""
        mean, std = self._columns(images)
        return (images - mean) / std

    def to_unit(self, images: Tensor) -> Tensor:
        """Return normalised images in units of [0, 1], not clamped; differentiable."""
        mean, std = self._columns(images)
        return images * std + mean

    def to_raw(self, images: Tensor) -> Tensor:
        """Return normalised float images as raw uint8, rounded and clamped to [0, 255]."""
        return (self.to_unit(images) * 255).round().clamp(0, 255).to(torch.uint8)

    def clamp(self, images: Tensor) -> Tensor:
        """Return normalised images clamped to what raw pixels can hold."""
        mean, std = self._columns(images)
        return torch.minimum(torch.maximum(images, -mean / std), (1 - mean) / std)

    def background(self) -> Tensor:
        """Return the normalised value beyond the edge of an image, (C,)."""
        columns = zip(self.border, self.mean, self.std, strict=True)
        return torch.tensor([(border - mean) / std for border, mean, std in columns])


class NormalisedImages:
    """Raw images that are normalised as they are taken: a quarter of the memory of float32 ones.

    Read like a tensor (N, C, H, W) of normalised images, as far as training and inference need it.
    """

    def __init__(self, raw: Tensor, normalisation: Normalisation) -> None:
        """Hold uint8 images (N, C, H, W) on the device where they will be used."""
        self.raw, self.shape, self.device = raw, raw.shape, raw.device
        self._mean, self._std = normalisation._columns(raw)

    def __len__(self) -> int:
        """Return N."""
        return len(self.raw)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Return the normalised images of some rows, float32."""
        return self._normalised(self.raw[index])

    def split(self, size: int) -> Iterator[Tensor]:
        """Yield all images in batches, as `torch.Tensor.split` returns them."""
        return map(self._normalised, self.raw.split(size))

    def _normalised(self, raw: Tensor) -> Tensor:
        return (raw.float() / 255 - self._mean) / self._std


Images = Tensor | NormalisedImages
"""Normalised images (N, C, H, W) that can be indexed and split."""


def measure_normalisation(images: np.ndarray) -> Normalisation:
    """Return the statistics of raw images (N, C, H, W), from at most 20,000 of them."""
    sample = images[:: max(1, len(images) // 20_000)]
    total, squares = np.zeros((2, images.shape[1]), np.int64)
    for start in range(0, len(sample), 64):  # squares of the whole sample might not fit in memory
        part = sample[start : start + 64]
        total += part.sum(axis=(0, 2, 3), dtype=np.int64)
        squares += np.square(part, dtype=np.uint16).sum(axis=(0, 2, 3), dtype=np.int64)
    count = sample.size // images.shape[1]
    mean, square = total / count / 255, squares / count / 255**2
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    edges = [sample[:, :, 0], sample[:, :, -1], sample[:, :, :, 0], sample[:, :, :, -1]]
    border = np.median(np.concatenate(edges, axis=2), axis=(0, 2)) / 255
    return Normalisation(*(tuple(map(float, values)) for values in (mean, std, border)))
