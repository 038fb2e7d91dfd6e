"""The training loop of every classifier: it learns, repeats, and says when it fails."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distillery.data.augment import AFFINE, DSA
from distillery.errors import Cancelled, ConfigError, TrainingError
from distillery.evaluation.config import EvaluateConfig, StudentConfig
from distillery.evaluation.training import (
    accuracy,
    augmentation_of,
    cross_entropy_objective,
    predict_logits,
    soft_label_objective,
    train_classifier,
)
from distillery.models.classifiers import build_classifier

RECIPE = StudentConfig(network="convnet-d1-w8", num_steps=30, batch_size=16, augmentation="none")


def network(seed: int = 0) -> nn.Module:
    return build_classifier("convnet-d1-w8", 1, 8, 2, seed)


@pytest.fixture
def task(blobs: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    return (torch.from_numpy(blobs[0]).float() - 80) / 60, torch.from_numpy(blobs[1])


def test_a_network_learns_what_can_be_learned(task: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = task
    trained = train_classifier(network(), images, cross_entropy_objective(labels), RECIPE, seed=0)
    assert accuracy(trained, images, labels) == 1.0
    assert accuracy(trained, images, 1 - labels) == 0.0
    assert not trained.training


def test_weights_depend_on_the_seed_alone(task: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = task
    config = StudentConfig(network="convnet-d1-w8", num_steps=3, batch_size=16)

    def weights(seed: int, draws_before: int) -> torch.Tensor:
        torch.rand(draws_before)  # whatever ran before
        objective = cross_entropy_objective(labels)
        trained = train_classifier(network(), images, objective, config, seed=seed)
        return torch.cat([p.detach().flatten() for p in trained.parameters()])

    assert torch.equal(weights(1, 0), weights(1, 7))
    assert not torch.equal(weights(1, 0), weights(2, 0))


def test_dsa_can_do_without_mirroring() -> None:
    plain = augmentation_of(StudentConfig(augmentation="dsa-no-flip"))
    assert plain == replace(DSA, flip=False) != DSA


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay"])
def test_rates_that_no_optimiser_takes_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field} of a student must be .*, got -1"):
        StudentConfig(**{field: -1.0})  # type: ignore[arg-type]


def test_cross_entropy_is_of_the_batchs_own_labels() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    objective = cross_entropy_objective(torch.tensor([0, 1]))
    assert objective(logits, torch.tensor([0])) == pytest.approx(math.log(4))
    assert objective(logits, torch.tensor([1])) == pytest.approx(math.log(4 / 3))


def test_soft_labels_are_the_mean_of_teacher_and_hard_label_by_hand() -> None:
    teacher = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float16)  # 1/4 and 3/4
    objective = soft_label_objective(teacher, torch.tensor([0]))
    logits = torch.tensor([[1.0, 2.0]])
    log_p = logits.log_softmax(1)[0]
    expected = -(0.625 * log_p[0] + 0.375 * log_p[1])
    torch.testing.assert_close(objective(logits, torch.tensor([0])), expected, atol=1e-3, rtol=0)


def test_a_sure_teacher_that_agrees_gives_plain_cross_entropy() -> None:
    labels = torch.tensor([1, 0])
    teacher = 100.0 * F.one_hot(labels)
    logits, both = torch.tensor([[0.3, 0.1], [0.2, -1.0]]), torch.arange(2)
    soft, hard = soft_label_objective(teacher, labels), cross_entropy_objective(labels)
    torch.testing.assert_close(soft(logits, both), hard(logits, both))


def test_the_gradient_pulls_the_right_logit_up() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    cross_entropy_objective(torch.tensor([2]))(logits, torch.tensor([0])).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[1 / 3, 1 / 3, -2 / 3]]))


def test_a_loss_that_is_not_finite_is_named(task: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, _ = task
    with pytest.raises(TrainingError, match=r"became nan at step 1 of 2: lower its learning rate"):
        train_classifier(
            network(), images, lambda logits, _: logits.sum() * float("nan"),
            StudentConfig(network="convnet-d1-w8", num_steps=2), seed=0,
        )  # fmt: skip


def test_each_step_is_told_and_may_stop_the_work(task: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = task
    told: list[int] = []

    def stop_at_three(step: int) -> None:
        told.append(step)
        if step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        train_classifier(
            network(), images, cross_entropy_objective(labels), RECIPE, seed=0,
            on_step=stop_at_three,
        )  # fmt: skip
    assert told == [1, 2, 3]


def test_the_background_reaches_the_augmentation(task: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = task
    config = StudentConfig(network="convnet-d1-w8", num_steps=3, augmentation="affine")
    weights = [
        torch.cat([p.detach().flatten() for p in train_classifier(
            network(), images, cross_entropy_objective(labels), config, seed=0, background=fill
        ).parameters()])
        for fill in (0.0, -1.0)
    ]  # fmt: skip
    assert not torch.equal(*weights)


def test_recipes_name_their_augmentation() -> None:
    assert augmentation_of(StudentConfig(augmentation="none")) is None
    assert augmentation_of(StudentConfig(augmentation="affine")) is AFFINE
    assert augmentation_of(StudentConfig(augmentation="dsa")) is DSA


def test_logits_do_not_depend_on_the_batch_size() -> None:
    images = torch.rand(1100, 1, 8, 8)  # more than go through at once
    alone = torch.cat([predict_logits(network(), image) for image in images[990:1010].split(1)])
    torch.testing.assert_close(predict_logits(network(), images)[990:1010], alone)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (StudentConfig, {"augmentation": "mixup"}, "must be one of none, .*, got 'mixup'"),
        (StudentConfig, {"num_steps": 0}, "1 or more"),
        (StudentConfig, {"batch_size": 0}, "1 or more"),
        (EvaluateConfig, {"num_seeds": 0}, "1 or more"),
        (EvaluateConfig, {"num_groups": 0}, "1 or more"),
    ],
)
def test_recipes_that_cannot_be_run_are_refused(kind: type, values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)
