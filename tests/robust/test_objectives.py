"""Matching objectives: values by hand, a second formula, reach and sign of the gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillery.models.classifiers import Classifier, build_classifier
from robust.matching_types import Batch
from robust.objectives import (
    absolute,
    cosine_rows,
    cross_entropy_term,
    distribution_matching,
    gradient_matching,
    shared_feature_maps,
    squared,
)


class _Linear(Classifier):
    """Features are the pixels themselves, so that everything can be worked out by hand."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.head.weight.data.copy_(weight)
        self.passes = 0

    def feature_map(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x * 1.0

    def features(self, x: Tensor) -> Tensor:
        return self.feature_map(x).flatten(1)


def _images(rows: list[list[float]]) -> Tensor:
    """Return images of one channel and one row of pixels."""
    return torch.tensor(rows, dtype=torch.float32)[:, None, None, :]


def _random(seed: int, labels: list[int]) -> Batch:
    images = torch.randn(len(labels), 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Batch(images, torch.tensor(labels))


def _network() -> Classifier:
    return build_classifier("convnet-d1-w4", channels=1, image_size=8, num_classes=3, seed=0)


def test_distribution_matching_is_the_squared_distance_of_class_means() -> None:
    network = _Linear(torch.eye(2))
    real = Batch(_images([[0, 0], [2, 4], [5, 5]]), torch.tensor([0, 0, 1]))
    synthetic = Batch(_images([[2, 2], [4, 5]]), torch.tensor([0, 1]))

    loss = distribution_matching(network, real, synthetic, 2)

    assert float(loss) == pytest.approx((1 + 0) + (1 + 0))  # means (1, 2) and (5, 5)


def test_matching_of_classes_apart_adds_up_to_matching_them_together() -> None:
    network, real = _network(), _random(0, [0, 0, 1, 1, 2, 2])
    synthetic = _random(1, [0, 1, 1, 2])
    objectives = [distribution_matching, gradient_matching(cosine_rows), cross_entropy_term]
    for objective in objectives:
        whole = objective(network, real, synthetic, 3)
        parts = [
            objective(
                network,
                Batch(real.of_class(k), real.labels[real.labels == k]),
                Batch(synthetic.of_class(k), synthetic.labels[synthetic.labels == k]),
                3,
            )
            for k in range(3)
        ]
        assert float(whole.detach()) == pytest.approx(float(sum(parts).detach()), rel=1e-5)


def test_distribution_matching_moves_synthetic_images_towards_the_real_mean() -> None:
    network = _Linear(torch.eye(2))
    real = Batch(_images([[1, 1], [3, 1]]).requires_grad_(), torch.tensor([0, 0]))
    images = _images([[0, 0], [0, 0]]).requires_grad_()
    distribution_matching(network, real, Batch(images, torch.tensor([0, 1])), 2).backward()

    assert (images.grad[0] < 0).all()  # downhill is upwards, to (2, 1)
    assert (images.grad[1] == 0).all()  # class 1 has no real sample
    assert real.images.grad is None


def test_gradient_matching_by_hand() -> None:
    """Weight W = 0: logits are 0, so dCE/dW = (softmax - onehot) x^T with softmax one half."""
    network = _Linear(torch.zeros(2, 2))
    real = Batch(_images([[1, 0]]), torch.tensor([0]))
    synthetic = Batch(_images([[0, 2]]).requires_grad_(), torch.tensor([0]))
    # real gradient [[-.5, 0], [.5, 0]], synthetic [[0, -1], [0, 1]]
    values = {
        function: float(gradient_matching(function)(network, real, synthetic, 2).detach())
        for function in (cosine_rows, absolute, squared)
    }
    assert values[cosine_rows] == pytest.approx(2.0)  # both rows at right angles
    assert values[absolute] == pytest.approx(0.5 + 0.5 + 1 + 1)
    assert values[squared] == pytest.approx(0.25 + 0.25 + 1 + 1)


@pytest.mark.parametrize("distance", [cosine_rows, absolute, squared])
def test_gradient_matching_vanishes_where_both_sides_are_equal(distance) -> None:
    network, real = _network(), _random(0, [0, 0, 1, 2])
    loss = gradient_matching(distance)(network, real, Batch(real.images.clone(), real.labels), 3)
    assert float(loss.detach()) == pytest.approx(0, abs=2e-5)


def test_gradient_matching_agrees_with_autograd_written_out() -> None:
    network, real, synthetic = _network(), _random(0, [1, 1, 1]), _random(1, [1, 1])
    expected = 0.0
    grads = []
    for batch in (real, synthetic):
        network.zero_grad()
        F.cross_entropy(network(batch.images), batch.labels).backward()
        grads.append({name: p.grad.clone() for name, p in network.named_parameters()})
    for name, wanted in grads[0].items():
        got = grads[1][name]
        if wanted.ndim > 1:  # biases and norms take no part
            for row, other in zip(wanted.flatten(1), got.flatten(1), strict=True):
                expected += float(1 - row @ other / (row.norm() * other.norm()))
    loss = gradient_matching(cosine_rows)(network, real, synthetic, 3)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_gradient_matching_goes_down_along_its_gradient_and_leaves_the_weights_alone() -> None:
    network, real = _network(), _random(0, [0, 0, 1, 1])
    images = _random(1, [0, 1]).images.requires_grad_()
    objective = gradient_matching(cosine_rows)
    loss = objective(network, real, Batch(images, torch.tensor([0, 1])), 3)
    (gradient,) = torch.autograd.grad(loss, images)
    moved = images.detach() - 1e-2 * gradient / gradient.norm()
    after = objective(network, real, Batch(moved, torch.tensor([0, 1])), 3)
    assert float(after.detach()) < float(loss.detach())
    assert all(weight.grad is None for weight in network.parameters())


def test_cross_entropy_term_counts_each_class_that_is_there() -> None:
    network = _Linear(torch.zeros(4, 2))
    synthetic = Batch(_images([[1, 0], [0, 1], [1, 1]]), torch.tensor([0, 3, 3]))
    loss = cross_entropy_term(network, synthetic, synthetic, 4)
    assert float(loss.detach()) == pytest.approx(2 * torch.log(torch.tensor(4.0)).item())


def test_cross_entropy_term_is_the_sum_of_the_means_of_each_class() -> None:
    network, synthetic = _network(), _random(0, [0, 0, 2])
    logits = network(synthetic.images)
    own = [float(-logits[i].log_softmax(0)[k].detach()) for i, k in enumerate([0, 0, 2])]
    loss = cross_entropy_term(network, synthetic, synthetic, 3)
    assert float(loss.detach()) == pytest.approx((own[0] + own[1]) / 2 + own[2], rel=1e-5)


def test_cross_entropy_term_moves_images_towards_their_class_and_looks_at_no_real_one() -> None:
    network = _Linear(torch.eye(2))
    real = Batch(_images([[1, 1]]).requires_grad_(), torch.tensor([0]))
    images = _images([[0, 0]]).requires_grad_()
    cross_entropy_term(network, real, Batch(images, torch.tensor([0])), 2).backward()
    # downhill: more of class 0, less of class 1; (softmax - onehot) is (-.5, .5)
    assert images.grad.flatten().tolist() == pytest.approx([-0.5, 0.5])
    assert real.images.grad is None
    sure = cross_entropy_term(network, real, Batch(_images([[60, 0]]), torch.tensor([0])), 2)
    assert float(sure.detach()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("distance", "power"), [(absolute, 1), (squared, 2)])
def test_gradient_distances_of_idc_agree_with_autograd_written_out(distance, power) -> None:
    network, real, synthetic = _network(), _random(0, [1, 1, 1]), _random(1, [1, 1])
    grads = []
    for batch in (real, synthetic):
        network.zero_grad()
        F.cross_entropy(network(batch.images), batch.labels).backward()
        grads.append({name: p.grad.clone() for name, p in network.named_parameters()})
    gaps = {name: (grads[0][name] - grads[1][name]).abs() ** power for name in grads[0]}
    loss = gradient_matching(distance)(network, real, synthetic, 3)
    assert float(loss.detach()) == pytest.approx(
        sum(float(g.sum()) for g in gaps.values()), rel=1e-3
    )
    loss = gradient_matching(distance, convolutions_only=True)(network, real, synthetic, 3)
    convolutions = [float(gap.sum()) for gap in gaps.values() if gap.ndim == 4]
    assert len(convolutions) < len(gaps)
    assert float(loss.detach()) == pytest.approx(sum(convolutions), rel=1e-3)


@pytest.mark.parametrize("distance", [cosine_rows, absolute, squared])
def test_gradient_matching_holds_the_real_images(distance) -> None:
    network, real = _network(), _random(0, [0, 1])
    real = Batch(real.images.requires_grad_(), real.labels)
    synthetic = Batch(_random(1, [0, 1]).images.requires_grad_(), real.labels)
    gradient_matching(distance)(network, real, synthetic, 3).backward()
    assert real.images.grad is None and float(synthetic.images.grad.abs().sum()) > 0


def test_distribution_matching_agrees_with_a_second_formula_and_is_zero_between_equals() -> None:
    network, real, synthetic = _network(), _random(0, [0, 0, 1, 2]), _random(1, [0, 1, 1, 2])
    means = [
        torch.stack([network.features(batch.of_class(k)).mean(0) for k in range(3)])
        for batch in (real, synthetic)
    ]
    loss = distribution_matching(network, real, synthetic, 3)
    expected = torch.dist(*means) ** 2
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    equal = distribution_matching(network, real, Batch(real.images.clone(), real.labels), 3)
    assert float(equal.detach()) == pytest.approx(0, abs=1e-8)


def test_only_the_pass_over_the_real_batch_is_kept() -> None:
    network, real = _Linear(torch.eye(2)), _images([[0, 0], [2, 4]])
    others = [real + 1, real + 2]
    with shared_feature_maps(network, only=real), torch.no_grad():
        for images in (real, real, *others):
            network.features(images)
        assert network.passes == 3
        for images in (real, *others):
            network.features(images)
    assert network.passes == 5  # the others had to be looked at again


def test_terms_of_a_step_share_one_pass_over_the_same_images() -> None:
    network = _Linear(torch.eye(2))
    real = Batch(_images([[0, 0], [2, 4]]), torch.tensor([0, 1]))
    synthetic = Batch(_images([[2, 2], [4, 5]]).requires_grad_(), torch.tensor([0, 1]))
    apart = distribution_matching(network, real, synthetic, 2)
    network.passes = 0
    with shared_feature_maps(network):
        first = distribution_matching(network, real, synthetic, 2)
        cross_entropy_term(network, real, synthetic, 2)
        again = distribution_matching(network, real, synthetic, 2)
    assert network.passes == 2  # the real images once, the synthetic ones once
    assert float(first.detach()) == float(again.detach()) == float(apart.detach())
    network.features(real.images)
    assert network.passes == 3  # the sharing has ended
