"""Where training takes its latents from: pixels, or cached posteriors of an autoencoder.

A latent has the range that the network was trained on: pixels [-1, 1], posteriors unit scale.
Shapes: N images, B batch, C channels, H and W.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class LatentSource(Protocol):
    """N latents that can be drawn in batches; drawing is a function of the generator alone."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def batch(self, indices: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
        """Return latents of `indices` (B,), mirrored where `flips` (B,), float32 (B, C, H, W)."""
        ...


class PixelLatents:
    """Images themselves, as latents of a pixel-space DiT."""

    def __init__(self, images: np.ndarray, *, flip: bool = False) -> None:
        """Take uint8 `images` (N, C, H, W); without `flip`, no image is ever mirrored."""
        if images.dtype != np.uint8 or images.ndim != 4:
            raise ValueError(
                f"images must be uint8 (N, C, H, W), got {images.dtype} {images.shape}"
            )
        self._images = images
        self._flip = flip

    def __len__(self) -> int:
        """Return N."""
        return len(self._images)

    def batch(self, indices: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
        """Return images in [-1, 1], (B, C, H, W); nothing is drawn from `generator`."""
        pixels = torch.from_numpy(self._images[indices.numpy()])  # (B, C, H, W)
        scaled = pixels.float() / 127.5 - 1.0
        if not self._flip:
            return scaled
        return torch.where(flips.view(-1, 1, 1, 1), scaled.flip(3), scaled)


class CachedLatents:
    """Means and deviations of an autoencoder's posteriors, encoded once for each image and flip."""

    def __init__(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Take float `mean` and `std`, (N, F, C, H, W), already scaled; memory maps stay on disk.

        F is 1 without mirrored images, or 2: as it is, mirrored.
        """
        if mean.shape != std.shape or mean.ndim != 5 or mean.shape[1] not in (1, 2):
            raise ValueError(
                f"mean and std must both be (N, 1 or 2, C, H, W), got {mean.shape} and {std.shape}"
            )
        self._mean = mean
        self._std = std

    def __len__(self) -> int:
        """Return N."""
        return len(self._mean)

    def batch(self, indices: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
        """Return samples mean + std * noise of the posteriors, (B, C, H, W)."""
        sides = flips.long().numpy() * (self._mean.shape[1] - 1)
        rows = indices.numpy()
        mean, std = (
            torch.from_numpy(np.ascontiguousarray(array[rows, sides])).float()
            for array in (self._mean, self._std)
        )
        return mean + std * torch.randn(mean.shape, generator=generator)
