"""A small dataset to write, read and break."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distillery.bundle.dataset import DistilledDataset

CLASSES = ("2", "10", "zebra", "金魚")


@pytest.fixture
def make_dataset() -> Callable[..., DistilledDataset]:
    def make(
        *,
        classes: tuple[str, ...] = CLASSES,
        images_per_class: int = 3,
        size: int = 5,
        **fields: Any,
    ) -> DistilledDataset:
        rng = np.random.default_rng(0)
        channels = fields.pop("channels", 3)
        num_classes = len(classes)
        num_images = num_classes * images_per_class
        values: dict[str, Any] = {
            "images": rng.integers(0, 256, (num_images, channels, size, size), dtype=np.uint8),
            "labels": np.repeat(np.arange(num_classes), images_per_class),
            "weights": np.ones(num_images, np.float32),
            "cluster_ids": np.arange(num_images, dtype=np.int32) - 1,
            "scores": rng.random((num_images, 2), dtype=np.float32),
            "seeds": np.arange(num_images) * 1_000_003,
            "teacher_logits": rng.normal(size=(num_images, num_classes)).astype(np.float16),
            "classes": classes,
            "images_per_class": images_per_class,
            "score_names": ("fit", "tail"),
            "metadata": {"source_dataset": "digits", "license": "cc-by-nc-4.0"},
        }
        return DistilledDataset(**{**values, **fields})

    return make


@pytest.fixture
def dataset(make_dataset: Callable[..., DistilledDataset]) -> DistilledDataset:
    return make_dataset()
