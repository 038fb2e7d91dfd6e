"""Bilinear sampling whose gradient is the same in every run, on a GPU too.

There torch adds up the gradient of `grid_sample` in the order in which threads happen to come, so
that refined images would differ in their last bits from run to run. Here the shares of each pixel
are sorted first. Values are those of `grid_sample`. Shapes: N images, C channels, H and W, h and w.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_at(images: Tensor, grid: Tensor) -> Tensor:
    """Return the images (N, C, H, W) at the places of a grid (N, h, w, 2); zero outside.

    Places are in [-1, 1] from edge to edge (`align_corners=False`), x before y. The grid takes no
    gradient.
    """
    if images.device.type == "cpu" or not images.requires_grad:
        return F.grid_sample(images, grid, align_corners=False)
    return OrderedSample.apply(images, grid)


class OrderedSample(torch.autograd.Function):
    """`grid_sample` with an ordered sum in its gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        """Sample, and keep what the gradient needs."""
        ctx.save_for_backward(grid)
        ctx.shape = images.shape
        return F.grid_sample(images, grid, align_corners=False)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the images; linear, so it can be differentiated again."""
        (grid,) = ctx.saved_tensors
        return spread(gradient, grid, ctx.shape), None


def spread(values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
    """Return images (N, C, H, W) that the values (N, C, h, w) at a grid's places add up to.

    The transpose of bilinear sampling: each value goes to the four pixels around its place, by
    their weights; shares outside the image are dropped.
    """
    count, channels, height, width = shape
    x = ((grid[..., 0] + 1) * width - 1) / 2  # (N, h, w)
    y = ((grid[..., 1] + 1) * height - 1) / 2
    left, top = x.floor(), y.floor()
    first = torch.arange(count, device=values.device)[:, None, None] * (height * width)
    whole = values.new_zeros(count * height * width, channels)
    own = values.permute(0, 2, 3, 1)  # (N, h, w, C)
    places, shares = [], []
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left + right, top + below
        weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        places.append((first + place.long()).flatten())
        shares.append((own * torch.where(inside, weight, 0)[..., None]).flatten(0, 2))
    whole = whole.index_put((torch.cat(places),), torch.cat(shares), accumulate=True)
    return whole.reshape(count, height, width, channels).permute(0, 3, 1, 2).contiguous()
