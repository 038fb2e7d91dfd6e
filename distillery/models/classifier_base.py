"""What all classifier networks share: how they show their features, and their normalisations.

Inputs are normalised float32 images. Shapes: N batch, C channels, H and W, D features, K classes.
"""

import math
from typing import Literal

from torch import Tensor, nn

Norm = Literal["instance", "group", "batch", "none"]
Pooling = Literal["average", "max"]


def norm_layer(kind: Norm, width: int) -> nn.Module:
    """Return a normalisation over feature maps; instance norm as groups of one channel."""
    if kind == "instance":
        return nn.GroupNorm(width, width)
    if kind == "group":
        return nn.GroupNorm(math.gcd(4, width), width)
    return nn.BatchNorm2d(width) if kind == "batch" else nn.Identity()


class Classifier(nn.Module):
    """A network of images that also shows its features; `head` is the last linear layer."""

    head: nn.Linear
    prefers_channels_last: bool = True
    """Whether this memory order is the faster one for it on a CPU."""

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C', H', W')."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the last linear layer, (N, D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, C, H, W)."""
        return self.head(self.features(x))


class FlatClassifier(Classifier):
    """Layers whose last feature map, flattened, goes to one linear layer."""

    blocks: nn.Sequential

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C', H', W')."""
        return self.blocks(x)

    def features(self, x: Tensor) -> Tensor:
        """Return the flattened feature map, (N, D)."""
        return self.feature_map(x).flatten(1)
