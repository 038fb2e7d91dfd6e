"""Fixtures of the fine-tuning tests: a tiny network, and images that are easy to learn."""

import numpy as np
import pytest
from diffusers import DiTTransformer2DModel
from finetune_helpers import NUM_CLASSES, build_tiny_dit


@pytest.fixture
def tiny_dit() -> DiTTransformer2DModel:
    return build_tiny_dit()


@pytest.fixture
def striped_images() -> tuple[np.ndarray, np.ndarray]:
    """24 images of 4 classes: class k is white on row k and dark elsewhere, with some noise."""
    labels = np.arange(24, dtype=np.int64) % NUM_CLASSES
    images = np.random.default_rng(0).integers(0, 60, (24, 1, 4, 4), dtype=np.uint8)
    images[np.arange(24), 0, labels] = 255
    return images, labels
