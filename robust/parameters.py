"""What is optimised in place of plain images: pixels, packed images, latents of an autoencoder.

The objectives see what `decode` returns and know nothing of it (`Parameterisation`). Sources: Kim
et al. (2022), "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC), section
4; Cazenavette et al. (2023), "Generalizing Dataset Distillation via Deep Generative Prior" (GLaD).
Shapes: P stored parameters, V views of each, C channels, H and W.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distillery.data.normalise import Normalisation
from distillery.models.codec import Codec

Change = Callable[[Tensor], Tensor]
"""Tensor to tensor of as many rows."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """The normalised images themselves, (P, C, H, W)."""

    clamp: Change
    """Brings normalised images to what raw pixels can hold (`Normalisation.clamp`)."""
    views: int = 1

    def encode(self, images: Tensor) -> Tensor:
        """Return a copy of the images."""
        return images.detach().clone()

    def decode(self, parameters: Tensor) -> Tensor:
        """Return the parameters."""
        return parameters

    @torch.no_grad()
    def project(self, parameters: Tensor) -> None:
        """Clamp to the range of raw pixels, in place."""
        parameters.copy_(self.clamp(parameters))

    @torch.no_grad()
    def store(self, parameters: Tensor) -> Tensor:
        """Return the images."""
        return self.clamp(parameters)


@dataclass(frozen=True, slots=True)
class MultiFormation:
    """Images that hold `factor` x `factor` smaller ones, side by side.

    Each part is enlarged to the full size by bilinear interpolation, row by row from the top left.
    Where the factor does not divide the side (3 in 32), images are first widened to the right and
    below by the fewest pixels; what stands there takes no part in what is stored.
    """

    clamp: Change
    factor: int = 2
    fill: float = 0.0
    """Normalised value of the widened border."""

    def __post_init__(self) -> None:
        """Refuse factors that no paper has."""
        if self.factor not in (2, 3):
            raise ValueError(f"multi-formation has factor 2 or 3, got {self.factor}")

    @property
    def views(self) -> int:
        """V: images that one stored image decodes to."""
        return self.factor**2

    def encode(self, images: Tensor) -> Tensor:
        """Return packed images (P, C, H, W) that hold the given ones (P * V, C, H, W) made smaller.

        Raises:
            ValueError: If the number of images is not a multiple of V.
        """
        if len(images) % self.views:
            raise ValueError(
                f"multi-formation with factor {self.factor} packs {self.views} images into one: "
                f"give a multiple of {self.views}, got {len(images)}"
            )
        height, width = images.shape[-2:]
        part = _ceil_div(height, self.factor), _ceil_div(width, self.factor)
        small = F.interpolate(images.detach(), part, mode="bilinear", antialias=True)
        count, channels = len(images) // self.views, images.shape[1]
        tiles = small.reshape(count, self.factor, self.factor, channels, *part)
        whole = tiles.permute(0, 3, 1, 4, 2, 5)  # (P, C, f, h, f, w)
        packed = whole.reshape(count, channels, self.factor * part[0], self.factor * part[1])
        return packed[..., :height, :width].contiguous()

    def decode(self, parameters: Tensor) -> Tensor:
        """Return the parts of each image at full size, (P * V, C, H, W)."""
        count, channels, height, width = parameters.shape
        part = _ceil_div(height, self.factor), _ceil_div(width, self.factor)
        below, right = (self.factor * side for side in part)
        padding = (0, right - width, 0, below - height)
        wide = F.pad(parameters, padding, value=self.fill)
        tiles = wide.reshape(count, channels, self.factor, part[0], self.factor, part[1])
        small = tiles.permute(0, 2, 4, 1, 3, 5).reshape(count * self.views, channels, *part)
        return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)

    @torch.no_grad()
    def project(self, parameters: Tensor) -> None:
        """Clamp to the range of raw pixels, in place."""
        parameters.copy_(self.clamp(parameters))

    @torch.no_grad()
    def store(self, parameters: Tensor) -> Tensor:
        """Return the packed images: a student decodes them before it trains."""
        return self.clamp(parameters)


@dataclass(frozen=True, slots=True)
class Latents:
    """Latents of an autoencoder, kept inside a box: beyond it the decoder was never trained."""

    encoder: Change
    """Normalised images to latents, (P, c, h, w)."""
    decoder: Change
    """Latents to normalised images, differentiable."""
    clamp: Change
    """Brings normalised images to what raw pixels can hold."""
    bound: float = torch.inf
    """Largest magnitude of a latent."""
    views: int = 1

    def encode(self, images: Tensor) -> Tensor:
        """Return the latents of the images."""
        return self.encoder(images).detach().clone()

    def decode(self, parameters: Tensor) -> Tensor:
        """Return the decoded images."""
        return self.decoder(parameters)

    @torch.no_grad()
    def project(self, parameters: Tensor) -> None:
        """Clamp the latents to the box, in place."""
        parameters.clamp_(-self.bound, self.bound)

    @torch.no_grad()
    def store(self, parameters: Tensor) -> Tensor:
        """Return the decoded images: anybody can train on them without the autoencoder."""
        return self.clamp(self.decoder(parameters))


def codec_latents(codec: Codec, normalisation: Normalisation, *, bound: float = 4.0) -> Latents:
    """Return the latents of a base's codec, as a parameterisation of normalised images.

    Args:
        codec: Between images in [-1, 1] and latents of about unit variance (a DiT's VAE), or the
            identity of a pixel base.
        normalisation: Of the dataset that the classifiers see.
        bound: In standard deviations of a latent.
    """

    def encoder(images: Tensor) -> Tensor:
        return codec.encode_moments(2 * normalisation.to_unit(images) - 1)[0]

    def decoder(latents: Tensor) -> Tensor:
        return normalisation.from_unit((codec.decode(latents) + 1) / 2)

    return Latents(encoder, decoder, normalisation.clamp, bound)


def _ceil_div(side: int, factor: int) -> int:
    return -(-side // factor)
