"""Given splits are kept, missing ones are drawn by class, and nothing else has influence."""

import numpy as np
import pytest

from distillery.data.config import DataConfig
from distillery.data.splits import (
    VALIDATION_IS_TEST,
    assign_splits,
    draw_fraction,
    draw_stratified,
    lacking_classes,
    settle_given,
)
from distillery.errors import ConfigError, DataError

CONFIG = DataConfig()
LABELS = np.repeat([0, 1, 2], [100, 50, 10])


def per_class(labels: np.ndarray, indices: np.ndarray) -> list[int]:
    return np.bincount(labels[indices], minlength=3).tolist()


def test_without_splits_every_class_is_divided_by_the_fractions() -> None:
    splits = assign_splits(LABELS, [None] * len(LABELS), CONFIG)
    assert per_class(LABELS, splits["test"]) == [20, 10, 2]
    assert per_class(LABELS, splits["validation"]) == [10, 5, 1]
    assert per_class(LABELS, splits["train"]) == [70, 35, 7]
    every = np.concatenate(list(splits.values()))
    assert np.array_equal(np.sort(every), np.arange(len(LABELS)))
    for indices in splits.values():
        assert indices.dtype == np.int64 and (np.diff(indices) > 0).all()


def test_splits_repeat_with_the_seed_and_change_with_it() -> None:
    given = [None] * len(LABELS)
    first, again = (assign_splits(LABELS, given, CONFIG) for _ in range(2))
    other = assign_splits(LABELS, given, DataConfig(split_seed=1))
    assert all(np.array_equal(first[s], again[s]) for s in first)
    assert not np.array_equal(first["test"], other["test"])


def test_one_more_class_leaves_the_others_alone() -> None:
    more = np.concatenate([LABELS, np.full(30, 3)])
    before = assign_splits(LABELS, [None] * len(LABELS), CONFIG)["test"]
    after = assign_splits(more, [None] * len(more), CONFIG)["test"]
    assert np.array_equal(before, after[after < len(LABELS)])


def test_given_train_and_test_are_kept_and_validation_comes_out_of_train() -> None:
    given = ["test" if i % 2 else "train" for i in range(len(LABELS))]
    splits = assign_splits(LABELS, given, CONFIG)
    assert np.array_equal(splits["test"], np.arange(1, len(LABELS), 2))
    assert per_class(LABELS, splits["validation"]) == [5, 3, 1]
    assert not (splits["validation"] % 2).any() and not (splits["train"] % 2).any()


def test_all_three_given_are_kept() -> None:
    given = [("train", "validation", "test")[i % 3] for i in range(len(LABELS))]
    splits = assign_splits(LABELS, given, CONFIG)
    for offset, name in enumerate(("train", "validation", "test")):
        assert np.array_equal(splits[name], np.arange(offset, len(LABELS), 3))


def test_validation_without_test_becomes_the_test_split_and_says_so() -> None:
    given = ["validation" if i % 2 else "train" for i in range(len(LABELS))]
    splits = assign_splits(LABELS, given, CONFIG)
    assert np.array_equal(splits["test"], np.arange(1, len(LABELS), 2))
    assert len(splits["validation"]) == 9
    assert settle_given(given)[1] == (VALIDATION_IS_TEST,)


def test_one_split_alone_counts_as_none_and_a_mixture_is_noted() -> None:
    assert settle_given(["test"] * 3) == ([None] * 3, ())
    settled, notes = settle_given(["train", None, "test"])
    assert settled == [None] * 3 and "drawn anew" in notes[0]


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="no training images"):
        assign_splits(LABELS, ["test", "validation"] * (len(LABELS) // 2), CONFIG)


def test_small_classes_keep_an_image_to_train_on() -> None:
    labels = np.repeat([0, 1, 2], [1, 2, 3])
    splits = assign_splits(labels, [None] * 6, CONFIG)
    assert per_class(labels, splits["train"]) == [1, 1, 1]
    assert per_class(labels, splits["test"]) == [0, 1, 1]
    assert per_class(labels, splits["validation"]) == [0, 0, 1]


def test_fractions_are_rounded_half_up() -> None:
    pool = np.arange(25)
    assert len(draw_fraction(np.zeros(25, int), pool, 0.1, 0, "x")) == 3  # 2.5
    assert len(draw_fraction(np.zeros(15, int), pool[:15], 0.1, 0, "x")) == 2  # 1.5


def test_a_fixed_total_is_met_exactly() -> None:
    drawn = draw_stratified(LABELS, np.arange(len(LABELS)), 31, 0, "x")
    # shares 19.375, 9.6875, 1.9375: the two largest remainders are rounded up
    assert per_class(LABELS, drawn) == [19, 10, 2]
    with pytest.raises(ValueError, match="total"):
        draw_stratified(LABELS, np.arange(5), 6, 0, "x")


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset": ""},
        {"test_fraction": 0},
        {"validation_fraction": 1.0},
        {"test_fraction": float("nan")},
        {"test_fraction": 0.6, "validation_fraction": 0.4},
        {"min_images_per_class": 0},
        {"max_image_pixels": 10**9},
    ],
)
def test_impossible_settings_are_refused(fields: dict) -> None:
    with pytest.raises(ConfigError):
        DataConfig(**fields)


def test_classes_without_held_out_images_are_named_up_to_three() -> None:
    counts = {"train": [5, 5, 5, 5, 0], "validation": [1, 1, 1, 1, 0], "test": [0, 0, 0, 0, 0]}
    assert lacking_classes(counts, "abcde") == (
        "4 classes have no test images ('a', 'b', 'c', ...): figures say nothing of them",
    )
    counts = {"train": [5, 5], "validation": [0, 0], "test": [1, 0]}
    assert lacking_classes(counts, "ab") == (
        "2 classes have no validation images ('a', 'b'): choices between results know nothing of "
        "them",
        "class 'b' has no test images: figures say nothing of it",
    )
