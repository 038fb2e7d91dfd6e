"""Groups of test images and the worst of them."""

import numpy as np

from distillery.evaluation import groups


def test_groups_part_what_looks_different_whatever_its_class() -> None:
    rng = np.random.default_rng(0)
    dark = rng.integers(0, 40, (10, 1, 8, 8), dtype=np.uint8)
    images = np.concatenate([dark, dark + 200])
    found = groups.test_groups(images, num_groups=2)
    assert found.dtype == np.int64
    assert len(set(found[:10])) == len(set(found[10:])) == 1 and found[0] != found[10]
    assert np.array_equal(found, groups.test_groups(images, num_groups=2))


def test_contrast_of_each_channel_counts_alike() -> None:
    # the first channel spans 200 levels, the second 4: both part the images, so four groups
    images = np.zeros((40, 2, 8, 8), np.uint8)
    images[20:, 0] = 200
    images[10:20, 1] = images[30:, 1] = 4
    found = groups.test_groups(images, num_groups=4)
    assert len({tuple(found[i : i + 10]) for i in range(0, 40, 10)}) == 4
    assert all(len(set(found[i : i + 10])) == 1 for i in range(0, 40, 10))


def test_large_images_are_averaged_down_and_odd_sides_cropped() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (12, 1, 32, 32), dtype=np.uint8)
    large = np.repeat(np.repeat(small, 3, axis=2), 3, axis=3)
    padded = np.pad(large, ((0, 0), (0, 0), (0, 2), (0, 2)))  # 98 = 3 * 32 + 2: factor 4
    assert np.array_equal(
        groups.test_groups(large, num_groups=3), groups.test_groups(small, num_groups=3)
    )
    assert groups.test_groups(padded, num_groups=3).shape == (12,)


def test_fewer_images_than_groups() -> None:
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * 50 * np.ones((1, 1, 8, 8), np.uint8)
    assert sorted(groups.test_groups(images, num_groups=10)) == [0, 1, 2]


def test_small_groups_have_no_accuracy_and_do_not_count() -> None:
    membership = np.repeat([0, 1, 2], [30, 29, 40])
    correct = np.concatenate([np.arange(30) < 24, np.zeros(29, bool), np.arange(40) < 30])
    rows = groups.group_accuracies(correct, membership, 4)
    assert rows[0] == {"id": "g0", "n_test": 30, "accuracy": 0.8}
    assert rows[1] == {"id": "g1", "n_test": 29, "accuracy": None}
    assert rows[3] == {"id": "g3", "n_test": 0, "accuracy": None}
    assert groups.cluster_min(rows) == 0.75
    assert groups.cluster_min(rows[1:2]) is None
