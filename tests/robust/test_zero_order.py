"""Gradients from values alone, against the analytic gradient of a quadratic."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distillery.checkpoint import Checkpoint
from distillery.data.augment import AFFINE
from distillery.errors import Cancelled
from distillery.progress import Progress
from robust.distil import Budget, Distilled, distil
from robust.matching_types import Batch, Method
from robust.networks import Surroundings
from robust.parameters import Pixels
from robust.refine import RealImages
from robust.zero_order import Estimate, estimate_gradient, step_size, without_gradient

CURVATURE = torch.tensor([1.0, 2.0, 4.0, 0.5], dtype=torch.float64)
CENTRE = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
POINT = torch.tensor([0.0, 1.0, 1.0, -1.0], dtype=torch.float64)
GRADIENT = CURVATURE * (POINT - CENTRE)


def quadratic(x: Tensor) -> Tensor:
    return (CURVATURE * (x - CENTRE).square()).sum() / 2


def estimate(num_directions: int, *, seed: int = 0, **settings) -> Estimate:
    return estimate_gradient(
        quadratic, POINT, num_directions=num_directions,
        generator=torch.Generator().manual_seed(seed), **{"sigma": 0.1} | settings,
    )  # fmt: skip


@pytest.mark.parametrize("antithetic", [True, False])
def test_the_estimate_approaches_the_analytic_gradient(antithetic: bool) -> None:
    found = estimate(4000, antithetic=antithetic)
    error = (found.gradient - GRADIENT).abs()
    assert (error < 4 * found.variance.sqrt()).all()
    assert error.max() < 0.06 * GRADIENT.norm()
    assert found.num_evaluations == (8000 if antithetic else 4001)


def test_one_pair_by_hand() -> None:
    # along each direction a quadratic's antithetic slope is exact: the mean of v (v . g)
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    expected = (directions * (directions @ GRADIENT)[:, None]).mean(0)
    torch.testing.assert_close(estimate(2, seed=3, sigma=5.0).gradient, expected)


def test_the_variance_is_that_of_the_estimate_and_falls_with_the_directions() -> None:
    repeats = torch.stack([estimate(20, seed=seed).gradient for seed in range(400)])
    theory = (GRADIENT.square().sum() + GRADIENT.square()) / 20
    torch.testing.assert_close(repeats.var(0), theory, rtol=0.25, atol=0)
    told = torch.stack([estimate(20, seed=seed).variance for seed in range(400)]).mean(0)
    torch.testing.assert_close(told, theory, rtol=0.15, atol=0)
    assert estimate(2000).variance.mean() < estimate(20).variance.mean() / 30


def test_antithetic_pairs_do_not_feel_the_curvature() -> None:
    wide = {"sigma": 3.0}
    pairs, single = (estimate(500, antithetic=way, **wide).variance.mean() for way in (True, False))
    assert pairs < single / 3


def test_the_same_seed_gives_the_same_gradient() -> None:
    assert torch.equal(estimate(5).gradient, estimate(5).gradient)
    assert not torch.equal(estimate(5).gradient, estimate(5, seed=1).gradient)


def test_descent_along_estimates_reaches_the_minimum() -> None:
    generator, point = torch.Generator().manual_seed(0), POINT.clone()
    for epoch in range(300):
        found = estimate_gradient(
            quadratic, point, num_directions=8, sigma=0.01, generator=generator
        )
        point -= step_size(epoch, first=0.4) * found.gradient
    assert quadratic(point) < 1e-3 * quadratic(POINT)
    assert [step_size(0), step_size(3)] == [0.1, 0.05]


def test_an_objective_without_gradient_moves_synthetic_images() -> None:
    def count_bright(_: nn.Module, real: Batch, synthetic: Batch, num_classes: int) -> Tensor:
        assert num_classes == 2 and not synthetic.images.requires_grad
        return torch.as_tensor(float((3 * synthetic.images + real.images.mean()).sum()))

    objective = without_gradient(count_bright, num_directions=3000, sigma=0.1, seed=0)
    images = torch.zeros(2, 1, 1, 2).requires_grad_()
    labels = torch.tensor([0, 1])
    loss = objective(nn.Identity(), Batch(torch.ones(2, 1, 1, 2), labels), Batch(images, labels), 2)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == pytest.approx(4, abs=0.01)  # four pixels, the real mean of one for each
    assert images.grad is not None
    torch.testing.assert_close(images.grad, torch.full_like(images, 3.0), rtol=0, atol=0.5)


def brightness(_: nn.Module, real: Batch, synthetic: Batch, num_classes: int) -> Tensor:
    """How far the mean image is from the real one, of values that carry no gradient."""
    return (real.images.mean(0) - synthetic.images.mean(0)).square().sum()


def slope(*, seed: int = 0, step: int = 0, label: int = 0) -> Tensor:
    objective = without_gradient(brightness, num_directions=4, sigma=0.1, seed=seed)
    images, labels = torch.zeros(2, 1, 2, 2).requires_grad_(), torch.full((2,), label)
    real = Batch(torch.ones(2, 1, 2, 2), labels)
    objective(nn.Identity(), real, Batch(images, labels, step=step), 2).backward()  # type: ignore[arg-type]
    assert images.grad is not None
    return images.grad


def test_directions_depend_on_seed_step_and_class_alone() -> None:
    assert torch.equal(slope(), slope())
    for other in ({"seed": 1}, {"step": 1}, {"label": 1}):
        assert not torch.equal(slope(), slope(**other))


def test_a_run_that_was_cut_ends_as_one_that_was_not(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(6)
    reals = RealImages(torch.rand(12, 1, 4, 4, generator=generator), labels)
    around = Surroundings("convnet-d1-w4", reals, 2, seed=3)
    method = Method(
        name="values",
        objective=without_gradient(brightness, num_directions=3, sigma=0.1, seed=3),
        augmentation=AFFINE, reals_per_class=4, learning_rate=0.1,
    )  # fmt: skip

    def run(checkpoint: Checkpoint | None = None, stop: int | None = None) -> Distilled:
        def on_progress(progress: Progress) -> None:
            if progress.step == stop:
                raise Cancelled

        return distil(
            method, torch.zeros(4, 1, 4, 4), torch.tensor([0, 0, 1, 1]), around,
            Pixels(lambda images: images.clamp(-2, 2)), budget=Budget(iterations=5),
            classes_per_step=1, checkpoint=checkpoint, on_progress=on_progress,
        )  # fmt: skip

    whole, checkpoint = run(), Checkpoint(tmp_path / "state.safetensors")
    with pytest.raises(Cancelled):
        run(checkpoint, stop=2)
    resumed = run(checkpoint)
    assert torch.equal(resumed.images, whole.images) and resumed.losses == whole.losses
    moved = whole.images[[0, 2]].flatten(1)
    assert not torch.equal(moved[0], moved[1])  # classes of a step have directions of their own


@pytest.mark.parametrize("settings", [{"num_directions": 1}, {"sigma": 0.0, "num_directions": 2}])
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="num_directions of 2 or more and sigma above 0"):
        estimate(**settings)
