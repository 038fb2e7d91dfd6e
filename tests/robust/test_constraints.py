"""Class centralisation and covariance matching: values, gradients, and where they are undefined."""

import math

import pytest
import torch
from torch import Tensor

from distillery.errors import ConfigError
from distillery.models.classifiers import Classifier, build_classifier
from robust.constraint_weights import ConstraintWeights, published_weights
from robust.constraints import (
    LARGEST_ARGUMENT,
    class_centralisation,
    class_covariances,
    covariance_matching,
    weighted_constraints,
)
from robust.matching_types import Batch


class Plain(Classifier):
    """The features of an image are its pixels, times a number."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def feature_map(self, x: Tensor) -> Tensor:
        return self.factor * x

    def features(self, x: Tensor) -> Tensor:
        return self.feature_map(x).flatten(1)


def points(*values: float, labels: list[int]) -> Batch:
    """Images of one pixel."""
    images = torch.tensor(values).reshape(-1, 1, 1, 1)
    return Batch(images, torch.tensor(labels))


REAL = points(0.0, 2.0, 10.0, 14.0, labels=[0, 0, 1, 1])  # mean squared distances 1 and 4
MATCHING = Plain(factor=1000.0)  # must not be what centralisation looks through


def test_centralisation_by_hand() -> None:
    synthetic = points(0.0, 4.0, 1.0, 3.0, labels=[0, 0, 1, 1])  # distances 4, 4, 1, 1
    value = class_centralisation(Plain())(MATCHING, REAL, synthetic, 2)
    torch.testing.assert_close(value, torch.tensor(10.0))
    # the floor is a share of the real spread: 4 - 1, 4 - 1 and nothing of the second class
    floored = class_centralisation(Plain(), floor=1.0)(MATCHING, REAL, synthetic, 2)
    torch.testing.assert_close(floored, torch.tensor(6.0))


def test_the_printed_form_by_hand_and_its_scale() -> None:
    synthetic = points(0.0, 2.0, 1.0, 3.0, labels=[0, 0, 1, 1])  # distances 1, 1, 1, 1
    constraint = class_centralisation(Plain(), form="exp", alpha=2.0, beta=0.5)
    expected = 2 * (math.exp(2 * 1 / 1) - 0.5) + 2 * (math.exp(2 * 1 / 4) - 0.5)
    value = constraint(MATCHING, REAL, synthetic, 2)
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float32))
    # divided by the real spread, the value does not know the scale of the features
    scaled = class_centralisation(Plain(30.0), form="exp", alpha=2.0, beta=0.5)
    torch.testing.assert_close(scaled(MATCHING, REAL, synthetic, 2), value)


def gradient(beta: float, *, spread: float = 1.0) -> Tensor:
    """Return the gradient of the printed form at a threshold."""
    batch = points(0.0, 2 * spread, 1.0, 3.0, labels=[0, 0, 1, 1])
    images = batch.images.requires_grad_()
    class_centralisation(Plain(), form="exp", beta=beta)(MATCHING, REAL, batch, 2).backward()
    assert images.grad is not None
    return images.grad.flatten()


def test_a_threshold_of_one_or_less_changes_nothing() -> None:
    assert gradient(0.0).abs().min() > 0
    for beta in (0.3, 0.7, 1.0):
        assert torch.equal(gradient(beta), gradient(0.0))
    # exp(1 / 4) = 1.28 of the second class is under 1.5, exp(1) = 2.7 of the first is not
    assert gradient(1.5)[:2].abs().min() > 0 and gradient(1.5)[2:].abs().max() == 0


def test_a_far_sample_neither_overflows_nor_is_let_go() -> None:
    far = gradient(0.0, spread=50.0)  # an argument of 2500
    assert torch.isfinite(far).all() and far[1] > 0 > far[0]
    edge = torch.tensor([LARGEST_ARGUMENT - 1e-3, LARGEST_ARGUMENT + 1e-3], dtype=torch.float64)
    at = edge.sqrt()  # distance d / 1 on both sides of the mean
    values = [
        class_centralisation(Plain(), form="exp")(
            MATCHING, REAL, points(-float(x), float(x), labels=[0, 0]), 2
        )
        for x in at
    ]
    slope = (values[1] - values[0]) / 2 / 2e-3
    assert float(slope) == pytest.approx(math.exp(LARGEST_ARGUMENT), rel=1e-2)  # no step, no kink


@pytest.mark.parametrize("form", ["squared", "exp"])
def test_centralisation_pulls_synthetic_samples_together_only(form: str) -> None:
    network = build_classifier("convnet-d2-w8", 1, 8, 2, seed=0)
    generator = torch.Generator().manual_seed(0)
    real = Batch(torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 2)
    images = torch.randn(6, 1, 8, 8, generator=generator).requires_grad_()
    real.images.requires_grad_()
    synthetic = Batch(images, torch.arange(6) % 2)
    constraint = class_centralisation(network, form=form)  # type: ignore[arg-type]
    before = constraint(MATCHING, real, synthetic, 2)
    before.backward()
    assert images.grad is not None and (images.grad.flatten(1).norm(dim=1) > 0).all()
    assert real.images.grad is None
    moved = Batch((images - 1e-3 * images.grad / images.grad.norm()).detach(), synthetic.labels)
    assert constraint(MATCHING, real, moved, 2) < before


@pytest.mark.parametrize("settings", [{"form": "exp"}, {"floor": 0.5}])
def test_a_class_without_a_real_spread_does_not_count(settings: dict) -> None:
    real = points(0.0, 2.0, 5.0, labels=[0, 0, 1])
    both = points(0.0, 4.0, 1.0, 3.0, labels=[0, 0, 1, 1])
    first = points(0.0, 4.0, labels=[0, 0])
    constraint = class_centralisation(Plain(), **settings)
    assert constraint(MATCHING, real, both, 2) == constraint(MATCHING, real, first, 2) > 0


def test_a_pool_of_networks_is_drawn_from_at_each_call() -> None:
    drawn: list[Plain] = []

    def draw() -> Classifier:
        drawn.append(Plain())
        return drawn[-1]

    constraint = class_centralisation(draw)
    for _ in range(2):
        constraint(MATCHING, REAL, points(0.0, 1.0, labels=[0, 0]), 2)
    assert len(drawn) == 2


def loop_covariance(maps: Tensor) -> Tensor:
    """The second formula: one sample of one class after another."""
    centred = maps.flatten(2) - maps.flatten(2).mean(0)
    return torch.stack([one @ one.T for one in centred]).mean(0)


def test_covariances_by_hand() -> None:
    # one class, two samples of two channels at one place: (1, 2) and (3, 6), mean (2, 4)
    maps = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).reshape(2, 2, 1, 1)
    found = class_covariances(maps, torch.tensor([0, 0]), 1)
    torch.testing.assert_close(found, torch.tensor([[[1.0, 2.0], [2.0, 4.0]]]))


def test_covariances_of_unequal_classes_equal_those_one_by_one(generator: torch.Generator) -> None:
    maps = torch.randn(9, 4, 3, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 3, 0, 1, 1, 3, 0, 0, 3])  # class 2 is absent
    found = class_covariances(maps, labels, 4)
    for label in (0, 1, 3):
        torch.testing.assert_close(found[label], loop_covariance(maps[labels == label]))
    assert (found[2] == 0).all()


def test_covariance_matching_by_hand_and_over_the_classes_present() -> None:
    network = Plain()
    synthetic = points(0.0, 4.0, labels=[1, 1])  # variance 4, as the real class 1: 4
    assert covariance_matching(network, REAL, synthetic, 3) == 0
    wider = points(0.0, 6.0, labels=[1, 1])  # variance 9
    assert covariance_matching(network, REAL, wider, 3) == 25
    both = points(0.0, 6.0, 0.0, 4.0, labels=[1, 1, 0, 0])  # and 4 against 1
    assert covariance_matching(network, REAL, both, 3) == 25 + 9
    unknown = points(0.0, 6.0, 0.0, 4.0, labels=[1, 1, 2, 2])  # class 2 has no real samples
    assert covariance_matching(network, REAL, unknown, 3) == 25


def test_covariance_matching_ignores_the_mean_and_moves_synthetic_images_only() -> None:
    network = build_classifier("convnet-d2-w8", 1, 8, 2, seed=0)
    generator = torch.Generator().manual_seed(0)
    real = Batch(torch.randn(10, 1, 8, 8, generator=generator), torch.arange(10) % 2)
    synthetic = Batch(torch.randn(4, 1, 8, 8, generator=generator), torch.arange(4) % 2)
    shifted = Batch(REAL.images + 7.0, REAL.labels)
    assert covariance_matching(Plain(), REAL, shifted, 2) == 0
    real.images.requires_grad_()
    synthetic.images.requires_grad_()
    loss = covariance_matching(network, real, synthetic, 2)
    loss.backward()
    grad = synthetic.images.grad
    assert grad is not None and (grad.flatten(1).norm(dim=1) > 0).all()
    assert real.images.grad is None
    moved = Batch((synthetic.images - 1e-3 * grad / grad.norm()).detach(), synthetic.labels)
    assert covariance_matching(network, real, moved, 2) < loss


@pytest.mark.parametrize("constraint", [class_centralisation(Plain()), covariance_matching])
def test_one_sample_of_a_class_is_refused(constraint) -> None:
    synthetic = points(0.0, 1.0, 2.0, labels=[0, 0, 1])
    with pytest.raises(ValueError, match=r"two or more synthetic samples.*class 1 has one"):
        constraint(Plain(), REAL, synthetic, 2)


def test_published_weights() -> None:
    assert published_weights(10, "dm") == ConstraintWeights(0.05, 0.01)
    assert published_weights(50, "idm") == ConstraintWeights(0.003, 0.01)
    assert published_weights(1, "idm", origin="code") == ConstraintWeights(0.01, 0.03)
    with pytest.raises(ConfigError, match="not defined at 1 image per class"):
        published_weights(1, "dm")
    with pytest.raises(ConfigError, match=r"published for 1, 10, 50 images per class, got 20"):
        published_weights(20, "dm")
    with pytest.raises(ConfigError, match="base dm or idm"):
        published_weights(10, "dsa")


def test_a_weight_of_zero_leaves_its_constraint_out() -> None:
    names = [term.name for term in weighted_constraints(ConstraintWeights(0.0, 0.01), Plain())]
    assert names == ["covariance"]
    assert len(weighted_constraints(published_weights(10, "dm"), Plain())) == 2


def test_the_form_and_its_threshold_reach_centralisation() -> None:
    synthetic = points(0.0, 2.0, 1.0, 3.0, labels=[0, 0, 1, 1])  # distances 1, real ones 1 and 4
    weights = ConstraintWeights(0.5, 0.0)
    values = []
    for settings in ({"form": "exp", "beta": 1.5}, {"floor": 0.5}):
        (one,) = weighted_constraints(weights, Plain(), **settings)  # type: ignore[arg-type]
        values.append(one.term(MATCHING, REAL, synthetic, 2).item())
        assert one.weight == 0.5
    assert values[0] == pytest.approx(2 * (math.e - 1.5))  # exp(1 / 4) is under the threshold
    assert values[1] == pytest.approx(2 * (1 - 0.5 * 1))  # 1 - 0.5 x 4 is below nothing


@pytest.mark.parametrize(
    "settings", [{"form": "cubed"}, {"floor": -1.0}, {"alpha": 0.0}, {"beta": -0.1}]
)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="form must|centralisation needs"):
        class_centralisation(Plain(), **settings)
