"""What training steps draw: as one by one, whatever is drawn ahead or beside it."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distillery.data.augment import AFFINE, DSA, AugmentConfig, augment, draw_augmentation
from distillery.data.normalise import Normalisation, NormalisedImages
from distillery.errors import Cancelled
from distillery.evaluation import draws as draws_module
from distillery.evaluation.config import StudentConfig
from distillery.evaluation.draws import StepDraw, batch_indices, draw_steps
from distillery.evaluation.together import train_classifiers
from distillery.evaluation.training import (
    cross_entropy_objective,
    step_generator,
    train_classifier,
)
from distillery.models.classifiers import build_classifier

CPU = torch.device("cpu")
NORMALISATION = Normalisation((0.5,) * 3, (0.25,) * 3, (0.2, 0.4, 0.6))
STILL = AugmentConfig(flip=True, shift=0, rotate_degrees=0, scale=1)


def generators(count: int = 1) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def drawn(monkeypatch, augmentation, *, moved: bool, num_images: int = 7) -> list[StepDraw]:
    """Five steps of two students; `moved` in blocks of three, as to a GPU."""
    if moved:
        monkeypatch.setattr(draws_module, "STEPS_AHEAD", 3)
        monkeypatch.setattr(draws_module, "_is_host", lambda device: False)
    return list(draw_steps(5, num_images, 4, augmentation, generators(2), CPU))


def test_batches_are_whole_sets_or_draws_without_replacement(generator: torch.Generator) -> None:
    assert batch_indices(5, 5, generator).tolist() == [0, 1, 2, 3, 4]
    picked = batch_indices(50, 20, generator).tolist()
    assert len(set(picked)) == 20 and picked != sorted(picked)
    assert batch_indices(50, 20, generator).tolist() != picked


@pytest.mark.parametrize("augmentation", [None, AFFINE, DSA, STILL])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("num_images", [7, 3])
def test_each_student_draws_as_alone_step_by_step(
    augmentation, moved, num_images, monkeypatch
) -> None:
    steps = drawn(monkeypatch, augmentation, moved=moved, num_images=num_images)
    assert len(steps) == 5
    alone = generators(2)
    for step in steps:
        for student, generator in enumerate(alone):
            indices = batch_indices(num_images, 4, generator)
            assert torch.equal(step.indices[student], indices)
            if augmentation is None:
                assert step.augmentation is None
                continue
            own = draw_augmentation(len(indices), augmentation, generator)
            rows = slice(student * len(indices), (student + 1) * len(indices))
            assert step.augmentation is not None
            for name in ("theta", "colour", "cutout_centre"):
                assert torch.equal(getattr(step.augmentation, name)[rows], getattr(own, name))


def test_moved_draws_know_whether_anything_moves(monkeypatch) -> None:
    still = AugmentConfig(shift=0, rotate_degrees=0, scale=1)
    steps = drawn(monkeypatch, still, moved=True)
    assert [step.augmentation.is_still for step in steps] == [True] * 5  # type: ignore[union-attr]
    steps = drawn(monkeypatch, AFFINE, moved=True)
    assert [step.augmentation.is_still for step in steps] == [False] * 5  # type: ignore[union-attr]


def student_task() -> tuple[NormalisedImages, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 256, (12, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return NormalisedImages(raw, NORMALISATION), torch.arange(12) % 2


@pytest.mark.parametrize("augmentation", ["none", "affine", "dsa"])
@pytest.mark.parametrize("batch_size", [5, 128])
def test_a_classifier_keeps_the_bytes_of_the_plain_loop(augmentation, batch_size) -> None:
    images, labels = student_task()
    named = {"none": None, "affine": AFFINE, "dsa": DSA}[augmentation]
    config = StudentConfig(
        network="convnet-d1-w8", num_steps=4, batch_size=batch_size, augmentation=augmentation
    )
    background = torch.tensor([-1.0, 0.0, 1.0])
    networks = [build_classifier("convnet-d1-w8", 3, 8, 2, seed=0) for _ in range(2)]
    train_classifier(
        networks[0], images, cross_entropy_objective(labels), config, seed=4, background=background
    )
    plain, generator = networks[1], step_generator(4)
    optimizer = torch.optim.AdamW(
        plain.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.num_steps)
    for _ in range(config.num_steps):
        indices = batch_indices(len(images), batch_size, generator)
        batch = images[indices]
        if named is not None:
            batch = augment(batch, named, generator, fill=background)
        loss = torch.nn.functional.cross_entropy(plain(batch), labels[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    for ours, theirs in zip(networks[0].parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Watch(TorchDispatchMode):
    """Counts tensors that are moved to a device that is not the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.moves = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to = torch.device(kwargs.get("device") or "cpu").type
        self.moves += func is torch.ops.aten._to_copy.default and to != "cpu"
        return func(*args, **kwargs)


@pytest.mark.parametrize("augmentation", ["none", "affine", "dsa"])
@pytest.mark.parametrize("are_together", [False, True])
def test_no_step_waits_for_the_device(augmentation, are_together, monkeypatch) -> None:
    """On a device whose tensors hold no values, reading one fails, and so does mixing devices."""
    adam, nowhere = torch.optim.AdamW, torch.device("meta")
    monkeypatch.setattr(torch.optim, "AdamW", lambda *own, fused, **named: adam(*own, **named))
    images, labels = student_task()
    images = NormalisedImages(images.raw.to(nowhere), NORMALISATION)
    labels, background = labels.to(nowhere), NORMALISATION.background()
    network = build_classifier("convnet-d1-w8-group", 3, 8, 2, seed=0).to(nowhere)
    config = StudentConfig(num_steps=6, batch_size=5, augmentation=augmentation)
    seen: list[int] = []

    def on_step(step: int) -> None:
        seen.append(watch.moves)
        if step == config.num_steps:
            raise Cancelled  # before the last loss is looked at

    with Watch() as watch, pytest.raises(Cancelled):
        if are_together:
            rows = torch.zeros(1, 12, dtype=torch.long, device=nowhere)
            train_classifiers(
                [network], images, labels, rows, config, seeds=[0], background=background,
                on_step=on_step,
            )  # fmt: skip
        else:
            train_classifier(
                network, images, cross_entropy_objective(labels), config, seed=0,
                background=background, on_step=on_step,
            )  # fmt: skip
    assert seen == [seen[0]] * config.num_steps  # all of a block was moved before its first step
    assert seen[0] == (2 if augmentation == "none" else 5)  # indices, their draws, the background
