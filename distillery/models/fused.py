"""Instance norm, ReLU and 2x2 average pooling as one operation for CPUs.

In a ConvNet on a CPU these three take longer than its convolutions: each walks through memory on
its own, and pooling is not vectorised there. Here they keep two buffers in place of four, pool by a
small matrix product, and go back through batch norm's kernel, which is the faster one. Values agree
with the three layers to rounding.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_relu_pool(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Return `avg_pool2d(relu(norm(x)), 2)` of x (N, C, H, W), by the fused way where it fits.

    It fits float32 in ordinary memory order on a CPU, one group a channel and even sides.
    """
    if _fits(x, norm):
        pooled, *_ = _NormReluPool.apply(x, norm.weight, norm.bias, norm.eps)
        return pooled
    return _layers(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def _layers(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return what the three layers do, one after another."""
    return F.avg_pool2d(F.relu(F.group_norm(x, num_groups, weight, bias, eps)), 2)


def _fits(x: Tensor, norm: nn.GroupNorm) -> bool:
    even = x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous()
    return plain and even and norm.num_groups == x.shape[1]


@lru_cache(maxsize=64)
def _pooling_matrix(width: int) -> Tensor:
    """Return the (W, W / 2) matrix that adds pairs of columns and divides by four."""
    column = torch.arange(width)
    matrix = torch.zeros(width, width // 2)
    matrix[column, column // 2] = 0.25
    return matrix


class _NormReluPool(torch.autograd.Function):
    """The fused operation; its gradient can be differentiated again, by the plain layers."""

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        n, c, h, w = x.shape
        active, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, h * w, c, eps)
        active.relu_()
        rows = (active.view(-1, w) @ _pooling_matrix(w)).view(n, c, h // 2, 2, w // 2)
        return rows[:, :, :, 0] + rows[:, :, :, 1], active, mean, rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        x, weight, bias, eps = inputs
        _, active, mean, rstd = output
        ctx.mark_non_differentiable(active, mean, rstd)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, active, mean, rstd)
        ctx.eps = eps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, active, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is to be differentiated again
            return (*_plain_gradients(x, weight, bias, ctx.eps, gradients[0]), None)
        n, c, h, w = x.shape
        rows = gradients[0].reshape(-1, w // 2) @ _pooling_matrix(w).T
        spread = torch.stack((rows, rows), 1).view(n, c, h, w)
        through = torch.ops.aten.threshold_backward.grad_input(
            spread, active, 0.0, grad_input=spread
        )
        # a batch of one image with N * C channels: batch norm in training is instance norm
        per_map = (1, n * c, h, w)
        own, scale, shift = torch.ops.aten.native_batch_norm_backward(
            through.view(per_map), x.reshape(per_map), weight.repeat(n), None, None,
            mean.view(-1), rstd.view(-1), True, ctx.eps, [True, True, True],
        )  # fmt: skip
        return own.view_as(x), scale.view(n, c).sum(0), shift.view(n, c).sum(0), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], x: Tensor, weight: Tensor, bias: Tensor,
        eps: float,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:  # fmt: skip
        """Take several networks at once: their channels are groups of one wider operation."""
        count = info.batch_size
        x = _brought_to(x, in_dims[0], count, 1)  # (N, S, C, H, W)
        weight, bias = (
            _brought_to(value, dim, count, 0).flatten()
            for value, dim in zip((weight, bias), in_dims[1:3], strict=True)
        )
        outputs = _NormReluPool.apply(x.flatten(1, 2), weight, bias, eps)
        return tuple(out.unflatten(1, x.shape[1:3]) for out in outputs), (1,) * len(outputs)


def _brought_to(value: Tensor, dim: int | None, count: int, place: int) -> Tensor:
    """Return a tensor with the dimension of `count` networks at a place, repeated without one."""
    if dim is None:
        return torch.stack([value] * count, place)
    return value.movedim(dim, place).contiguous()


def _plain_gradients(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, gradient: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of x, weight and bias with a graph of their own."""
    pooled = _layers(x, x.shape[1], weight, bias, eps)
    return torch.autograd.grad(pooled, (x, weight, bias), gradient, create_graph=True)
