"""Noise, blur and inversion of test images: raw in, raw out."""

import numpy as np
import pytest

from distillery.data.corruptions import add_noise, blur, invert, standard_corruptions

MIDDLE = np.full((20, 3, 16, 16), 128, np.uint8)


def test_noise_has_the_deviation_it_names_and_repeats() -> None:
    noisy = add_noise(MIDDLE, sigma=0.1, seed=0)
    assert noisy.dtype == np.uint8
    assert (noisy.astype(float) - 128).std() == pytest.approx(25.5, rel=0.03)
    assert np.array_equal(noisy, add_noise(MIDDLE, sigma=0.1, seed=0))
    assert not np.array_equal(noisy, add_noise(MIDDLE, sigma=0.1, seed=1))


def test_noise_saturates_and_never_wraps() -> None:
    white = np.full((4, 1, 16, 16), 255, np.uint8)
    noisy = add_noise(white, sigma=0.1, seed=0)
    assert noisy.min() > 100 and (noisy == 255).mean() > 0.4


def test_blur_spreads_a_point_and_keeps_channels_apart() -> None:
    image = np.zeros((1, 2, 9, 9), np.uint8)
    image[0, 0, 4, 4] = 255
    blurred = blur(image, radius=1)
    assert 0 < blurred[0, 0, 4, 5] < blurred[0, 0, 4, 4] < 255
    assert (blurred[0, 1] == 0).all()


def test_inversion_twice_is_nothing() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert invert(image)[0, 0, 0, 0] == 255
    assert np.array_equal(invert(invert(image)), image)


@pytest.mark.parametrize(("side", "sigma"), [(16, 0.071), (64, 0.071), (80, 0.2)])
def test_strengths_fit_the_size(side: int, sigma: float) -> None:
    images = np.random.default_rng(0).integers(90, 160, (2, 1, side, side), dtype=np.uint8)
    found = standard_corruptions(images)
    assert set(found) == {"noise", "blur", "invert"}
    deviation = (found["noise"].astype(float) - images).std() / 255
    assert deviation == pytest.approx(sigma, rel=0.1)
    assert np.array_equal(found["blur"], blur(images, radius=side / 16))
