"""One student by a published recipe: losses by hand, rates, repeatability."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distillery.data.normalise import Normalisation
from distillery.errors import TrainingError
from distillery.evaluation import student
from distillery.evaluation.protocols import Recipe
from distillery.evaluation.student import (
    TrainingSet,
    batch_loss,
    make_optimizer,
    rate_factor,
    train_student,
)
from distillery.evaluation.training import accuracy
from distillery.models.classifiers import build_classifier

PLAIN = Recipe(num_epochs=12, batch_size=32, learning_rate=0.05)
NORMAL = Normalisation((0.3,), (0.25,), (0.0,))


@pytest.fixture
def blob_set(blobs: tuple[np.ndarray, np.ndarray]) -> TrainingSet:
    images, labels = map(torch.from_numpy, blobs)
    return TrainingSet(images=images, labels=labels, normalisation=NORMAL)


def small(norm: str = "instance") -> nn.Module:
    return build_classifier("convnet-d1-w8", 1, 8, 2, 0, norm)  # type: ignore[arg-type]


def loss_of(training_set: TrainingSet, recipe: Recipe, logits: Tensor, seed: int = 0) -> Tensor:
    """Return the loss of the first images for a network that always answers `logits`."""
    indices = torch.arange(len(logits))
    generator = torch.Generator().manual_seed(seed)
    fixed = lambda _: logits  # noqa: E731
    return batch_loss(fixed, training_set, indices, recipe, lambda x, _: x, generator)  # type: ignore[arg-type]


def test_plain_loss_is_cross_entropy(blob_set: TrainingSet) -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])  # both images are of class 0
    expected = -(logits.log_softmax(1)[:, 0]).mean()
    torch.testing.assert_close(loss_of(blob_set, PLAIN, logits), expected)


def shown(monkeypatch: pytest.MonkeyPatch, partner: Tensor, share: float) -> None:
    """Let CutMix give each image this partner and keep this share of it."""
    monkeypatch.setattr(student, "cutmix", lambda images, _: (images, partner, share))


def test_a_cutmix_loss_weighs_both_labels_by_their_shares(
    blob_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(monkeypatch, torch.tensor([1, 0]), 0.7)
    training_set = replace(blob_set, images=blob_set.images[:2], labels=torch.tensor([0, 1]))
    logits = torch.tensor([[0.0, 1.0], [3.0, 0.5]])
    log_p = logits.log_softmax(1)
    own, other = -(log_p[0, 0] + log_p[1, 1]) / 2, -(log_p[0, 1] + log_p[1, 0]) / 2
    loss = loss_of(training_set, replace(PLAIN, cutmix=True), logits)
    torch.testing.assert_close(loss, 0.7 * own + 0.3 * other)


def test_stored_soft_labels_are_mixed_as_the_images_are(
    blob_set: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(monkeypatch, torch.tensor([1, 0]), 0.7)
    teacher = torch.tensor([[4.0, 0.0], [-2.0, 6.0]])
    logits = torch.tensor([[0.0, 1.0], [3.0, 0.5]])
    stored = replace(blob_set, images=blob_set.images[:2], teacher_logits=teacher.half())
    p, q = (teacher / 2).softmax(1), (logits / 2).softmax(1)
    target = 0.7 * p + 0.3 * p[[1, 0]]
    expected = (target * (target / q).log()).sum() / 2
    loss = loss_of(stored, replace(PLAIN, cutmix=True, temperature=2.0), logits)
    torch.testing.assert_close(loss, expected)


def test_a_soft_loss_is_the_divergence_at_the_temperature(blob_set: TrainingSet) -> None:
    soft = replace(PLAIN, temperature=20.0)
    teacher, logits = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 8.0]])
    p, q = (teacher / 20).softmax(1), (logits / 20).softmax(1)
    expected = (p * (p / q).log()).sum()
    asked = replace(blob_set, teacher=lambda _: teacher)
    stored = replace(blob_set, teacher_logits=teacher.half())
    torch.testing.assert_close(loss_of(asked, soft, logits), expected)
    torch.testing.assert_close(loss_of(stored, soft, logits), expected)
    same = replace(blob_set, teacher=lambda _: logits)
    assert loss_of(same, soft, logits).abs() < 1e-6


def test_a_teacher_sees_the_mixed_image_that_the_student_sees(blob_set: TrainingSet) -> None:
    seen = []

    def look(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 2)

    training_set = replace(blob_set, teacher=look)
    recipe = replace(PLAIN, temperature=20.0, cutmix=True)
    network = lambda images: look(images).requires_grad_()  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    batch_loss(network, training_set, torch.arange(40), recipe, lambda x, _: x, generator)  # type: ignore[arg-type]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], blob_set.images[:40].float() / 255)


def test_rates_by_hand() -> None:
    def factors(schedule: str, length: int) -> list[float]:
        recipe = replace(PLAIN, schedule=schedule, num_epochs=length)  # type: ignore[arg-type]
        return [round(rate_factor(recipe, epoch), 6) for epoch in range(length)]

    assert factors("half", 4) == [1, 1, 0.1, 0.1]
    assert factors("multistep", 6) == [1, 1, 1, 1, 0.2, 0.04]
    cosine = factors("half-cosine", 300)
    assert cosine[0] == 1 and 0.5 < cosine[-1] < 0.503


def test_adamw_decays_matrices_alone() -> None:
    optimizer = make_optimizer(small(), replace(PLAIN, optimizer="adamw", weight_decay=0.01))
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    dims = [{p.ndim for p in group["params"]} for group in optimizer.param_groups]
    assert decays == [0.01, 0.0] and dims == [{4, 2}, {1}]


@pytest.mark.parametrize(
    "recipe",
    [
        PLAIN,
        replace(PLAIN, augmentation="dsa", num_epochs=30),
        replace(PLAIN, optimizer="adamw", learning_rate=5e-3, weight_decay=0.01, norm="batch"),
    ],
    ids=["sgd", "dsa", "adamw"],
)
def test_students_learn_and_repeat(blob_set: TrainingSet, recipe: Recipe) -> None:
    def train(seed: int) -> nn.Module:
        return train_student(small(recipe.norm), blob_set, recipe, seed=seed, flip=False)

    student = train(0)
    images = (blob_set.images.float() / 255 - 0.3) / 0.25
    assert accuracy(student, images, blob_set.labels) > 0.95 and not student.training
    first, again, other = (next(iter(train(s).parameters())) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_epochs_are_told_and_every_image_is_seen_once_an_epoch(blob_set: TrainingSet) -> None:
    told: list[int] = []
    seen: list[int] = []
    network = small()
    network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    recipe = replace(PLAIN, num_epochs=2)
    train_student(network, blob_set, recipe, seed=0, flip=False, on_epoch=told.append)
    assert told == [1, 2] and seen == [32, 32, 16] * 2


def test_a_loss_that_is_not_finite_is_named(blob_set: TrainingSet) -> None:
    recipe = replace(PLAIN, learning_rate=1e30, num_epochs=2)
    with pytest.raises(TrainingError, match="became nan at step 2 of 6 at the protocol's"):
        train_student(small(), blob_set, recipe, seed=0, flip=False)
