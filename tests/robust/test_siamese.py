"""Siamese augmentation: one draw for both sides of a class, another for each class."""

import torch

from distillery.data.augment import DSA, SINGLE_DSA
from robust.matching_types import Batch
from robust.siamese import augmented, siamese_draws


def test_siamese_augmentation_is_the_same_for_both_sides_and_another_for_each_class() -> None:
    image = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = Batch(image.expand(4, 1, 8, 8), torch.tensor([0, 0, 4, 4]))
    classes = torch.tensor([0, 4])
    for config in (DSA, SINGLE_DSA):
        draws = siamese_draws(classes, config, 3)
        images = augmented(batch, classes, draws, config, 0.0).images
        assert torch.equal(images, augmented(batch, classes, draws, config, 0.0).images)
        assert torch.equal(images[0], images[1])
        assert not torch.allclose(images[0], images[2])


def test_a_single_augmentation_gives_each_class_one_part() -> None:
    classes = torch.arange(60)
    draws = siamese_draws(classes, SINGLE_DSA, 0)
    parts = torch.stack(
        [
            (draws.theta != torch.eye(2, 3)).flatten(1).any(1),
            (draws.colour != torch.tensor([0.0, 1.0, 1.0])).any(1),
            (draws.cutout_centre >= 0).all(1),
        ]
    )
    assert (parts.sum(0) <= 1).all()  # a flip may be drawn and not flip
    assert parts.any(1).all()
    image = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = augmented(Batch(image, classes), classes, draws, SINGLE_DSA, 0.0).images
    still = ~parts.any(0)
    assert still.any() and torch.allclose(seen[still], image[still], atol=1e-5)
