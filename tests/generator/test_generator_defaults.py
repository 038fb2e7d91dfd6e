"""Defaults: not their numbers, but how they follow the situation."""

from dataclasses import replace
from typing import Any

import pytest

from generator.config import from_dict
from generator.defaults import (
    Situation,
    default_guidance,
    default_network,
    default_oversample,
    default_values,
)

DIGITS = Situation(
    kind="pixel", preset="default", minimax_preset="default", image_size=8, channels=1,
    num_classes=10, num_train=997, images_per_class=10, num_threads=2, is_digits=True,
)  # fmt: skip
PHOTOS = replace(DIGITS, kind="latent", image_size=256, channels=3, is_digits=False)


@pytest.mark.parametrize("preset", ["default", "smoke"])
@pytest.mark.parametrize(
    "situation", [DIGITS, PHOTOS, replace(PHOTOS, kind="pixel", image_size=32)]
)
def test_every_situation_gives_a_valid_configuration(situation: Situation, preset: str) -> None:
    config = from_dict(default_values(replace(situation, preset=preset)))
    assert config.preset == preset and config.image_size == situation.image_size
    assert None not in (config.generate.guidance_scale, config.generate.oversample)


def test_smoke_keeps_what_it_does_not_shrink() -> None:
    full, smoke = default_values(DIGITS), default_values(replace(DIGITS, preset="smoke"))
    assert smoke["generate"]["guidance_scale"] == full["generate"]["guidance_scale"]
    assert smoke["finetune"]["diversity_weight"] == full["finetune"]["diversity_weight"]
    assert smoke["generate"]["oversample"] < full["generate"]["oversample"]


@pytest.mark.parametrize(
    ("size", "preset", "weight"),
    [(8, "default", 0.08), (16, "default", 0.08), (17, "default", 0.008), (28, "default", 0.008),
     (28, "reference", 0.008), (8, "printed", 0.008)],
)  # fmt: skip
def test_ten_times_the_published_diversity_is_for_tiny_images(
    size: int, preset: Any, weight: float
) -> None:
    values = default_values(replace(DIGITS, image_size=size, minimax_preset=preset))
    assert values["finetune"]["diversity_weight"] == weight


@pytest.mark.parametrize("images_per_class", [1, 3, 10])
def test_smoke_refines_once(images_per_class: int) -> None:
    config = from_dict(
        default_values(replace(DIGITS, preset="smoke", images_per_class=images_per_class))
    )
    assert (config.refine.num_steps, config.refine.num_attempts) == (8, 1)


def test_guidance_never_rises_with_images_per_class() -> None:
    scales = [default_guidance("pixel", n) for n in range(1, 101)]
    assert scales == sorted(scales, reverse=True) and scales[0] > scales[-1] >= 1


def test_the_pool_grows_with_images_per_class_but_not_as_fast() -> None:
    pools = [n * default_oversample(n) for n in range(1, 101)]
    assert pools[0] >= 20 and pools[9] > pools[0]
    assert all(default_oversample(n) >= 2 for n in range(1, 1001))
    assert default_oversample(1) > default_oversample(10) > default_oversample(100)


def test_larger_images_get_deeper_judges() -> None:
    depths = [int(default_network(size).split("-d")[1][0]) for size in (8, 32, 64, 128, 256)]
    assert depths == sorted(depths) and depths[0] < depths[-1]


def test_colour_photographs_are_mirrored_and_gray_digits_are_not() -> None:
    assert default_values(DIGITS)["horizontal_flip"] is False
    assert default_values(PHOTOS)["horizontal_flip"] is True
    assert default_values(DIGITS)["evaluate"]["student"]["augmentation"] == "affine"
    assert default_values(PHOTOS)["evaluate"]["student"]["augmentation"] == "dsa"


def test_fine_tuning_of_a_latent_base_follows_the_size_of_the_data() -> None:
    def steps(**changes: int) -> int:
        return default_values(replace(PHOTOS, **changes))["finetune"]["num_steps"]

    assert steps(num_train=997) == 997  # 8 epochs of batch 8
    assert steps(num_train=1_000_000, num_classes=10) == 12_000
    assert steps(num_train=10_000, num_classes=100) == 2_000  # 20 classes of 100 in a group
    assert steps(num_train=2_100, num_classes=21) == 1_050  # groups of 11 and 10: half of all each


def test_packed_images_are_counted_as_the_pictures_that_they_hold() -> None:
    def at_once(pictures: int) -> int:
        many = replace(PHOTOS, image_size=64, images_per_class=50, pictures_per_image=pictures)
        return default_values(many)["refine"]["classes_per_step"]

    assert at_once(1) > 3 * at_once(9) >= 3


@pytest.mark.parametrize("image_size", [8, 12, 16, 20, 28, 32, 64, 128, 256])
def test_the_default_network_fits_its_images(image_size: int) -> None:
    from distillery.models.classifiers import build_classifier
    from generator.defaults import default_network

    network = build_classifier(default_network(image_size), 1, image_size, 2, seed=0)
    assert network.head.in_features >= 32
