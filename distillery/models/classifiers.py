"""Classifier networks: students, proxies and guards, named by strings such as `convnet-d3-w128`.

ConvNet: Gidaris & Komodakis (2018), as all dataset-distillation papers use it; ResNet: He et al.
(2016), with instance norm as in those papers. Inputs are normalised float32 images.
Shapes: N batch, C channels, H and W, D features, K classes.
"""

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from distillery.models.config import CLASSIFIER_NAMES, CONVNET_NAME, RESNET_NAME
from distillery.models.initialise import seeded_weights

Norm = Literal["instance", "group", "batch", "none"]
Pooling = Literal["average", "max"]
SMALL_IMAGE = 64
"""Up to this size a ResNet starts without halving the image, beyond it halves it twice."""


def _norm(kind: Norm, width: int) -> nn.Module:
    """Return a normalisation over feature maps; instance norm as groups of one channel."""
    if kind == "instance":
        return nn.GroupNorm(width, width)
    if kind == "group":
        return nn.GroupNorm(math.gcd(4, width), width)
    return nn.BatchNorm2d(width) if kind == "batch" else nn.Identity()


class Classifier(nn.Module):
    """A network of images that also shows its features; `head` is the last linear layer."""

    head: nn.Linear

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C', H', W')."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return the input of the last linear layer, (N, D)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, C, H, W)."""
        return self.head(self.features(x))


class ConvNet(Classifier):
    """Blocks of 3x3 convolution, norm, ReLU and 2x2 pooling, then one linear layer."""

    def __init__(
        self,
        depth: int,
        width: int,
        channels: int,
        image_size: int,
        num_classes: int,
        norm: Norm = "instance",
        pooling: Pooling = "average",
    ) -> None:
        """Build the network.

        Raises:
            ValueError: If a block would see fewer than 2x2 pixels; odd sizes lose a row in pooling.
        """
        super().__init__()
        if depth < 1 or image_size >> depth < 1:
            deepest = max(1, image_size.bit_length() - 1)
            raise ValueError(
                f"a ConvNet of {depth} blocks does not fit images of {image_size} pixels: "
                f"use depth 1 to {deepest}"
            )
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [
                nn.Conv2d(channels if block == 0 else width, width, 3, padding=1),
                _norm(norm, width),
                nn.ReLU(),
                nn.AvgPool2d(2) if pooling == "average" else nn.MaxPool2d(2),
            ]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width * (image_size >> depth) ** 2, num_classes)

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, width, H / 2^depth, W / 2^depth)."""
        return self.blocks(x)

    def features(self, x: Tensor) -> Tensor:
        """Return the flattened feature map, (N, D)."""
        return self.feature_map(x).flatten(1)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False),
            _norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _norm(norm, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), _norm(norm, width)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class ResNet(Classifier):
    """ResNet-18: four stages of two residual blocks; the width doubles from stage to stage."""

    def __init__(
        self,
        channels: int,
        image_size: int,
        num_classes: int,
        width: int = 64,
        norm: Norm = "instance",
    ) -> None:
        """Build the network.

        Raises:
            ValueError: If the images have fewer than 8 pixels a side.
        """
        super().__init__()
        if image_size < 8:
            raise ValueError(f"ResNet-18 needs images of at least 8 pixels, got {image_size}")
        large = image_size > SMALL_IMAGE
        kernel = 7 if large else 3
        stem: list[nn.Module] = [
            nn.Conv2d(channels, width, kernel, 2 if large else 1, kernel // 2, bias=False),
            _norm(norm, width),
            nn.ReLU(),
        ]
        if large:
            stem.append(nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        width_in = width
        for stage in range(4):
            width_out = width * 2**stage
            # where 8 pixels came in, one pixel is left in the last stage, which has no norm to take
            halves = stage > 0 and image_size >> stage >= 2
            blocks.append(_ResidualBlock(width_in, width_out, 2 if halves else 1, norm))
            blocks.append(_ResidualBlock(width_out, width_out, 1, norm))
            width_in = width_out
        self.blocks = nn.Sequential(*stem, *blocks)
        self.head = nn.Linear(width_in, num_classes)

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, 8 width, H', W')."""
        return self.blocks(x)

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the feature map over the pixels, (N, 8 width)."""
        return self.feature_map(x).mean(dim=(2, 3))


def build_classifier(
    name: str,
    channels: int,
    image_size: int,
    num_classes: int,
    seed: int,
    norm: Norm = "instance",
) -> Classifier:
    """Return an untrained classifier whose weights depend on the arguments alone.

    Args:
        name: `convnet-d{depth}-w{width}` (`-group`, `-max` behind it), `resnet18` (`-w{width}`).
        channels: 1 or 3.
        image_size: Height and width of the images.
        num_classes: Number of logits.
        seed: Root seed of the weights; the global generator is left alone.
        norm: `instance` (the default of the papers), `batch` or `none`.

    Raises:
        ValueError: If the name is unknown, or the network does not fit the images.
    """
    with seeded_weights(seed, "classifier", name):
        if match := CONVNET_NAME.fullmatch(name):
            depth, width = int(match[1]), int(match[2])
            norm = "group" if match[3] else norm
            pooling: Pooling = "max" if match[4] else "average"
            return ConvNet(depth, width, channels, image_size, num_classes, norm, pooling)
        if match := RESNET_NAME.fullmatch(name):
            return ResNet(channels, image_size, num_classes, int(match[1] or 64), norm)
    raise ValueError(f"classifier must be one of {CLASSIFIER_NAMES}, got {name!r}")
