"""Codecs: between images and what the diffusion works on, its latents.

Pixel models work on the images themselves; latent models on those of an autoencoder. Both sides
use images in [-1, 1]. Shapes: N batch, C channels, H and W; latents N, c, h, w.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Codec(Protocol):
    """What a diffusion base needs to turn images to latents and back."""

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the latents' distribution, (N, c, h, w) each."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, C, H, W), about [-1, 1]; the gradient reaches the latents."""

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Return (c, h, w) of the latent of a square image."""


class PixelCodec:
    """The identity: a latent is the image in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and a standard deviation of zero."""
        return images, torch.zeros_like(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents, which are images; not clipped."""
        return latents

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Return the shape of the image itself."""
        return self.channels, image_size, image_size


class LatentCodec:
    """A diffusers `AutoencoderKL`, its latents scaled to about unit variance.

    `batch_size` images at most go through the autoencoder at a time, whatever N is: its activations
    are hundreds of times larger than the latents.
    """

    def __init__(self, vae: Any, *, batch_size: int = 16) -> None:
        self.vae = vae.eval().requires_grad_(False)
        self.batch_size = batch_size
        self.scaling_factor = float(vae.config.scaling_factor)
        # each level of the autoencoder but the first halves the size
        self.factor = int(2 ** (len(vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode_moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the scaled posterior, float32, without gradient.

        Args:
            images: Float (N, C, H, W) in [-1, 1].

        Returns:
            Mean and standard deviation, (N, c, h, w) each: a latent is mean + std * noise.
        """
        moments = [self.vae.encode(part).latent_dist for part in self._batches(images)]
        mean = torch.cat([moment.mean for moment in moments])  # (N, c, h, w)
        std = torch.cat([moment.std for moment in moments])
        return mean.float() * self.scaling_factor, std.float() * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Return images of scaled latents, float32 (N, C, H, W), about [-1, 1], not clipped.

        The gradient reaches `latents`; wrap in `torch.no_grad()` where none is needed. Where one
        is, a part's activations, gigabytes each, are computed again in the backward pass: memory
        is that of one part of a quarter as many images, for a third more time.
        """
        scaled = latents / self.scaling_factor
        if not (torch.is_grad_enabled() and scaled.requires_grad):
            return torch.cat([self._decode(part) for part in self._batches(scaled)]).float()
        parts = self._batches(scaled, max(1, self.batch_size // 4))
        decoded = [
            checkpoint(self._decode, part, use_reentrant=False, preserve_rng_state=False)
            for part in parts
        ]
        return torch.cat(decoded).float()

    def _decode(self, part: Tensor) -> Tensor:
        """Return the images of latents that go through the autoencoder together."""
        return self.vae.decode(part).sample

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Return (c, h, w), h and w a `factor` smaller than the image."""
        size = image_size // self.factor
        return self.vae.config.latent_channels, size, size

    def _batches(self, images: Tensor, size: int | None = None) -> tuple[Tensor, ...]:
        """Cut a batch into parts of `size`, else `batch_size`, in the autoencoder's dtype."""
        return images.to(self.vae.dtype).split(size or self.batch_size)
