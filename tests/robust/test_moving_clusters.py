"""Clusters of real samples around synthetic ones."""

import pytest
import torch

from robust.moving_clusters import (
    _kept,
    choose_centres,
    cluster_around,
    clusters_per_class,
)

FEATURES = torch.tensor([[0.0], [1.0], [9.0], [10.0], [0.2], [9.9]])
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])
CENTRES = torch.tensor([[0.0], [10.0], [5.0], [9.0]])
CENTRE_LABELS = torch.tensor([0, 0, 1, 1])


def test_the_published_number_of_clusters() -> None:
    assert [clusters_per_class(count) for count in (1, 9, 10, 50)] == [1, 9, 10, 10]
    with pytest.raises(ValueError, match="1 or more, got 0"):
        clusters_per_class(0)


def test_each_sample_joins_the_nearest_centre_of_its_class() -> None:
    ids = cluster_around(FEATURES, LABELS, CENTRES, CENTRE_LABELS, clusters_per_class=3)
    assert ids.tolist() == [0, 0, 1, 1, 3, 4]


def test_clusters_form_anew_when_the_synthetic_set_moves() -> None:
    moved = torch.tensor([[0.0], [0.9], [5.0], [9.0]])
    ids = cluster_around(FEATURES, LABELS, moved, CENTRE_LABELS, clusters_per_class=3)
    assert ids.tolist() == [0, 1, 1, 1, 3, 4]


def test_a_small_cluster_joins_the_nearest_not_the_largest() -> None:
    features = torch.tensor([[0.0], [0.1], [0.2], [5.0], [6.0], [6.1]])
    centres = torch.tensor([[0.0], [5.0], [6.0]])
    labels, centre_labels = torch.zeros(6).long(), torch.zeros(3).long()
    sizes = {"clusters_per_class": 3}
    assert cluster_around(features, labels, centres, centre_labels, **sizes).tolist() == [
        0, 0, 0, 1, 2, 2,
    ]  # fmt: skip
    merged = cluster_around(features, labels, centres, centre_labels, **sizes, min_size=2)
    assert merged.tolist() == [0, 0, 0, 2, 2, 2]
    # where all are too small, the largest takes everything
    all_in_one = cluster_around(features, labels, centres, centre_labels, **sizes, min_size=9)
    assert all_in_one.tolist() == [0] * 6


def test_ids_carry_no_gradient_and_merging_stays_inside_classes(
    generator: torch.Generator,
) -> None:
    features = torch.randn(60, 4, generator=generator).requires_grad_()
    labels = torch.randint(0, 4, (60,), generator=generator)
    centre_labels = torch.arange(4).repeat_interleave(5)
    centres = torch.randn(20, 4, generator=generator)
    ids = cluster_around(features, labels, centres, centre_labels, clusters_per_class=5, min_size=6)
    assert not ids.requires_grad and torch.equal(ids // 5, labels)
    sizes = torch.bincount(ids, minlength=20).reshape(4, 5)
    for row in sizes:
        assert (row[row > 0] >= 6).all() or (row > 0).sum() == 1


def test_centres_are_distinct_in_class_order_and_redrawn() -> None:
    labels = torch.tensor([2, 0, 0, 2, 0, 2, 2])
    draw = torch.Generator().manual_seed(0)
    first, second = (choose_centres(labels, 2, draw) for _ in range(2))
    assert labels[first].tolist() == [0, 0, 2, 2] and len(set(first.tolist())) == 4
    assert first.tolist() != second.tolist()
    assert len(choose_centres(labels, 10, draw)) == 7  # fewer than asked for: all of them


def test_a_class_without_a_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="class 1 has real samples and no synthetic centre"):
        cluster_around(FEATURES, LABELS, CENTRES[:2], CENTRE_LABELS[:2], clusters_per_class=3)
    with pytest.raises(ValueError, match="2 centres, got J=1"):
        cluster_around(FEATURES, LABELS, CENTRES, CENTRE_LABELS, clusters_per_class=1)


def test_which_centres_stay_by_hand() -> None:
    sizes, labels = torch.tensor([1, 5, 4, 2, 2, 0, 0]), torch.tensor([0, 0, 0, 2, 2, 7, 7])
    kept = _kept(sizes, labels, min_size=4)
    # large enough; the first of the largest where none is
    assert kept.tolist() == [False, True, True, True, False, True, False]
