"""The choice of the default refinement: folds without test images, pairs, and when it changes."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.refine_choice import (
    DEFAULT,
    NUM_FOLDS,
    VARIANTS,
    default_config,
    fold_of,
    summary,
    variant_of,
)
from distillery.data.dataset import Dataset


def test_folds_share_out_what_is_no_test_image() -> None:
    labels = np.arange(600) % 10
    splits = {
        "train": np.arange(0, 300), "validation": np.arange(300, 360), "test": np.arange(360, 600),
    }  # fmt: skip
    facts = {"class_names": list("abcdefghij"), "image_size": 8, "channels": 1}
    images = np.zeros((600, 1, 8, 8), np.uint8)
    whole = Dataset(facts=facts, images=images, labels=labels, splits=splits)
    folds = [fold_of(whole, number) for number in range(NUM_FOLDS)]
    judged = np.concatenate([fold.indices("test") for fold in folds])
    assert sorted(judged) == list(range(360))  # each once, and no test image
    for fold in folds:
        parts = [set(fold.indices(name).tolist()) for name in ("train", "validation", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 360
        assert all(np.bincount(labels[sorted(part)], minlength=10).min() > 0 for part in parts)


def test_every_variant_is_a_job_that_can_be_planned(tmp_path: Path) -> None:
    default = default_config(tmp_path)
    assert variant_of(default, DEFAULT, None, 0) == default
    for name in VARIANTS:
        config = variant_of(default, name, 7, 3)
        assert (config.seed, config.refine.num_steps) == (3, 7)


def _cells(values: list[float], seconds: float = 1.0) -> list[dict]:
    return [
        {"fold": n, "seed": 0, "accuracy": v, "cluster_min": v - 0.1, "seconds": seconds}
        for n, v in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("other", "choice"),
    [
        ([0.92, 0.93, 0.91], "dm"),  # ahead by .02 in each fold
        ([0.99, 0.90, 0.86], DEFAULT),  # ahead on average, not clearly
        ([0.95], DEFAULT),  # of one fold only
    ],
)
def test_the_default_changes_only_for_a_variant_that_is_clearly_ahead(
    other: list[float], choice: str
) -> None:
    result = summary({DEFAULT: _cells([0.90, 0.91, 0.89]), "dm": _cells(other)})
    assert result["choice"] == choice
    difference = result["rows"]["dm"]["against_default"]["accuracy"]
    pairs = np.array(other) - np.array([0.90, 0.91, 0.89])[: len(other)]
    assert difference["mean"] == pytest.approx(pairs.mean())


@pytest.mark.parametrize(
    ("lacking", "seconds", "choice"),
    [(0.0015, 0.5, "dm"), (0.0015, 0.6, DEFAULT), (0.003, 0.5, DEFAULT)],
)
def test_what_is_as_good_in_half_the_time_is_chosen(
    lacking: float, seconds: float, choice: str
) -> None:
    ours = [0.90, 0.91, 0.89]
    cells = {DEFAULT: _cells(ours), "dm": _cells([a - lacking for a in ours], seconds)}
    assert summary(cells)["choice"] == choice
