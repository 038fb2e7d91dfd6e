"""Residual classifiers: ResNet-10, ResNet-18, and ResNet-AP-10 with average pooling for strides.

ResNet: He et al. (2016), with instance norm as dataset-distillation papers use it; ResNet-AP-10:
Kim et al. (2022), whose convolutions all have stride 1.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from distillery.models.classifier_base import Classifier, Norm, norm_layer

SMALL_IMAGE, MIDDLE_IMAGE = 64, 128
"""Up to the first a network starts at full size; beyond it ResNets quarter the image at once.

ResNet-AP halves it up to the second, and quarters it beyond.
"""


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(
        self, width_in: int, width: int, stride: int, norm: Norm, *, is_pooled: bool
    ) -> None:
        super().__init__()
        step = 1 if is_pooled else stride
        pool = [nn.AvgPool2d(2)] if is_pooled and stride == 2 else []
        self.branch = nn.Sequential(
            nn.Conv2d(width_in, width, 3, step, padding=1, bias=False),
            norm_layer(norm, width),
            nn.ReLU(),
            *pool,
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm_layer(norm, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, step, bias=False), *pool, norm_layer(norm, width)
            )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class ResNet(Classifier):
    """Four stages of one (ResNet-10) or two (ResNet-18) blocks; each doubles the width."""

    def __init__(
        self,
        channels: int,
        image_size: int,
        num_classes: int,
        width: int = 64,
        norm: Norm = "instance",
        *,
        blocks_per_stage: int = 2,
        is_pooled: bool = False,
    ) -> None:
        """Build the network; `is_pooled` makes it a ResNet-AP.

        Raises:
            ValueError: If the images have fewer than 8 pixels a side.
        """
        super().__init__()
        if image_size < 8:
            raise ValueError(f"a ResNet needs images of at least 8 pixels, got {image_size}")
        stem = (_pooled_stem if is_pooled else _strided_stem)(channels, image_size, width, norm)
        blocks: list[nn.Module] = []
        width_in = width
        for stage in range(4):
            width_out = width * 2**stage
            # where 8 pixels came in, one pixel is left in the last stage, which has no norm to take
            halves = stage > 0 and image_size >> stage >= 2
            for block in range(blocks_per_stage):
                stride = 2 if halves and block == 0 else 1
                blocks.append(
                    _ResidualBlock(width_in, width_out, stride, norm, is_pooled=is_pooled)
                )
                width_in = width_out
        self.blocks = nn.Sequential(*stem, *blocks)
        self.head = nn.Linear(width_in, num_classes)
        if is_pooled:
            self._initialise_as_published()

    def _initialise_as_published(self) -> None:
        """Draw convolutions from N(0, 2 / (k^2 C_out)), as ResNet-AP's authors do."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / fan_out))

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last feature map, (N, 8 width, H', W')."""
        return self.blocks(x)

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the feature map over the pixels, (N, 8 width)."""
        return self.feature_map(x).mean(dim=(2, 3))


def _strided_stem(channels: int, image_size: int, width: int, norm: Norm) -> list[nn.Module]:
    """Return the first layers of a ResNet."""
    large = image_size > SMALL_IMAGE
    kernel = 7 if large else 3
    convolution = nn.Conv2d(channels, width, kernel, 2 if large else 1, kernel // 2, bias=False)
    pool: list[nn.Module] = [nn.MaxPool2d(3, 2, 1)] if large else []
    return [convolution, norm_layer(norm, width), nn.ReLU(), *pool]


def _pooled_stem(channels: int, image_size: int, width: int, norm: Norm) -> list[nn.Module]:
    """Return the first layers of a ResNet-AP."""
    kernel = 7 if image_size > MIDDLE_IMAGE else 3
    factor = 4 if image_size > MIDDLE_IMAGE else 2
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    pool: list[nn.Module] = [nn.AvgPool2d(factor)] if image_size > SMALL_IMAGE else []
    return [convolution, norm_layer(norm, width), nn.ReLU(), *pool]
