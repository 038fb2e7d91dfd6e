"""Random weights that depend on a seed alone.

torch layers draw their first weights from the global generator; here that generator is seeded for
the time of the construction and then put back as it was, so nothing else notices.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distillery.seeds import derive_seed


@contextmanager
def seeded_weights(seed: int, *path: str | int) -> Iterator[None]:
    """Make layers built inside the `with` block depend on `seed` and `path` only (CPU weights)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *path))
        yield
