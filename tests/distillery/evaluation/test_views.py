"""Training-time augmentations: what they may do to a batch, by hand."""

import pytest
import torch

from distillery.data.normalise import Normalisation
from distillery.evaluation.views import (
    colour_jitter,
    cutmix,
    dsa,
    lighting,
    make_view,
    random_resized_crop,
    shuffle_patches,
)

PLAIN = Normalisation((0.5,) * 3, (0.25,) * 3, (0.0,) * 3)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["none", "dsa", "crop-jitter", "shuffle-crop"])
def test_views_repeat_with_the_seed_and_keep_the_shape(name: str, images: torch.Tensor) -> None:
    view = make_view(name, PLAIN, flip=True)
    first, again, other = (view(images, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert first.shape == images.shape and torch.equal(first, again)
    assert torch.equal(first, other) is (name == "none")


def test_no_augmentation_is_the_normalised_image(images: torch.Tensor) -> None:
    view = make_view("none", PLAIN, flip=True)
    torch.testing.assert_close(view(images, torch.Generator()), (images - 0.5) / 0.25)


def test_a_crop_of_everything_is_the_image_or_its_mirror(
    images: torch.Tensor, generator: torch.Generator
) -> None:
    same = random_resized_crop(images, generator, smallest=1.0, flip=False)
    torch.testing.assert_close(same, images)
    for before, after in zip(
        images, random_resized_crop(images, generator, smallest=1.0, flip=True), strict=True
    ):
        assert torch.allclose(after, before, atol=1e-5) or torch.allclose(
            after, before.flip(2), atol=1e-5
        )


def test_a_crop_shows_half_of_the_area_or_more(generator: torch.Generator) -> None:
    """On a ramp from 0 to 1 the range that is seen is the width of the crop."""
    ramp = torch.linspace(0, 1, 64).expand(400, 1, 64, 64)
    across = random_resized_crop(ramp, generator, smallest=0.5, flip=False)
    width = across.amax((1, 2, 3)) - across.amin((1, 2, 3))
    assert width.min() > (0.5 * 3 / 4) ** 0.5 - 0.05 and width.max() > 0.95


def test_jitter_leaves_gray_levels_in_proportion(generator: torch.Generator) -> None:
    flat = torch.full((50, 3, 4, 4), 0.5)
    out = colour_jitter(flat, generator)
    assert (out - out.mean((1, 2, 3), keepdim=True)).abs().max() < 1e-5  # no contrast, no colour
    assert 0.3 - 1e-5 <= out.min() and out.max() <= 0.7 + 1e-5
    assert out.std() > 0.05


def test_lighting_moves_along_the_axis_of_most_colour(generator: torch.Generator) -> None:
    """The first axis, nearly gray, has the standard deviation 0.1 x 0.2175."""
    shift = lighting(20_000, generator)
    gray = shift @ torch.tensor([-0.5675, -0.5808, -0.5836])
    assert gray.std() == pytest.approx(0.02175, rel=0.05)
    assert (shift[:, 0] - shift[:, 2]).std() < 0.005


def test_shuffled_patches_are_the_same_quarters(
    images: torch.Tensor, generator: torch.Generator
) -> None:
    out = shuffle_patches(images.repeat(8, 1, 1, 1), generator)
    for before, after in zip(images.repeat(8, 1, 1, 1), out, strict=True):
        quarters = [before[:, a:a + 4, b:b + 4] for a in (0, 4) for b in (0, 4)]  # fmt: skip
        assert any(torch.equal(after[:, :4, :4], quarter) for quarter in quarters)
        torch.testing.assert_close(after.sum(), before.sum())
    assert not torch.equal(out, images.repeat(8, 1, 1, 1))
    odd = torch.rand(4, 1, 7, 7)
    torch.testing.assert_close(shuffle_patches(odd, generator).sum((1, 2, 3)), odd.sum((1, 2, 3)))


def test_cutmix_keeps_the_share_that_it_says() -> None:
    images = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 10, 10)
    shares = []
    for seed in range(20):
        mixed, partner, share = cutmix(images, torch.Generator().manual_seed(seed))
        for i in range(5):
            own = (mixed[i] == i).float().mean() if partner[i] != i else torch.tensor(share)
            assert own == pytest.approx(share)
            assert ((mixed[i] == i) | (mixed[i] == partner[i])).all()
        shares.append(share)
    assert min(shares) < 0.5 and max(shares) > 0.9
    assert (images[0] == 0).all()  # the batch itself is left alone


def test_the_siamese_strategy_applies_one_part_to_a_batch(images: torch.Tensor) -> None:
    """A batch with a square cut out has all its other pixels in place and in their colours."""
    kinds = []
    for seed in range(60):
        out = dsa(images + 3, torch.Generator().manual_seed(seed), flip=False)
        untouched, zero = out == images + 3, out == 0
        kinds.append("cut" if zero.any() and (untouched | zero).all() else "other")
        assert not untouched.all()
    assert 5 <= kinds.count("cut") <= 20  # a fifth of 60
