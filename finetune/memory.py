"""Minimax memories: for each class, the last M real and the last M predicted embeddings.

Rings of fixed size on the device, filled without the host ever waiting for it.
Source: Gu et al. (2024), Algorithm 1; sizes and order of the released code (docs/method.md).
Shapes: K classes, M entries per class, D features, B batch.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Ring:
    """The last M unit vectors of each of K classes, first in, first out."""

    def __init__(self, num_classes: int, size: int, dim: int, device: torch.device) -> None:
        self.num_classes = num_classes
        self.size = size
        # one row more than the rings hold: what is not to be kept is written there
        self._storage = torch.zeros(num_classes * size + 1, dim, device=device)
        self.pushed = torch.zeros(num_classes, dtype=torch.int64, device=device)

    @property
    def entries(self) -> Tensor:
        """Unit vectors of all classes, (K * M, D); entry m of class k is row k * M + m."""
        return self._storage[:-1]

    def valid(self) -> Tensor:
        """Return which entries were filled, bool (K, M)."""
        slots = torch.arange(self.size, device=self.pushed.device)
        return slots < self.pushed[:, None]

    @torch.no_grad()
    def push(self, vectors: Tensor, labels: Tensor, keep: Tensor | None = None) -> None:
        """Store vectors (B, D) of classes `labels` (B,), in their order, scaled to unit length.

        Args:
            vectors: New embeddings; detached here.
            labels: Int64 (B,) in 0..K-1.
            keep: Bool (B,); the others are left out. None keeps all.
        """
        keep = torch.ones_like(labels, dtype=torch.bool) if keep is None else keep
        same = (labels[:, None] == labels) & keep  # (B, B): kept samples of my class
        earlier = same.tril(-1).sum(1)  # (B,)
        of_class = same.sum(1)  # (B,)
        # of more than M new samples of a class only the last M stay, so no slot is written twice
        stays = keep & (of_class - earlier <= self.size)
        slot = (self.pushed[labels] + earlier) % self.size
        target = torch.where(stays, labels * self.size + slot, len(self._storage) - 1)
        self._storage.index_copy_(0, target, F.normalize(vectors.detach().float(), dim=1))
        self.pushed.index_add_(0, labels, keep.long())


class ClassMemories:
    """The real and the predicted memory of every class."""

    def __init__(
        self,
        num_classes: int,
        memory_size: int,
        dim: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """Start with nothing in either memory.

        Raises:
            ValueError: If a size is less than 1.
        """
        if min(num_classes, memory_size, dim) < 1:
            raise ValueError(
                "num_classes, memory_size and dim must be 1 or more, "
                f"got {num_classes}, {memory_size} and {dim}"
            )
        self.real = Ring(num_classes, memory_size, dim, torch.device(device))
        self.predicted = Ring(num_classes, memory_size, dim, torch.device(device))

    def push(self, real: Tensor, predicted: Tensor, labels: Tensor, reliable: Tensor) -> None:
        """Store real embeddings (B, D), and those predicted ones that are `reliable`, bool (B,)."""
        self.real.push(real, labels)
        self.predicted.push(predicted, labels, reliable)

    def state(self) -> dict[str, np.ndarray]:
        """Return both memories as arrays."""
        return {
            f"{name}.{part}": tensor.cpu().numpy().copy()
            for name, ring in (("real", self.real), ("predicted", self.predicted))
            for part, tensor in (("entries", ring.entries), ("pushed", ring.pushed))
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from arrays that `state` made with the same sizes."""
        for name, ring in (("real", self.real), ("predicted", self.predicted)):
            ring.entries.copy_(torch.from_numpy(arrays[f"{name}.entries"]))
            ring.pushed.copy_(torch.from_numpy(arrays[f"{name}.pushed"]))
