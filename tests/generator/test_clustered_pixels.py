"""What k-means sees of images: all of small ones, their layout at 32 px of larger ones."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distillery.data.normalise import NormalisedImages, measure_normalisation
from generator import refinement
from generator.config import DistillConfig
from generator.stages import refine
from generator.stages.common import rows_to_cluster


def images_of(size: int) -> NormalisedImages:
    raw = np.random.default_rng(0).integers(0, 256, (6, 3, size, size), dtype=np.uint8)
    return NormalisedImages(torch.from_numpy(raw), measure_normalisation(raw))


@pytest.mark.parametrize("size", [8, 32])
def test_small_images_are_seen_as_they_are(size: int) -> None:
    images = images_of(size)
    assert np.array_equal(rows_to_cluster(images), images[:].flatten(1).numpy())


def test_larger_images_are_seen_at_32_px() -> None:
    images = images_of(64)
    means = images[:].reshape(6, 3, 32, 2, 32, 2).mean((3, 5))
    assert np.allclose(rows_to_cluster(images), means.flatten(1).numpy(), atol=1e-6)


def test_validation_images_are_clustered_as_the_real_ones_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[np.ndarray] = []

    def cluster(rows: np.ndarray, labels: np.ndarray, **_: Any) -> np.ndarray:
        seen.append(rows)
        return np.zeros(len(labels), np.int64)

    monkeypatch.setattr(refinement, "cluster_within_classes", cluster)
    split = (images_of(64), torch.zeros(6, dtype=torch.int64))
    reals: Any = SimpleNamespace(split=lambda _: split, num_classes=1)
    refinement.SetScorer(reals, DistillConfig())
    assert seen[0].shape == (6, 3 * 32 * 32)


def test_only_the_keys_of_larger_images_tell_of_it() -> None:
    small = replace(DistillConfig(), image_size=32)
    assert "clustered_px" not in refine.settings(small)
    assert refine.settings(replace(small, image_size=64))["clustered_px"] == 32
