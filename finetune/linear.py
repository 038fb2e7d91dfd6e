"""Linear layers through oneDNN, which on AMD's CPUs is twice as fast as torch's default.

On x86 torch multiplies float32 matrices with MKL. On an AMD CPU oneDNN, also inside torch, reached
446 GFLOP/s where MKL reached 206; on an Intel one both are alike and the way to oneDNN costs a
fifth of a step (docs/method.md). There, elsewhere, and under autocast, nothing changes.
Shapes: ... any leading dimensions, T tokens, I features in, O features out.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distillery.machine import is_intel_cpu

SMALLEST_PRODUCT = 2**20
"""Multiplications below which oneDNN's preparations cost more than it saves (measured here)."""


@cache
def _onednn_pays() -> bool:
    """Say whether oneDNN is the faster one here, and this build of torch offers its linear map."""
    # not in the public interface: torch's own compiler calls it, so a build may lack it
    return (
        platform.machine() in ("x86_64", "AMD64")
        and not is_intel_cpu()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, (..., O), without gradients of its own.

    Args:
        x: (..., I).
        weight: W, (O, I); may be a transposed view.
        bias: b, (O,).
    """
    if x.device.type != "cpu" or not {x.dtype, weight.dtype} == {torch.float32}:
        return F.linear(x, weight, bias)
    if not _onednn_pays() or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if x.numel() * weight.shape[0] < SMALLEST_PRODUCT:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _LinearFunction(torch.autograd.Function):
    """x W^T + b with all three products through `product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.flatten(0, -2)  # (T, O)
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = product(flat, weight.t()).view(*grad.shape[:-1], -1)  # (..., I)
        if needs_weight:
            grad_weight = product(flat.t(), x.flatten(0, -2).t())  # (O, I)
        if needs_bias:
            grad_bias = flat.sum(0)  # (O,)
        return grad_x, grad_weight, grad_bias


def _forward(linear: nn.Linear, x: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return product(x, linear.weight, linear.bias)
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return F.linear(x, linear.weight, linear.bias)
    return _LinearFunction.apply(x, linear.weight, linear.bias)


@contextmanager
def fast_linears(model: nn.Module) -> Iterator[None]:
    """Send every linear layer of `model` through `product` inside the `with` block.

    Blocks may be nested: the fidelity check of a training run samples, and both use this.
    """
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    layers = [layer for layer in linears if _onednn_pays() and "forward" not in layer.__dict__]
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward")
