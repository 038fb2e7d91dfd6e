"""Refinement by a published method, and constraints beside any objective, as a job names them."""

from dataclasses import replace

import numpy as np
import pytest
from generator_helpers import SmokeJob

from distillery.data.dataset import Dataset
from distillery.data.normalise import measure_normalisation
from distillery.errors import ConfigError
from distillery.progress import ignore_progress
from distillery.tensorfile import read_tensors
from generator.config import DistillConfig, from_dict
from generator.matching import constraints_of, matched, method_of
from generator.refinement import refine_images
from generator.stages.common import Reals
from generator.stages.score import CHOSEN
from robust.config import RefineConfig
from robust.parameters import Pixels


@pytest.fixture
def material(smoke: SmokeJob) -> tuple[np.ndarray, np.ndarray, Reals, DistillConfig]:
    """The smoke job's chosen images and labels, its dataset and its settings."""
    dataset = Dataset.load(smoke.stage("prepare").folder)
    normalisation = measure_normalisation(dataset.split("train")[0])
    reals = Reals(dataset, normalisation, len(dataset.class_names))
    arrays, _ = read_tensors(smoke.stage("score").folder / CHOSEN)
    return arrays["images"], arrays["labels"], reals, from_dict(smoke.job["config"])


def _asking(config: DistillConfig, **refine) -> DistillConfig:
    return replace(config, refine=replace(config.refine, **refine))


@pytest.mark.parametrize("objective", ["dm", "idm"])
@pytest.mark.parametrize("robust", [True, False])
def test_a_published_method_moves_the_images(material, objective: str, robust: bool) -> None:
    images, labels, reals, config = material
    config = _asking(config, objective=objective, robust=robust, num_steps=2)
    moved, losses = matched(
        images, labels, reals, config, Pixels(reals.normalisation.clamp), seed=1,
        checkpoint=None, on_progress=ignore_progress,
    )  # fmt: skip
    assert moved.shape == images.shape and moved.dtype == np.uint8
    assert (moved != images).any(axis=(1, 2, 3)).all()
    assert len(losses) == 2
    plan = method_of(reals, config, seed=1).networks
    assert (plan.robust is not None) == robust


def test_constraints_stand_beside_the_default_objective_too(material) -> None:
    images, labels, reals, config = material
    clusters = np.zeros(len(reals.split("train")[1]), np.int64)
    results = []
    for weight in (0.0, 5.0):
        asked = _asking(config, covariance_weight=weight, num_steps=2, num_attempts=1)
        result = refine_images(
            images, labels, reals, clusters, asked, seed=3, checkpoint=lambda _: None,
            on_progress=ignore_progress,
        )  # fmt: skip
        results.append(result)
    assert results[0].scores[0] == results[1].scores[0]
    assert results[0].scores[1] != results[1].scores[1]


def test_weights_of_zero_ask_for_nothing_and_others_for_a_trained_network(material) -> None:
    _, _, reals, config = material
    assert constraints_of(reals, config, seed=1) == ()
    asked = _asking(config, centralisation_weight=0.05, covariance_weight=0.01)
    assert [(one.name, one.weight) for one in constraints_of(reals, asked, seed=1)] == [
        ("centralisation", 0.05),
        ("covariance", 0.01),
    ]


def test_what_is_not_defined_is_refused_before_a_job_begins() -> None:
    with pytest.raises(ConfigError, match="dc has loops for 1, 10.*got 15"):
        DistillConfig(images_per_class=15, refine=RefineConfig(objective="dc"))
    with pytest.raises(ConfigError, match="constraints of refine need 2 or more"):
        DistillConfig(images_per_class=1, refine=RefineConfig(covariance_weight=0.01))
    with pytest.raises(ConfigError, match="refine.objective must be one of clusters, dc"):
        from_dict({"refine": {"objective": "mtt"}})
