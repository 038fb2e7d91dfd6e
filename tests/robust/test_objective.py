"""The group-robust objective and the clusters that it looks after."""

import numpy as np
import pytest
import torch

from robust.clusters import assign_to_centres, cluster_within_classes, merge_small
from robust.objective import PRESETS, GroupRobust, group_robust_loss

# Two classes with two clusters each; class 0 holds ids 0 and 1, class 1 holds 2 and 3.
LOSSES = torch.tensor([1.0, 3.0, 8.0, 2.0, 4.0, 6.0])
IDS = torch.tensor([0, 0, 1, 2, 2, 3])
SIZES = {"num_classes": 2, "clusters_per_class": 2}


def test_value_by_hand() -> None:
    # tail 0.5: CVaR of the clusters is 3, 8, 4, 6; mean 5.25; worst per class 8 and 6, mean 7
    expected = LOSSES.mean() + 5.25 + 7
    torch.testing.assert_close(group_robust_loss(LOSSES, IDS, **SIZES, tail_fraction=0.5), expected)


def test_max_over_all_clusters_is_the_single_worst() -> None:
    value = group_robust_loss(
        LOSSES, IDS, **SIZES, tail_fraction=0.5, mean_weight=0, max_over="all"
    )
    torch.testing.assert_close(value, LOSSES.mean() + 8)


def test_each_term_can_be_switched_off() -> None:
    value = group_robust_loss(LOSSES, IDS, **SIZES, tail_fraction=0.5, mean_weight=0, max_weight=0)
    torch.testing.assert_close(value, LOSSES.mean())


def test_a_class_that_is_absent_does_not_count() -> None:
    value = group_robust_loss(LOSSES[:3], IDS[:3], **SIZES, tail_fraction=1.0, mean_weight=0)
    torch.testing.assert_close(value, LOSSES[:3].mean() + 8)


def test_gradient_weighs_the_worst_cluster_of_each_class_most() -> None:
    losses = LOSSES.clone().requires_grad_()
    group_robust_loss(losses, IDS, **SIZES, tail_fraction=0.5).backward()
    gradient = losses.grad
    assert gradient is not None and (gradient > 0).all()  # cross-entropy reaches every sample
    assert gradient.argmax() in (2, 5)  # the worst clusters of class 0 and class 1
    # by hand for sample 2: 1/6 of the mean, 1/4 of the mean CVaR, 1/2 of the max
    assert gradient[2] == pytest.approx(1 / 6 + 1 / 4 + 1 / 2)


def test_cross_entropy_can_be_switched_off_and_the_tail_turned() -> None:
    worst = group_robust_loss(LOSSES, IDS, **SIZES, tail_fraction=0.5, loss_weight=0)
    torch.testing.assert_close(worst, torch.tensor(5.25 + 7))
    # the lower half of the clusters: 1, 8, 2, 6; mean 4.25; worst per class 8 and 6
    best = group_robust_loss(LOSSES, IDS, **SIZES, tail_fraction=0.5, tail="lower", loss_weight=0)
    torch.testing.assert_close(best, torch.tensor(4.25 + 7))


def test_the_default_preset_merges_small_clusters_and_takes_any_batch() -> None:
    # of clusters below four samples only one is left in each class: 1, 3, 8 and 2, 4, 6
    value = PRESETS["default"](LOSSES, IDS, **SIZES)
    first, second = (8 + 3 + 0.4 * 1) / 2.4, (6 + 4 + 0.4 * 2) / 2.4
    mean = (first + second) / 2
    torch.testing.assert_close(value, LOSSES.mean() + 2 * mean)


def test_the_reference_preset_takes_the_worst_of_all_clusters_of_a_full_batch() -> None:
    reference = PRESETS["reference"]
    losses, ids = LOSSES.repeat(86), IDS.repeat(86)  # 516 samples for two classes
    values = [0.8, 0.8]
    assert [p.tail_fraction for p in PRESETS.values()] == values
    value = reference(losses, ids, **SIZES)
    expected = group_robust_loss(losses, ids, **SIZES, tail_fraction=0.8, max_over="all")
    torch.testing.assert_close(value, expected)
    with pytest.raises(
        ValueError, match=r"needs 256 samples per class and step, 512 in all, got 6"
    ):
        reference(LOSSES, IDS, **SIZES)


def test_the_worst_cluster_is_the_worst_so_far_not_that_of_the_batch() -> None:
    """Cluster 0 was bad for long; in this batch cluster 1 is a little worse."""
    running = torch.tensor([9.0, 1.0, torch.nan, torch.nan])
    losses = torch.tensor([2.0, 3.0, 5.0]).requires_grad_()
    settings = {"tail_fraction": 1.0, "mean_weight": 0.0, "loss_weight": 0.0, "memory": 0.5}
    value = group_robust_loss(losses, torch.tensor([0, 1, 2]), **SIZES, **settings, running=running)
    torch.testing.assert_close(value, torch.tensor((2.0 + 5.0) / 2))
    torch.testing.assert_close(running[:3], torch.tensor([5.5, 2.0, 5.0]))
    assert running[3].isnan() and not running.requires_grad
    value.backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, torch.tensor([0.5, 0.0, 0.5]))
    # the worst so far is not in the next batch: the worst of those that are takes its place
    next_value = group_robust_loss(
        torch.tensor([7.0]), torch.tensor([1]), **SIZES, **settings, running=running
    )
    assert next_value == 7 and running[0] == 5.5


def test_without_memory_nothing_is_kept() -> None:
    assert GroupRobust().start(4, LOSSES) is None
    started = GroupRobust(memory=0.9).start(4, LOSSES)
    assert started is not None and started.isnan().all() and len(started) == 4
    with pytest.raises(ValueError, match="with memory needs"):
        GroupRobust(memory=0.9)(LOSSES, IDS, **SIZES)


@pytest.mark.parametrize(
    "settings",
    [
        {"tail_fraction": 0.0},
        {"memory": 1.0},
        {"max_weight": -1.0},
        {"every": 0},
        {"max_over": "group"},
    ],
)
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="tail_fraction must|weights must|max_over must|memory"):
        GroupRobust(**settings)


def test_small_clusters_join_the_largest_of_their_class() -> None:
    ids = torch.tensor([0, 0, 0, 1, 2, 3, 3])
    merged = merge_small(ids, clusters_per_class=2, num_classes=2, min_size=2)
    assert merged.tolist() == [0, 0, 0, 0, 3, 3, 3]


def test_merging_never_crosses_classes(generator: torch.Generator) -> None:
    ids = torch.randint(0, 12, (40,), generator=generator)
    merged = merge_small(ids, clusters_per_class=3, num_classes=4, min_size=5)
    assert (merged // 3 == ids // 3).all()


def test_k_means_stays_inside_classes_and_repeats() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(m, 0.1, (20, 3)) for m in (0, 5, 0, 5)])
    labels = np.repeat([0, 0, 1, 1], 20)
    first, second = (
        cluster_within_classes(features, labels, clusters_per_class=2, num_classes=2, seed=0)
        for _ in range(2)
    )
    assert (first == second).all()
    assert (first // 2 == labels).all()
    assert len({first[0], first[20], first[40], first[60]}) == 4  # the four blobs


def test_a_tiny_class_gets_fewer_clusters() -> None:
    ids = cluster_within_classes(
        np.zeros((3, 2)), np.zeros(3, np.int64), clusters_per_class=5, num_classes=1, seed=0
    )
    assert ids.tolist() == [0, 0, 0]


def test_a_sample_goes_to_the_nearest_centre_of_its_own_class() -> None:
    features = torch.tensor([[0.0], [0.9]])
    centres = torch.tensor([[1.0], [-5.0], [0.1]])
    found = assign_to_centres(features, torch.tensor([0, 1]), centres, torch.tensor([0, 0, 1]))
    assert found.tolist() == [0, 2]  # centre 2 is nearer to the first sample, but of class 1
