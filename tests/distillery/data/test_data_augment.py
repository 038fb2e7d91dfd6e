"""Augmentation: known draws do what they say, gradients flow, one draw can serve many images."""

import math
from dataclasses import replace

import pytest
import torch

from distillery.data.augment import (
    AFFINE,
    DSA,
    AugmentConfig,
    AugmentDraw,
    apply_augmentation,
    augment,
    draw_augmentation,
    draw_each,
    parts_of,
)

NOTHING = AugmentConfig(shift=0, rotate_degrees=0, scale=1)
STILL = AugmentDraw(
    torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]),
    torch.tensor([[0.0, 1, 1]]),
    torch.tensor([[0.5, 0.5]]),
)


def moved(**changes: torch.Tensor) -> AugmentDraw:
    return replace(STILL, **changes)


@pytest.fixture
def images(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(5, 3, 8, 8, generator=generator)


def test_strength_zero_changes_nothing(images: torch.Tensor, generator: torch.Generator) -> None:
    torch.testing.assert_close(augment(images, NOTHING, generator), images)


def test_a_mirrored_draw_mirrors_left_and_right(images: torch.Tensor) -> None:
    draw = moved(theta=torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]]))
    torch.testing.assert_close(apply_augmentation(images, draw, NOTHING), images.flip(3))


def test_half_of_the_draws_mirror_and_none_where_flips_are_off() -> None:
    config = replace(NOTHING, flip=True)
    generator = torch.Generator().manual_seed(0)
    mirrored = draw_augmentation(400, config, generator).theta[:, 0, 0] < 0
    assert 160 < int(mirrored.sum()) < 240
    assert (draw_augmentation(400, NOTHING, generator).theta[:, 0, 0] > 0).all()


def test_what_comes_in_from_outside_is_the_background(images: torch.Tensor) -> None:
    shift = torch.tensor([[[1.0, 0, 0.5], [0, 1, 0]]])  # 2 of 8 pixels to the left
    fill = torch.tensor([0.1, 0.2, 0.3])
    out = apply_augmentation(images, moved(theta=shift), NOTHING, fill=fill)
    torch.testing.assert_close(out[..., :6], images[..., 2:])
    torch.testing.assert_close(out[..., 6:], fill[:, None, None].expand(5, 3, 8, 2))


def test_strengths_bound_the_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    theta = draw_augmentation(2000, AFFINE, generator).theta
    assert theta[:, :, 2].abs().max() <= 0.25  # an eighth of the side; coordinates span two
    assert theta[:, :, 2].abs().max() > 0.24
    zoom = theta[:, 1, :2].norm(dim=1)
    assert zoom.max() <= 1.2001 and zoom.min() >= 1 / 1.2001
    angle = torch.atan2(theta[:, 1, 0], theta[:, 1, 1])
    assert math.radians(14.5) < angle.abs().max() <= math.radians(15.001)


def test_zoom_in_and_out_are_equally_likely() -> None:
    theta = draw_augmentation(4000, AFFINE, torch.Generator().manual_seed(1)).theta
    assert theta[:, 1, :2].norm(dim=1).log().mean().abs() < 0.01


def test_colour_by_hand() -> None:
    image = torch.tensor([0.0, 0.6, 0.9])[None, :, None, None].expand(1, 3, 4, 4)  # gray is 0.5
    config = replace(NOTHING, saturation=1.0)
    out = apply_augmentation(image, moved(colour=torch.tensor([[0.0, 2.0, 1.0]])), config)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([-0.5, 0.7, 1.3]))
    config = replace(NOTHING, contrast=1.0, brightness=1.0)
    out = apply_augmentation(image, moved(colour=torch.tensor([[0.25, 1.0, 0.5]])), config)
    torch.testing.assert_close(out[0, :, 0, 0], torch.tensor([0.25, 0.55, 0.7]) + 0.25)


def test_saturation_leaves_gray_images_alone() -> None:
    image = torch.rand(1, 1, 4, 4)
    config = replace(NOTHING, saturation=1.0)
    out = apply_augmentation(image, moved(colour=torch.tensor([[0.0, 0.0, 1.0]])), config)
    torch.testing.assert_close(out, image)


def test_cutout_zeroes_a_square_of_its_share(images: torch.Tensor) -> None:
    config = replace(NOTHING, cutout=0.5)
    out = apply_augmentation(images + 1, STILL, config)
    assert (out[..., 2:6, 2:6] == 0).all()
    assert int((out == 0).sum()) == 5 * 3 * 16
    corner = moved(cutout_centre=torch.tensor([[0.0, 1.0]]))  # (row, column): above, right
    out = apply_augmentation(images + 1, corner, config)
    assert (out[..., :2, 6:] == 0).all() and int((out == 0).sum()) == 5 * 3 * 4


def test_one_draw_serves_all_images_alike(images: torch.Tensor, generator: torch.Generator) -> None:
    draw = draw_augmentation(1, DSA, generator)
    together = apply_augmentation(images, draw, DSA, fill=0.3)
    apart = [apply_augmentation(image[None], draw, DSA, fill=0.3) for image in images]
    torch.testing.assert_close(together, torch.cat(apart))


def test_own_draws_differ_between_images_and_repeat_with_the_seed() -> None:
    images = torch.rand(1, 3, 8, 8).expand(4, 3, 8, 8)
    first, second = (augment(images, DSA, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.allclose(first[0], first[1])


def test_the_gradient_reaches_every_pixel_that_is_seen(images: torch.Tensor) -> None:
    images.requires_grad_()
    config = replace(NOTHING, cutout=0.5)
    apply_augmentation(images, STILL, config).sum().backward()
    assert images.grad is not None
    expected = torch.ones(8, 8)
    expected[2:6, 2:6] = 0  # behind the square
    torch.testing.assert_close(images.grad, expected.expand(5, 3, 8, 8))


def test_draws_of_several_configs_are_those_of_each_alone() -> None:
    configs = [DSA, *parts_of(DSA)]
    together = draw_each(configs, [torch.Generator().manual_seed(i) for i in range(len(configs))])
    for i, config in enumerate(configs):
        alone = draw_augmentation(1, config, torch.Generator().manual_seed(i))
        assert torch.equal(together.theta[i : i + 1], alone.theta)
        assert torch.equal(together.colour[i : i + 1], alone.colour)
        assert torch.equal(together.cutout_centre[i : i + 1], alone.cutout_centre)


def test_a_moved_draw_remembers_that_it_leaves_places() -> None:
    still = AugmentConfig(shift=0, rotate_degrees=0, scale=1, brightness=0.5)
    draw = draw_augmentation(2, still, torch.Generator().manual_seed(0))
    assert draw.is_still is None
    assert draw.moved_to(torch.device("cpu")).is_still is True
