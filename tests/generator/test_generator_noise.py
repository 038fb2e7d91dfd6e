"""Noise belongs to an image: batch, order and images per class do not change it."""

import torch

from generator.noise import initial_noise, noise_seed

SHAPE = (1, 4, 4)


def test_noise_does_not_depend_on_batch_or_order() -> None:
    seeds = [noise_seed(0, label, index) for label in range(3) for index in range(4)]
    together = initial_noise(seeds, SHAPE)
    back = initial_noise(seeds[::-1], SHAPE)
    assert torch.equal(together, back.flip(0))
    for row, seed in zip(together, seeds, strict=True):
        assert torch.equal(row[None], initial_noise([seed], SHAPE))


def test_the_first_images_of_a_class_are_the_same_for_any_images_per_class() -> None:
    def pool(per_class: int) -> list[list[int]]:
        return [[noise_seed(7, label, i) for i in range(per_class)] for label in range(3)]

    assert [seeds[:4] for seeds in pool(50)] == pool(4)


def test_every_image_has_its_own_noise() -> None:
    seeds = {noise_seed(s, label, i) for s in (0, 1) for label in range(5) for i in range(9)}
    assert len(seeds) == 90
    assert noise_seed(0, 1, 2) != noise_seed(0, 2, 1)


def test_noise_is_standard_normal_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    noise = initial_noise([noise_seed(0, 0, i) for i in range(400)], SHAPE)
    assert torch.equal(state, torch.get_rng_state())
    assert noise.dtype == torch.float32 and noise.shape == (400, *SHAPE)
    assert noise.mean().abs() < 0.05 and (noise.std() - 1).abs() < 0.05
    assert torch.corrcoef(noise.flatten(1)[:20]).fill_diagonal_(0).abs().max() < 0.9
