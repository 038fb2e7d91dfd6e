"""Refinement by a published method, and constraints beside any objective, as a job names them."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from generator_helpers import SmokeJob

from distillery.data.dataset import Dataset
from distillery.data.normalise import measure_normalisation
from distillery.errors import Cancelled, ConfigError
from distillery.models.classifiers import Classifier
from distillery.progress import Progress, ignore_progress
from distillery.tensorfile import read_tensors
from generator.config import DistillConfig, from_dict
from generator.matching import constraints_of, matched, method_of
from generator.refinement import SetScorer, proxy_ages, refine_images, train_number
from generator.stages.common import Reals
from generator.stages.score import CHOSEN
from robust.config import RefineConfig, constraint_weights
from robust.matching_types import Batch
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


def test_networks_of_a_method_follow_the_settings_of_the_proxy(material) -> None:
    _, _, reals, config = material
    asked = _asking(config, objective="dm", robust=True)
    asked = replace(asked, proxy=replace(asked.proxy, tail_fraction=0.5, min_cluster_size=7))
    robust = method_of(reals, asked, seed=1).networks.robust
    assert robust is not None and (robust.tail_fraction, robust.min_cluster_size) == (0.5, 7)
    plain = replace(asked, proxy=replace(asked.proxy, robust=False))
    assert method_of(reals, plain, seed=1).networks.robust is None


def test_constraints_stand_beside_the_default_objective_too(material) -> None:
    images, labels, reals, config = material
    clusters = np.zeros(len(reals.split("train")[1]), np.int64)
    results = []
    for weight in (0.0, 5.0):
        asked = _asking(config, covariance_weight=weight, num_steps=2, num_attempts=1)
        result = refine_images(
            images, labels, reals, asked, scorer=SetScorer(reals, asked), seed=3,
            proxy_of=partial(train_number, reals, clusters, asked),
            checkpoint=lambda _: None, on_progress=ignore_progress,
        )  # fmt: skip
        results.append(result)
    assert results[0].scores[0] == results[1].scores[0]
    assert results[0].scores[1] != results[1].scores[1]


def test_proxies_have_all_ages_up_to_the_oldest_in_an_order_of_the_attempt(material) -> None:
    *_, config = material

    def ages(attempt: int, **refine) -> list[int]:
        several = {"num_steps": 50, "steps_per_proxy": 10, "proxy_steps": 40, "youngest_proxy": 1}
        return proxy_ages(_asking(config, **several | refine), attempt)

    assert ages(1) == [40] * 5
    spread = ages(1, youngest_proxy=0.2)
    assert sorted(spread) == [8, 16, 24, 32, 40] and spread == ages(1, youngest_proxy=0.2)
    assert any(ages(attempt, youngest_proxy=0.2) != spread for attempt in (2, 3, 4))
    assert ages(1, youngest_proxy=0.2, steps_per_proxy=50) == [40]  # a single one is the oldest
    assert sorted(ages(1, youngest_proxy=0.01, proxy_steps=4)) == [1, 1, 2, 3, 4]
    assert ages(1, objective="dm", youngest_proxy=0.2) == []


def test_a_proxy_is_trained_for_as_long_as_its_age(material) -> None:
    _, _, reals, config = material
    clusters = np.zeros(len(reals.split("train")[1]), np.int64)
    asked = _asking(config, num_steps=4, steps_per_proxy=2, proxy_steps=4, youngest_proxy=0.5)
    for number, age in enumerate(proxy_ages(asked, 1)):
        steps: list[int] = []
        train_number(reals, clusters, asked, 1, number, on_step=steps.append)
        assert steps == list(range(1, age + 1))


def test_judging_a_set_is_told_in_words_and_can_be_canceled(material) -> None:
    images, labels, reals, config = material
    scorer, told = SetScorer(reals, config), []
    losses = scorer.losses(images, labels, on_progress=told.append)
    assert losses.shape == (config.refine.num_students, len(reals.split("validation")[1]))
    assert told[-1].message == "judged by students, 100 %"

    def stop(_: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        scorer.losses(images, labels, on_progress=stop)


def test_weights_of_zero_ask_for_nothing_and_others_for_a_trained_network(material) -> None:
    _, _, reals, config = material
    assert constraints_of(reals, config, seed=1) == ()
    asked = _asking(config, centralisation_weight=0.05, covariance_weight=0.01)
    assert [(one.name, one.weight) for one in constraints_of(reals, asked, seed=1)] == [
        ("centralisation", 0.05),
        ("covariance", 0.01),
    ]


def test_the_training_of_that_network_is_told_and_can_be_stopped(material) -> None:
    _, _, reals, config = material

    def stop(progress: Progress) -> None:
        assert progress.message.startswith("training the network of centralisation, ")
        raise Cancelled

    asked = _asking(config, centralisation_weight=0.05)
    with pytest.raises(Cancelled):
        constraints_of(reals, asked, seed=1, on_progress=stop)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"centralisation_form": "exp", "centralisation_beta": 1.5}, 2 * (math.e - 1.5)),
        ({"centralisation_floor": 0.25}, 2 * (1 - 0.25)),
        ({}, 2.0),
    ],
)
def test_a_job_says_the_form_of_centralisation(material, monkeypatch, asked, expected) -> None:
    class Pixelwise(Classifier):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    monkeypatch.setattr("generator.matching._centralisation_network", lambda *_: Pixelwise())
    _, _, reals, config = material
    (term,) = constraints_of(reals, _asking(config, centralisation_weight=0.5, **asked), seed=1)
    batch = Batch(torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1), torch.zeros(2, dtype=torch.long))
    assert term.weight == 0.5
    assert term.term(Pixelwise(), batch, batch, 1).item() == pytest.approx(expected)


def test_published_weights_are_asked_for_by_name() -> None:
    def of(ipc: int, **refine) -> tuple[float, float]:
        job = DistillConfig(images_per_class=ipc, refine=RefineConfig(**refine))
        found = constraint_weights(job.refine, ipc)
        return found.centralisation, found.covariance

    assert of(10, objective="dm", constraint_weights="paper") == (0.05, 0.01)
    assert of(50, objective="dm", constraint_weights="paper") == (0.003, 0.01)
    assert of(50, objective="dm", constraint_weights="code") == (0.05, 0.01)
    assert of(10, objective="idm", constraint_weights="code") == (0.01, 0.03)
    packed = {"objective": "idm", "parameterisation": "multi_formation"}
    assert of(1, constraint_weights="code", **packed) == (0.01, 0.03)  # four pictures of a class
    with pytest.raises(ConfigError, match=r"need 2 or more images per class.*multi_formation"):
        of(1, objective="idm", constraint_weights="code")
    with pytest.raises(ConfigError, match="DM with constraints is not defined at 1 image"):
        of(1, objective="dm", constraint_weights="paper")
    with pytest.raises(ConfigError, match=r"published for 1, 10, 50 .* got 20"):
        of(20, objective="dm", constraint_weights="paper")
    with pytest.raises(ConfigError, match=r"beside refine.objective dm and idm, got clusters"):
        of(10, constraint_weights="paper")


def test_published_weights_reach_the_terms(material) -> None:
    _, _, reals, config = material
    asked = _asking(
        replace(config, images_per_class=10), objective="idm", constraint_weights="code"
    )
    terms = {one.name: one.weight for one in constraints_of(reals, asked, seed=1)}
    assert terms == {"centralisation": 0.01, "covariance": 0.03}


@pytest.mark.parametrize(
    ("refine", "message"),
    [
        (
            {"centralisation_beta": 1.5, "centralisation_weight": 1.0},
            "beta needs refine.centralisation_form exp",
        ),
        (
            {"centralisation_form": "exp", "centralisation_floor": 1.0},
            "floor needs refine.centralisation_form squared",
        ),
        ({"centralisation_form": "exp"}, "no effect without a weight"),
        ({"centralisation_floor": 0.5, "covariance_weight": 0.1}, "no effect without a weight"),
        ({"centralisation_floor": -1.0}, "must be 0 or more"),
        ({"covariance_weight": -1.0}, "must be 0 or more"),
        ({"constraint_weights": "paper", "covariance_weight": 0.1}, "brings its own numbers"),
    ],
)
def test_constraints_that_contradict_each_other_are_refused(refine, message) -> None:
    with pytest.raises(ConfigError, match=message):
        RefineConfig(**refine)


def test_what_is_not_defined_is_refused_before_a_job_begins() -> None:
    with pytest.raises(ConfigError, match="dc has loops for 1, 10.*got 15"):
        DistillConfig(images_per_class=15, refine=RefineConfig(objective="dc"))
    with pytest.raises(ConfigError, match="constraints of refine need 2 or more"):
        DistillConfig(images_per_class=1, refine=RefineConfig(covariance_weight=0.01))
    with pytest.raises(ConfigError, match="refine.objective must be one of clusters, dc"):
        from_dict({"refine": {"objective": "mtt"}})
