"""Students trained together are those trained alone, whatever becomes of the others."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.data.normalise import Normalisation, NormalisedImages
from distillery.errors import Cancelled, TrainingError
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.together import (
    LARGEST_TOGETHER,
    MOST_TOGETHER,
    Together,
    losses_of,
    students_together,
    train_classifiers,
)
from distillery.evaluation.training import cross_entropy_objective, train_classifier
from distillery.models.classifiers import build_classifier

SEEDS = (3, 1, 4)
NORMALISATION = Normalisation((0.5,) * 3, (0.25,) * 3, (0.2, 0.4, 0.6))
BACKGROUND = NORMALISATION.background()
FAMILIES = [
    "convnet-d2-w8", "convnet-d2-w8-group", "convnet-d2-w8-max", "convnet-d2-w8-group-max",
]  # fmt: skip


def networks(name: str = FAMILIES[0], image_size: int = 8) -> list[nn.Module]:
    return [build_classifier(name, 3, image_size, 2, seed) for seed in SEEDS]


def task(image_size: int = 8) -> tuple[NormalisedImages, Tensor, Tensor]:
    """Sets of ten images for each student, the first two of which are the same set."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(
        0, 256, (20, 3, image_size, image_size), generator=generator, dtype=torch.uint8
    )
    rows = torch.stack([torch.arange(10), torch.arange(10), torch.arange(10, 20)])
    return NormalisedImages(raw, NORMALISATION), torch.arange(20) % 2, rows


def alone(found: list[nn.Module], config: StudentConfig, image_size: int = 8) -> None:
    images, labels, rows = task(image_size)
    for network, own, seed in zip(found, rows, SEEDS, strict=True):
        train_classifier(
            network, NormalisedImages(images.raw[own], NORMALISATION),
            cross_entropy_objective(labels[own]), config, seed=seed, background=BACKGROUND,
        )  # fmt: skip


def together(found: list[nn.Module], config: StudentConfig, image_size: int = 8, **options) -> None:
    train_classifiers(
        found, *task(image_size), config, seeds=SEEDS, background=BACKGROUND, **options
    )


def weights(network: nn.Module) -> Tensor:
    """Return the weights but for biases before a norm.

    Instance norm takes them out again: their gradient is rounding, which Adam makes a step of.
    """
    kept = [p for name, p in network.named_parameters() if p.ndim > 1 or "head" in name]
    kept += [p for m in network.modules() if isinstance(m, nn.GroupNorm) for p in m.parameters()]
    return torch.cat([p.detach().flatten() for p in kept])


@torch.no_grad()
def assert_equal(one: nn.Module, other: nn.Module, image_size: int = 8) -> None:
    """Hold two networks to the same weights and the same logits."""
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-3, atol=2e-5)
    images = task(image_size)[0][:]
    torch.testing.assert_close(one(images), other(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("augmentation", ["none", "affine", "dsa"])
def test_students_trained_together_equal_those_trained_alone(name, augmentation) -> None:
    config = StudentConfig(
        network=name, num_steps=6, batch_size=7, learning_rate=1e-3, augmentation=augmentation
    )
    ours, theirs, untrained = networks(name), networks(name), networks(name)
    together(ours, config)
    alone(theirs, config)
    for one, other, start in zip(ours, theirs, untrained, strict=True):
        assert not one.training
        assert_equal(one, other)
        assert (weights(one) - weights(start)).abs().mean() > 1e-3  # they did learn


@pytest.mark.parametrize("image_size", [9, 12])  # odd sides lose a row in pooling
def test_other_sizes_and_whole_sets(image_size) -> None:
    config = StudentConfig(num_steps=4, batch_size=128, learning_rate=1e-3)
    ours, theirs = networks(image_size=image_size), networks(image_size=image_size)
    together(ours, config, image_size)
    alone(theirs, config, image_size)
    for one, other in zip(ours, theirs, strict=True):
        assert_equal(one, other, image_size)


@pytest.mark.parametrize("name", ["resnet10-w8", "resnetap10-w8", "vgg11-w4", "alexnet-w8", "vit"])
def test_other_architectures_have_the_same_logits(name) -> None:
    students = networks(name, image_size=16)
    images = torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([one(own) for one, own in zip(students, images, strict=True)])
    torch.testing.assert_close(Together(students)(images), expected, rtol=1e-4, atol=1e-5)


def test_losses_by_hand_of_labels_and_of_probabilities() -> None:
    logits = torch.tensor([[[0.0, 0.0]], [[1.0, 3.0]]], requires_grad=True)
    labels = torch.tensor([[0], [1]])
    losses = losses_of(logits, labels)
    torch.testing.assert_close(losses, torch.tensor([2.0, 1 + 2.718281828**-2]).log())
    torch.testing.assert_close(losses_of(logits, F.one_hot(labels, 2).float()), losses)
    losses[1].backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().max() == 0  # a student's loss is its own affair
    assert logits.grad[1, 0, 1] < 0 < logits.grad[1, 0, 0]


def test_the_gradient_of_a_students_loss_reaches_its_own_weights_alone() -> None:
    students = Together(networks())
    images = torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    losses_of(students(images), torch.tensor([[0, 1]] * 3))[1].backward()
    for name, weight in students.weights.items():
        assert weight.grad is not None
        assert weight.grad[[0, 2]].abs().max() == 0, name
    assert students.weights["head.weight"].grad[1].abs().max() > 0  # type: ignore[index]


def test_soft_targets_reach_every_student() -> None:
    images, labels, rows = task()
    config = StudentConfig(num_steps=3, learning_rate=1e-3)
    hard, soft = networks(), networks()
    together(hard, config)
    certain = F.one_hot(labels, 2).float()
    train_classifiers(soft, images, certain, rows, config, seeds=SEEDS, background=BACKGROUND)
    for one, other in zip(hard, soft, strict=True):
        assert_equal(one, other)


def test_a_loss_that_is_not_finite_is_told_of_its_student_and_spoils_no_other() -> None:
    config = StudentConfig(num_steps=3, learning_rate=1e-3)
    broken, whole = networks(), networks()
    next(broken[1].parameters()).data.fill_(float("nan"))
    with pytest.raises(
        TrainingError, match=r"classifier 2 of 3: the loss became nan at step \d of 3: lower its"
    ):
        together(broken, config)
    together(whole, config)
    for student in (0, 2):
        torch.testing.assert_close(weights(broken[student]), weights(whole[student]))


def test_each_step_is_told_and_may_stop_the_work() -> None:
    told: list[int] = []

    def stop_at_two(step: int) -> None:
        told.append(step)
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        together(networks(), StudentConfig(num_steps=5), on_step=stop_at_two)
    assert told == [1, 2]


def test_it_is_said_to_pay_for_small_images_on_a_gpu_only() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert students_together(cpu, 32) == 1
    assert students_together(gpu, LARGEST_TOGETHER) == MOST_TOGETHER
    assert students_together(gpu, LARGEST_TOGETHER + 1) == 1
