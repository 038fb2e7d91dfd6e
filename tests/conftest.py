"""Fixtures that more than one room uses."""

from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # several test processes share the cores


@pytest.fixture
def shared_data() -> Path:
    folder = Path(__file__).parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the benchmark data in {folder}")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Two classes of 8x8 gray images that a network tells apart: bright above, bright below."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 60, (80, 1, 8, 8), dtype=np.uint8)
    labels = np.repeat([0, 1], 40).astype(np.int64)
    images[:40, :, :4] += 150
    images[40:, :, 4:] += 150
    return images, labels
