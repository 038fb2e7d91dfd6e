"""Refinement: lower objective, the same bits after a resume, a stop at what is not finite."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from set_helpers import WholeSets
from torch import Tensor, nn

from distillery.checkpoint import Checkpoint
from distillery.data.augment import AFFINE
from distillery.errors import Cancelled, TrainingError
from distillery.models.classifiers import build_classifier
from distillery.progress import Progress, ignore_progress
from robust.config import RefineConfig
from robust.refine import RealImages, RefineResult, refine

CONFIG = RefineConfig(num_steps=8, steps_per_proxy=3, reals_per_class=10, classes_per_step=20)
START = torch.zeros(4, 1, 8, 8)
LABELS = torch.tensor([0, 0, 1, 1])


@pytest.fixture
def reals(blobs: tuple[np.ndarray, np.ndarray]) -> RealImages:
    return RealImages((torch.from_numpy(blobs[0]).float() - 80) / 60, torch.from_numpy(blobs[1]))


def random_proxy(number: int) -> nn.Module:
    return build_classifier("convnet-d1-w8", 1, 8, 2, seed=number).requires_grad_(False)


def run(
    reals: RealImages,
    config: RefineConfig = CONFIG,
    *,
    checkpoint: Checkpoint | None = None,
    decode: Callable[[Tensor], Tensor] = lambda x: x,
    project: Callable[[Tensor], Tensor] = lambda x: x.clamp(-2, 2),
    make_proxy: Callable[[int], nn.Module] = random_proxy,
    on_progress: Callable[[Progress], None] = ignore_progress,
    start: Tensor = START,
    seed: int = 0,
) -> RefineResult:
    return refine(
        start, LABELS, reals, make_proxy, config, decode=decode, project=project,
        augmentation=AFFINE, num_classes=2, seed=seed, checkpoint=checkpoint,
        on_progress=on_progress,
    )  # fmt: skip


def stop_at(step: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.step == step:
            raise Cancelled

    return on_progress


def test_the_objective_falls_and_images_become_like_their_class(reals: RealImages) -> None:
    config = RefineConfig(num_steps=40, steps_per_proxy=40, reals_per_class=40, learning_rate=0.1)
    result = run(reals, config)
    assert np.mean(result.losses[-5:]) < 0.3 * np.mean(result.losses[:5])
    above, below = (
        result.parameters[:, :, :4].mean((1, 2, 3)),
        result.parameters[:, :, 4:].mean((1, 2, 3)),
    )
    assert ((above > below) == (LABELS == 0)).all()  # class 0 is bright above
    assert torch.equal(START, torch.zeros(4, 1, 8, 8))  # the caller's tensor is left alone


def test_same_seed_same_images_other_seed_others(reals: RealImages) -> None:
    first, second, other = run(reals), run(reals), run(reals, seed=1)
    assert torch.equal(first.parameters, second.parameters) and first.losses == second.losses
    assert not torch.equal(first.parameters, other.parameters)


@pytest.mark.parametrize("step", range(1, CONFIG.num_steps + 1))
def test_resumed_after_any_step_it_ends_with_the_same_bits(
    reals: RealImages, tmp_path: Path, step: int
) -> None:
    whole = run(reals)
    checkpoint = Checkpoint(tmp_path / "c", interval_s=1000)
    with pytest.raises(Cancelled):
        run(reals, checkpoint=checkpoint, on_progress=stop_at(step))
    steps: list[int] = []
    resumed = run(
        reals, checkpoint=Checkpoint(tmp_path / "c"), on_progress=lambda p: steps.append(p.step)
    )
    assert steps == list(range(step + 1, CONFIG.num_steps + 1))
    assert torch.equal(resumed.parameters, whole.parameters) and resumed.losses == whole.losses


def test_killed_without_warning_it_resumes_from_the_last_checkpoint(
    reals: RealImages, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def die(progress: Progress) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        run(reals, checkpoint=Checkpoint(tmp_path / "c", interval_s=0), on_progress=die)
    resumed = run(reals, checkpoint=Checkpoint(tmp_path / "c"))
    assert torch.equal(resumed.parameters, run(reals).parameters)


def test_each_proxy_serves_its_steps_and_a_resume_asks_for_the_right_one(
    reals: RealImages, tmp_path: Path
) -> None:
    asked: list[int] = []

    def note(number: int) -> nn.Module:
        asked.append(number)
        return random_proxy(number)

    run(reals, make_proxy=note)
    assert asked == [0, 1, 2]  # 8 steps, 3 each
    with pytest.raises(Cancelled):
        run(reals, checkpoint=Checkpoint(tmp_path / "c"), on_progress=stop_at(4))
    asked.clear()
    run(reals, make_proxy=note, checkpoint=Checkpoint(tmp_path / "c"))
    assert asked == [1, 2]


def test_an_objective_that_is_not_finite_stops_and_the_last_good_state_is_kept(
    reals: RealImages, tmp_path: Path
) -> None:
    def broken_from_proxy_1(number: int) -> nn.Module:
        proxy = random_proxy(number)
        if number == 1:
            next(proxy.parameters()).data.fill_(float("nan"))
        return proxy

    checkpoint = Checkpoint(tmp_path / "c", interval_s=0)
    with pytest.raises(TrainingError, match=r"became nan at step 3: lower the learning rate of"):
        run(reals, checkpoint=checkpoint, make_proxy=broken_from_proxy_1)
    loaded = checkpoint.load()
    assert loaded is not None and loaded[1]["step"] == 3
    assert np.isfinite(loaded[0]["values"]).all()
    assert torch.equal(run(reals, checkpoint=checkpoint).parameters, run(reals).parameters)


def test_a_gradient_that_is_not_finite_never_reaches_the_images(
    reals: RealImages, tmp_path: Path
) -> None:
    def root(parameters: Tensor) -> Tensor:
        return parameters.clamp(min=0).sqrt()  # finite at zero, its slope is not

    checkpoint = Checkpoint(tmp_path / "c", interval_s=0)
    with pytest.raises(TrainingError, match="at step 0"):
        run(reals, decode=root, checkpoint=checkpoint)
    assert checkpoint.load() is None


def test_images_are_projected_after_every_step(reals: RealImages) -> None:
    config = RefineConfig(num_steps=5, steps_per_proxy=5, learning_rate=10.0)
    result = run(reals, config, project=lambda x: x.clamp(-0.5, 0.5))
    assert result.parameters.abs().max() == 0.5


def test_the_decoder_stands_between_parameters_and_images(reals: RealImages) -> None:
    """Parameters of another shape than images, as latents are: the gradient passes through."""
    result = run(
        reals, RefineConfig(num_steps=30, steps_per_proxy=30, learning_rate=0.1),
        start=torch.zeros(4, 2),
        decode=lambda p: p[:, None, :, None].repeat_interleave(4, 2).expand(4, 1, 8, 8),
    )  # fmt: skip
    above, below = result.parameters.unbind(1)
    assert ((above > below) == (LABELS == 0)).all()


def test_classes_a_few_at_a_time_are_all_refined(reals: RealImages) -> None:
    together = run(reals, RefineConfig(num_steps=3, classes_per_step=2))
    one_by_one = run(reals, RefineConfig(num_steps=3, classes_per_step=1))
    assert (one_by_one.parameters != 0).flatten(1).any(1).all()
    assert len(together.losses) == len(one_by_one.losses) == 3


def test_every_step_sees_other_real_images(reals: RealImages) -> None:
    class Noting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[float] = []

        def features(self, images: Tensor) -> Tensor:
            if not images.requires_grad:  # the real ones
                self.seen.append(float(images.sum()))
            return images.flatten(1)

    proxy = Noting()
    run(reals, make_proxy=lambda _: proxy)
    assert len(proxy.seen) == len(set(proxy.seen)) == CONFIG.num_steps


def test_real_batches_are_of_the_class_and_without_replacement(reals: RealImages) -> None:
    images, labels = reals.draw(torch.tensor([1]), 30, torch.Generator().manual_seed(0))
    assert labels.tolist() == [1] * 30
    assert len({tuple(image.flatten().tolist()) for image in images}) == 30
    few, _ = reals.draw(torch.tensor([0]), 500, torch.Generator().manual_seed(0))
    assert len(few) == 40  # all there are


def test_what_is_as_large_as_the_set_does_not_grow_with_the_parts_of_a_step() -> None:
    config = replace(CONFIG, num_steps=1, classes_per_step=1, reals_per_class=1)
    counts = []
    for num_classes in (24, 72):
        labels = torch.arange(num_classes).repeat_interleave(4)
        images = torch.randn(len(labels), 1, 8, 8)
        with WholeSets(images) as whole:
            refine(
                images, labels, RealImages(images, labels), random_proxy, config,
                decode=lambda x: x, project=lambda x: x, augmentation=AFFINE,
                num_classes=num_classes, seed=0, on_progress=ignore_progress,
            )  # fmt: skip
        counts.append(whole.count)
    assert counts[0] == counts[1] > 0
