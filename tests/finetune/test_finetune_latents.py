"""Latents: pixels in [-1, 1], posteriors sampled, and the mirrored side where asked."""

import numpy as np
import pytest
import torch

from distillery.seeds import torch_rng
from finetune.latents import CachedLatents, PixelLatents


def test_pixels_become_minus_one_to_one() -> None:
    images = np.array([0, 255, 51], np.uint8).reshape(3, 1, 1, 1)
    batch = PixelLatents(images).batch(torch.tensor([1, 0, 2]), torch.zeros(3).bool(), torch_rng(0))
    assert batch.flatten().tolist() == pytest.approx([1.0, -1.0, -0.6])


def test_only_images_asked_for_are_mirrored() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)
    flips, both = torch.tensor([True, False]), torch.tensor([0, 1])
    plain = PixelLatents(images).batch(both, flips, torch_rng(0))
    mirrored = PixelLatents(images, flip=True).batch(both, flips, torch_rng(0))
    assert torch.equal(mirrored[0], plain[0].flip(2))
    assert torch.equal(mirrored[1], plain[1])


def test_posteriors_are_sampled_around_the_mean_of_the_right_side() -> None:
    mean = np.zeros((2, 2, 1, 50, 50), np.float32)
    mean[1, 0], mean[1, 1] = 3.0, -3.0
    latents = CachedLatents(mean, np.full_like(mean, 0.5))
    batch = latents.batch(torch.tensor([1, 1]), torch.tensor([False, True]), torch_rng(0))
    assert batch.mean((1, 2, 3)).tolist() == pytest.approx([3.0, -3.0], abs=0.05)
    assert batch[0].std().item() == pytest.approx(0.5, abs=0.02)


def test_without_a_mirrored_side_flips_change_nothing() -> None:
    latents = CachedLatents(np.ones((3, 1, 2, 2, 2), np.float16), np.zeros((3, 1, 2, 2, 2)))
    batch = latents.batch(torch.tensor([2]), torch.tensor([True]), torch_rng(0))
    assert batch.dtype == torch.float32
    assert batch.unique().tolist() == [1.0]


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="images must be uint8"):
        PixelLatents(np.zeros((2, 1, 4, 4), np.float32))
    with pytest.raises(ValueError, match="mean and std must both be"):
        CachedLatents(np.zeros((2, 3, 1, 4, 4)), np.zeros((2, 3, 1, 4, 4)))
