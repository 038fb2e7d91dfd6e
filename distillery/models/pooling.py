"""ReLU and 2x2 max pooling as one operation for CPUs, with the bits of the two layers.

torch's kernel for images in ordinary memory order is not vectorised, that for channels last is. So
the images are pooled in that order: a quarter of the time, copies included, and those that come in
it need none. It is torch's pooling all the same, so each value, and which of equal ones gets the
gradient, are the layer's.

ReLU comes second, when a quarter of the pixels is left. Where the largest of four is above zero, it
and its place are the same before ReLU and after; elsewhere the result is zero and so is the
gradient. Only the sign of a zero may differ, if the input has zeros below zero: no sum shows it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = [2, 2]
FEWEST_CHANNELS = 8
"""Fewer do not fill a vector, and the copies cost more than they save."""


class ReluMaxPool(nn.Module):
    """`max_pool2d(relu(x), 2)`, reordered where that is quicker: float32 in order on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H / 2, W / 2) of (N, C, H, W), rounded down, in the same memory order."""
        pooled = _MaxPool.apply(x)[0] if _fits(x) else F.max_pool2d(x, SIDE)
        return F.relu(pooled)


def _fits(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()
    return plain and x.shape[1] >= FEWEST_CHANNELS


class _MaxPool(torch.autograd.Function):
    """Pooling; its gradient is torch's own operation, which can be differentiated again."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        reordered = x.contiguous(memory_format=torch.channels_last)
        pooled, winners = torch.ops.aten.max_pool2d_with_indices(reordered, SIDE, SIDE)
        return pooled.clone(memory_format=torch.contiguous_format), winners

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        _, winners = output
        ctx.mark_non_differentiable(winners)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, winners)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, winners = ctx.saved_tensors
        return torch.ops.aten.max_pool2d_with_indices_backward(
            gradients[0], x, SIDE, SIDE, [0, 0], [1, 1], False, winners
        )

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, ...], x: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Take the images of several networks as those of one."""
        own = x.movedim(in_dims[0], 0).contiguous()  # (S, N, C, H, W)
        outputs = _MaxPool.apply(own.flatten(0, 1))
        return tuple(out.unflatten(0, own.shape[:2]) for out in outputs), (0,) * len(outputs)
