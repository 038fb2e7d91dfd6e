"""The noise that each image starts from.

It depends on the root seed, the class and the image's number in its class alone, and is drawn on
the CPU: so it is the same in any batch, order, process, device, and for any images per class.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distillery.seeds import derive_seed


def noise_seed(root_seed: int, label: int, index: int) -> int:
    """Return the seed of image `index` of class `label`."""
    return derive_seed(root_seed, "noise", label, index)


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal noise (N, *shape), one row a seed, float32 on the CPU."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)
