"""Plain convolutional classifiers: ConvNet, AlexNet, VGG-11, in their small-image forms.

ConvNet: Gidaris & Komodakis (2018); AlexNet: Krizhevsky et al. (2012); VGG: Simonyan & Zisserman
(2015); all with the sizes of Zhao et al. (2021), which later dataset-distillation papers keep.
"""

import torch
from torch import Tensor, nn

from distillery.models.classifier_base import FlatClassifier, Norm, Pooling, norm_layer
from distillery.models.fused import norm_relu_pool
from distillery.models.pooling import ReluMaxPool

GRAY_28 = 28
"""Side of MNIST's images, which the published AlexNet and VGG pad to 32."""


def _relu_max_pool() -> tuple[nn.Module, nn.Module]:
    """Return ReLU and 2x2 max pooling in two places, by which the weights behind are named."""
    return nn.Identity(), ReluMaxPool()


class ConvNet(FlatClassifier):
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
                norm_layer(norm, width),
                *((nn.ReLU(), nn.AvgPool2d(2)) if pooling == "average" else _relu_max_pool()),
            ]
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width * (image_size >> depth) ** 2, num_classes)
        self._is_published_pair = norm == "instance" and pooling == "average"
        self.prefers_channels_last = not self._is_published_pair
        if self.prefers_channels_last:
            # images follow the order of the weights, and a step of the digits' student is a fifth
            # quicker in this one
            self.blocks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, C', H', W')."""
        if not self._is_published_pair:
            return self.blocks(x)
        for block in range(0, len(self.blocks), 4):
            convolution, norm = self.blocks[block], self.blocks[block + 1]
            x = norm_relu_pool(convolution(x), norm)  # type: ignore[arg-type]
        return x


class AlexNet(FlatClassifier):
    """Five convolutions with three max poolings and no norm; published width 128."""

    def __init__(self, width: int, channels: int, image_size: int, num_classes: int) -> None:
        """Build the network.

        Raises:
            ValueError: If the images have fewer than 8 pixels a side.
        """
        super().__init__()
        if image_size < 8:
            raise ValueError(f"AlexNet needs images of at least 8 pixels, got {image_size}")
        padding = 4 if image_size == GRAY_28 else 2
        side = image_size + 2 * padding - 4
        wide, wider = width * 3 // 2, width * 2
        self.blocks = nn.Sequential(
            *(nn.Conv2d(channels, width, 5, padding=padding), *_relu_max_pool()),
            *(nn.Conv2d(width, wide, 5, padding=2), *_relu_max_pool()),
            *(nn.Conv2d(wide, wider, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(wider, wide, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(wide, wide, 3, padding=1), *_relu_max_pool()),
        )
        self.head = nn.Linear(wide * (side >> 3) ** 2, num_classes)


class VGG11(FlatClassifier):
    """Eight 3x3 convolutions in five groups with max pooling between; published width 64."""

    GROUPS = ((1,), (2,), (4, 4), (8, 8), (8, 8))
    """Widths of the convolutions of each group, in units of the first."""

    def __init__(
        self, width: int, channels: int, image_size: int, num_classes: int, norm: Norm = "instance"
    ) -> None:
        """Build the network; small images are pooled less, so that every norm sees 2x2 pixels.

        Raises:
            ValueError: If the images have fewer than 4 pixels a side.
        """
        super().__init__()
        if image_size < 4:
            raise ValueError(f"VGG-11 needs images of at least 4 pixels, got {image_size}")
        layers: list[nn.Module] = []
        padding = 3 if image_size == GRAY_28 else 1
        side, width_in = image_size + 2 * padding - 2, channels
        for index, group in enumerate(self.GROUPS):
            for factor in group:
                layers += [
                    nn.Conv2d(width_in, factor * width, 3, padding=padding),
                    norm_layer(norm, factor * width),
                    nn.ReLU(),
                ]
                width_in, padding = factor * width, 1
            if index == len(self.GROUPS) - 1 or side >= 4:  # no norm follows the last one
                layers[-1:] = _relu_max_pool()
                side //= 2
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width_in * side**2, num_classes)
