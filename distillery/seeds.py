"""Seeds for every random draw, derived from one root seed and a path of names.

A draw depends on its own path alone, never on what was drawn before it: so the noise of image 7
of class 3 is the same in any batch, order, process or resumed run.
"""

import hashlib
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(root_seed: int, *path: str | int) -> int:
    """Return a seed in [0, 2^63) that depends on `root_seed` and on every part of `path`."""
    # NumPy's integers would spell themselves `np.int64(3)`, and not in every version
    parts = (int(part) if isinstance(part, Integral) else part for part in path)
    text = "\x1f".join([repr(int(root_seed)), *map(repr, parts)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(root_seed: int, *path: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by `derive_seed(root_seed, *path)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(root_seed, *path)))


def torch_rng(root_seed: int, *path: str | int) -> "torch.Generator":
    """Return a CPU torch generator seeded by `derive_seed(root_seed, *path)`."""
    import torch  # here, so that reading a bundle does not need torch

    return torch.Generator().manual_seed(derive_seed(root_seed, *path))
