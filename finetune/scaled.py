"""The two layers that DiffFit puts in place of frozen ones: a scaled linear map, a table of rows.

Both hold the frozen weights as they are and fold back into the plain layer without loss.
Shapes: ... any leading dimensions, I features in, O features out, V rows in a table, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finetune.linear import product

SMALLEST_SCALE = 1e-4
"""Below this size a scale's gradient is computed as if it had it: the outputs are divided by it."""


class _ScaledLinearFunction(torch.autograd.Function):
    """y = scale * (x W^T) + b, and its gradients for x, b and scale but not for W.

    The scale multiplies the rows of W, which are fewer than the tokens of a batch. Its gradient
    sum_t g_t (W x_t) needs no second product: W x = (y - b) / scale, and y is kept anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
        scaled = weight * scale[:, None]  # (O, I)
        if torch.is_autocast_enabled(x.device.type):
            scaled = scaled.to(torch.get_autocast_dtype(x.device.type))
        y = product(x, scaled, bias)
        ctx.save_for_backward(scaled, y, bias, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scaled, y, bias, scale = ctx.saved_tensors
        flat, y = grad.flatten(0, -2), y.flatten(0, -2)  # (T, O); T tokens of the batch
        grad_x = product(flat, scaled.t()).view(*grad.shape[:-1], -1)  # (..., I)
        grad_bias = flat.sum(0, dtype=scale.dtype)  # (O,)
        grad_scale = (flat * y).sum(0, dtype=scale.dtype)  # (O,), still times the scale
        if bias is not None:
            grad_scale = torch.addcmul(grad_scale, bias, grad_bias, value=-1)
        safe = scale.abs().clamp(min=SMALLEST_SCALE).copysign(scale)
        return grad_x, None, grad_bias if bias is not None else None, grad_scale / safe


class ScaledLinear(nn.Module):
    """A linear layer with frozen weights, whose outputs are scaled one by one before the bias."""

    def __init__(self, linear: nn.Linear) -> None:
        """Take over the parameters of `linear` and start with scales of one."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias
        self.scale = nn.Parameter(torch.ones_like(linear.weight[:, 0], requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return scale * (W x) + b, (..., O), for x of (..., I)."""
        return _ScaledLinearFunction.apply(x, self.weight, self.bias, self.scale)

    def plain(self) -> nn.Linear:
        """Return a frozen linear layer that does the same."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        folded = self.weight.detach() * self.scale.detach()[:, None]
        linear.weight = nn.Parameter(folded, requires_grad=False)
        linear.bias = self.bias
        return linear


class RowTable(nn.Module):
    """An embedding table of which some rows train, as a small parameter of their own."""

    position: Tensor
    row_ids: Tensor

    def __init__(self, table: nn.Embedding, rows: Tensor) -> None:
        """Take over `table` and copy its `rows`, int64 (R,) in rising order, to train them."""
        super().__init__()
        self.weight = table.weight
        self.rows = nn.Parameter(table.weight.detach()[rows].clone())  # (R, D)
        position = torch.full((table.num_embeddings,), -1, device=rows.device)
        position[rows] = torch.arange(len(rows), device=rows.device)
        self.register_buffer("position", position, persistent=False)
        self.register_buffer("row_ids", rows, persistent=False)
        self.is_whole = len(rows) == table.num_embeddings

    def forward(self, labels: Tensor) -> Tensor:
        """Return the rows (B, D) of labels (B,): trained ones where they train."""
        if self.is_whole:
            return F.embedding(labels, self.rows)
        position = self.position[labels]  # (B,)
        trained = F.embedding(position.clamp(min=0), self.rows)
        return torch.where((position >= 0)[:, None], trained, F.embedding(labels, self.weight))

    def plain(self) -> nn.Embedding:
        """Return a frozen table that does the same."""
        weight = self.weight.detach().clone()
        weight[self.row_ids] = self.rows.detach()
        return nn.Embedding.from_pretrained(weight, freeze=True)
