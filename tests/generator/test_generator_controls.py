"""The controls are what their names say, from the train split alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from generator_helpers import SmokeJob

from distillery.data.dataset import Dataset
from distillery.data.normalise import measure_normalisation
from distillery.evaluation.harness import ImageSet
from distillery.files import read_json
from distillery.models.classifiers import build_classifier
from generator.config import DistillConfig, from_dict
from generator.controls import LABELS, random_real, real_selections
from generator.stages.common import Reals


@pytest.fixture
def config(smoke: SmokeJob) -> DistillConfig:
    return from_dict(smoke.job["config"])


@pytest.fixture
def reals(smoke: SmokeJob) -> Reals:
    dataset = Dataset.load(smoke.stage("prepare").folder)
    return Reals(dataset, measure_normalisation(dataset.split("train")[0]), 10)


def check_of_train(image_set: ImageSet, reals: Reals, per_class: int) -> None:
    """Each image is a different one of the train split, under its own label."""
    assert np.bincount(image_set.labels).tolist() == [per_class] * 10
    train = {i.tobytes(): label for i, label in zip(*reals.dataset.split("train"), strict=True)}
    assert [train[i.tobytes()] for i in image_set.images] == image_set.labels.tolist()
    assert len({i.tobytes() for i in image_set.images}) == len(image_set.images)


def test_random_draws_differ_and_repeat(reals: Reals, config: DistillConfig) -> None:
    first, again, other = (random_real(reals, config, draw) for draw in (0, 0, 1))
    check_of_train(first, reals, 2)
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)
    another_seed = random_real(reals, replace(config, seed=5), 0)
    assert not np.array_equal(first.images, another_seed.images)


def test_selections_are_real_images_and_class_means_come_at_one_per_class_only(
    reals: Reals, config: DistillConfig
) -> None:
    network = build_classifier("convnet-d1-w8", 1, 8, 10, 0)
    sets = real_selections(reals, network, config)
    assert set(sets) == {"herding", "k_medoids"}
    for image_set in sets.values():
        check_of_train(image_set, reals, 2)
    one = real_selections(reals, network, replace(config, images_per_class=1))
    assert set(one) == {"herding", "k_medoids", "class_mean"}
    images, labels = reals.dataset.split("train")
    expected = np.round(images[labels == 3].astype(float).mean(0))
    assert np.abs(one["class_mean"].images[3] - expected).max() <= 1
    assert one["class_mean"].labels.tolist() == list(range(10))


def test_every_row_has_a_name_for_people(smoke: SmokeJob) -> None:
    results = read_json(Path(smoke.stage("evaluate").folder) / "results.json")
    starts = smoke.stage("refine").record["facts"]["starts"]
    unkept = {f"{start}_refined" for start, told in starts.items() if told["kept"] == 0}
    for row in (*results["hard"], *results["soft"]):
        label = LABELS[row["name"]]
        if row["name"] in unkept:  # the set is its start
            label = label.replace(", refined", ", refinement not kept")
        assert row["label"] == label
