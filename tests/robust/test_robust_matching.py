"""Distribution matching: values and gradients by hand, and the groups that do not count."""

import pytest
import torch
from torch import Tensor, nn

from robust.matching import group_means, mean_matching_loss
from robust.refine import matching_loss

REAL = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
REAL_GROUPS = torch.tensor([0, 0, 1])


class Flat(nn.Module):
    """Features are the pixels themselves."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_means_of_groups_and_of_none() -> None:
    means, sizes = group_means(REAL, REAL_GROUPS, 3)
    assert means.tolist() == [[2.0, 0.0], [0.0, 5.0], [0.0, 0.0]]
    assert sizes.tolist() == [2, 1, 0]


def test_value_by_hand() -> None:
    synthetic = torch.tensor([[2.0, 1.0], [3.0, 5.0]])
    # class 0: |(2, 0) - (2, 1)|^2 = 1; class 1: |(0, 5) - (3, 5)|^2 = 9
    value = mean_matching_loss(REAL, REAL_GROUPS, synthetic, torch.tensor([0, 1]), 2)
    assert value == pytest.approx(5.0)


def test_gradient_pulls_synthetic_samples_towards_the_real_mean_and_no_further() -> None:
    real = REAL.clone().requires_grad_()
    synthetic = torch.tensor([[2.0, 1.0], [4.0, 1.0], [0.0, 5.0]], requires_grad=True)
    mean_matching_loss(real, REAL_GROUPS, synthetic, torch.tensor([0, 0, 1]), 2).backward()
    assert real.grad is None  # real samples are held constant
    assert synthetic.grad is not None
    # class 0 has mean (3, 1): d/dmean = 2 (1, 1) / 2 groups, shared by two samples
    expected = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]])
    torch.testing.assert_close(synthetic.grad, expected)


def test_groups_without_a_partner_do_not_count() -> None:
    synthetic = torch.tensor([[2.0, 1.0], [9.0, 9.0]], requires_grad=True)
    value = mean_matching_loss(REAL, REAL_GROUPS, synthetic, torch.tensor([0, 2]), 4)
    assert value.item() == pytest.approx(1.0)  # group 1 has no synthetic, group 2 no real sample
    value.backward()
    assert synthetic.grad is not None
    assert synthetic.grad[1].tolist() == [0.0, 0.0] and synthetic.grad[0, 1] > 0


def test_nothing_in_common_is_zero_and_not_a_division_by_zero() -> None:
    synthetic = torch.ones(1, 2, requires_grad=True)
    value = mean_matching_loss(REAL[:2], REAL_GROUPS[:2], synthetic, torch.tensor([1]), 2)
    value.backward()
    assert value.item() == 0.0
    assert synthetic.grad is not None and (synthetic.grad == 0).all()


def test_one_sample_on_either_side() -> None:
    one = torch.zeros(1).long()
    value = mean_matching_loss(torch.tensor([[2.0]]), one, torch.tensor([[5.0]]), one, 1)
    assert value == pytest.approx(9.0)


def test_cluster_term_by_hand() -> None:
    # one class; real samples 0, 1 and 10 seen from synthetic 1 and 8: clusters {0, 1} and {10}
    real = torch.tensor([0.0, 1.0, 10.0]).reshape(3, 1, 1, 1)
    synthetic = torch.tensor([1.0, 8.0]).reshape(2, 1, 1, 1).requires_grad_()
    labels = torch.zeros(3).long()

    def loss(weight: float) -> Tensor:
        return matching_loss(
            Flat(), (real, labels), (synthetic, labels[:2]), num_classes=1, cluster_weight=weight
        )

    classes = (11 / 3 - 4.5) ** 2
    clusters = ((0.5 - 1) ** 2 + (10 - 8) ** 2) / 2
    assert loss(0.0).item() == pytest.approx(classes)
    assert loss(3.0).item() == pytest.approx(classes + 3 * clusters)
    (loss(3.0) - loss(0.0)).backward()
    assert synthetic.grad is not None  # each is drawn to the middle of its own cluster
    torch.testing.assert_close(synthetic.grad.flatten(), 3 * torch.tensor([0.5, -2.0]))


def test_clusters_never_reach_across_classes() -> None:
    real = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    synthetic = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)  # each on the other class's sample
    both = torch.tensor([0, 1])
    value = matching_loss(
        Flat(), (real, both), (synthetic, both), num_classes=2, cluster_weight=1.0
    )
    assert value.item() == pytest.approx(2.0)  # 1 of the classes, 1 of the clusters


def test_the_number_of_features_does_not_change_the_scale() -> None:
    real, synthetic, label = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.zeros(1).long()
    for width in (1, 5):
        wide = (real.expand(1, 1, 1, width), label), (synthetic.expand(1, 1, 1, width), label)
        value = matching_loss(Flat(), *wide, num_classes=1, cluster_weight=0)
        assert value.item() == pytest.approx(1.0)
