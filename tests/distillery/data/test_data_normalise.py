"""Normalisation: statistics of raw pixels, there and back."""

import numpy as np
import pytest
import torch

from distillery.data.normalise import Normalisation, NormalisedImages, measure_normalisation

GRAY = Normalisation(mean=(0.5,), std=(0.25,), border=(0.0,))


def test_statistics_by_hand() -> None:
    images = np.zeros((2, 2, 4, 4), np.uint8)
    images[0, 0], images[1, 0] = 100, 200
    images[:, 1] = 51
    found = measure_normalisation(images)
    assert found.mean == pytest.approx((150 / 255, 0.2))
    assert found.std == pytest.approx((50 / 255, 1e-3))  # a constant channel must not divide by 0
    assert found.border == pytest.approx((150 / 255, 0.2))


def test_normalised_images_have_mean_zero_and_deviation_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8)
    out = measure_normalisation(images).normalise(torch.from_numpy(images))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_the_border_is_the_edge_not_the_middle() -> None:
    images = np.full((3, 1, 6, 6), 255, np.uint8)
    images[:, :, 1:-1, 1:-1] = 10
    found = measure_normalisation(images)
    assert found.border == (1.0,)
    expected = (1 - found.mean[0]) / found.std[0]
    torch.testing.assert_close(found.background(), torch.tensor([expected]))


def test_many_images_are_measured_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A float copy of 10,000 photographs would not fit a laptop."""
    images = np.random.default_rng(0).integers(0, 256, (600, 3, 32, 32), dtype=np.uint8)
    import tracemalloc

    tracemalloc.start()
    found = measure_normalisation(images)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * images.nbytes  # float32 alone would be four times
    assert found.mean == pytest.approx(images.mean((0, 2, 3)) / 255)
    assert found.std == pytest.approx(images.std((0, 2, 3)) / 255)


def test_all_raw_values_survive_the_round_trip() -> None:
    raw = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(GRAY.to_raw(GRAY.normalise(raw)), raw)


def test_values_beyond_raw_are_clamped_not_wrapped() -> None:
    wild = torch.tensor([[-100.0, 100.0]]).reshape(1, 1, 1, 2)
    assert GRAY.to_raw(wild).flatten().tolist() == [0, 255]
    assert GRAY.clamp(wild).flatten().tolist() == [-2.0, 2.0]  # (0 - 0.5) / 0.25, (1 - 0.5) / 0.25
    inside = torch.tensor([-1.9, 0.3]).reshape(1, 1, 1, 2)
    assert torch.equal(GRAY.clamp(inside), inside)


def test_images_normalised_as_they_are_taken_equal_all_at_once() -> None:
    raw = torch.arange(5 * 64).remainder(256).to(torch.uint8).reshape(5, 1, 8, 8)
    images, whole = NormalisedImages(raw, GRAY), GRAY.normalise(raw)
    assert len(images) == 5 and images.shape == whole.shape and images.device == whole.device
    assert torch.equal(images[torch.tensor([3, 0])], whole[[3, 0]])
    assert torch.equal(images[:2], whole[:2])
    assert all(torch.equal(a, b) for a, b in zip(images.split(2), whole.split(2), strict=True))
