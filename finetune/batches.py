"""Which images and which random numbers a training step sees, from a seed and its number alone.

Nothing depends on the steps before, so a run that resumes at any step repeats it exactly.
Shapes: N images, B batch.
"""

import torch
from torch import Tensor

from distillery.seeds import torch_rng


class ShuffledEpochs:
    """Endless shuffled epochs over N items; batches run on across the end of an epoch."""

    def __init__(self, num_items: int, batch_size: int, seed: int, *path: str | int) -> None:
        """Shuffle with the generators of `torch_rng(seed, *path, "epoch", number)`.

        Raises:
            ValueError: If there is nothing to draw from, or the batch is empty.
        """
        if num_items < 1 or batch_size < 1:
            raise ValueError(
                f"num_items and batch_size must be 1 or more, got {num_items} and {batch_size}"
            )
        self.num_items = num_items
        self.batch_size = batch_size
        self._seed = seed
        self._path = path
        self._orders: dict[int, Tensor] = {}

    def _order(self, epoch: int) -> Tensor:
        """Return the order of one epoch, keeping the two most recent ones."""
        if epoch not in self._orders:
            generator = torch_rng(self._seed, *self._path, "epoch", epoch)
            while len(self._orders) >= 2:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch] = torch.randperm(self.num_items, generator=generator)
        return self._orders[epoch]

    def batch(self, step: int) -> Tensor:
        """Return the items of a step, int64 (B,): positions step * B on of the endless list."""
        parts = []
        position, end = step * self.batch_size, (step + 1) * self.batch_size
        while position < end:
            epoch, start = divmod(position, self.num_items)
            part = self._order(epoch)[start : start + end - position]
            parts.append(part)
            position += len(part)
        return torch.cat(parts)  # (B,)


def spread_timesteps(count: int, num_timesteps: int, generator: torch.Generator) -> Tensor:
    """Return one timestep of each of `count` equal parts of [0, num_timesteps), int64 (B,), mixed.

    Each alone is uniform; together they cover the diffusion evenly, so that the loss of a batch
    varies less. Source: Kingma et al. (2021), "Variational diffusion models", appendix I.1.
    """
    offset = torch.rand((), generator=generator)
    parts = (torch.randperm(count, generator=generator) + offset) / count  # each in [0, 1)
    return (parts * num_timesteps).long().clamp(max=num_timesteps - 1)


def drop_labels(rows: Tensor, null_row: int, share: float, generator: torch.Generator) -> Tensor:
    """Return `rows` (B,) with each replaced by `null_row` with probability `share`.

    Once per sample, as classifier-free guidance needs it: the network's own dropout draws anew in
    every block, so that no sample ever loses its label everywhere.
    """
    dropped = torch.rand(len(rows), generator=generator) < share
    return torch.where(dropped, null_row, rows)
