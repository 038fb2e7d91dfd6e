"""A small vision transformer: about 8 x 8 patches, pre-norm blocks, mean of the tokens.

Source: Dosovitskiy et al. (2021). Attention is written out, so that gradients of gradients, which
gradient matching takes, exist. Legend: N batch, T tokens, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.models.classifier_base import Classifier

TOKENS_A_SIDE = 8
MAX_PATCH = 16
HEAD_WIDTH = 32
DEPTH = 6


def patch_of(image_size: int) -> int:
    """Return the side of a patch: the divisor of the image side nearest below an eighth of it."""
    wanted = min(MAX_PATCH, max(1, image_size // TOKENS_A_SIDE))
    return max(size for size in range(1, wanted + 1) if image_size % size == 0)


class _Block(nn.Module):
    """Self-attention and a two-layer perceptron, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_WIDTH
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.before_attention(x))
        return x + self.mlp(self.before_mlp(x))

    def _attend(self, x: Tensor) -> Tensor:
        """Return attended tokens, (N, T, D)."""
        heads = self.qkv(x).unflatten(2, (3, self.num_heads, HEAD_WIDTH))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # (N, H, T, D / H) each
        weights = F.softmax(query @ key.transpose(2, 3) / HEAD_WIDTH**0.5, dim=-1)  # (N, H, T, T)
        return self.out((weights @ value).transpose(1, 2).flatten(2))  # (N, T, D)


class VisionTransformer(Classifier):
    """Patches to tokens, `DEPTH` blocks, norm, mean over the tokens, one linear layer."""

    def __init__(self, channels: int, image_size: int, num_classes: int, width: int = 192) -> None:
        """Build the network; `width` is a multiple of `HEAD_WIDTH`."""
        super().__init__()
        patch = patch_of(image_size)
        self.side = image_size // patch
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, self.side**2, width))
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def _tokens(self, x: Tensor) -> Tensor:
        """Return the last tokens, (N, T, D)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.norm(self.blocks(tokens))

    def feature_map(self, x: Tensor) -> Tensor:
        """Return the last tokens in their places, (N, D, side, side)."""
        return self._tokens(x).transpose(1, 2).unflatten(2, (self.side, self.side))

    def features(self, x: Tensor) -> Tensor:
        """Return the mean of the tokens, (N, D)."""
        return self._tokens(x).mean(1)
