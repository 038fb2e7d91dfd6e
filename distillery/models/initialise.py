"""Random weights that depend on a seed alone.

torch layers draw their first weights from the global generator; here that generator is seeded for
the time of the construction and then put back as it was, so nothing else notices.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distillery.seeds import derive_seed

_LOCK = threading.Lock()


@contextmanager
def seeded_weights(seed: int, *path: str | int) -> Iterator[None]:
    """Make layers built inside the `with` block depend on `seed` and `path` only (CPU weights).

    One thread at a time: the generator is the process's own.
    """
    with _LOCK, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *path))
        yield
