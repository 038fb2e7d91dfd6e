"""The score stage hands each class to the method that the job names."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from generator.config import DistillConfig
from generator.stages.score import Candidates, choose

POOL = np.array([253, 1, 5, 9, 30], np.uint8)
REALS = np.array([0, 1, 2, 9, 10, 11], np.uint8)


def images(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1, 1, 1)


def chosen(method: str, *, is_sound: bool = True) -> list[int]:
    """Return the choice for two classes that hold the same images."""
    config: Any = DistillConfig(images_per_class=2)
    config = replace(
        config, select=replace(config.select, method=method, cvar_weight=0.0),
        proxy=replace(config.proxy, num_clusters=2),
    )  # fmt: skip
    labels = np.repeat([0, 1], len(REALS))
    split = (images(np.tile(REALS, 2)), labels)
    reals: Any = SimpleNamespace(
        num_classes=2, dataset=SimpleNamespace(split=lambda name: {"train": split}[name])
    )
    pool = Candidates(
        images(np.tile(POOL, 2)), np.repeat([0, 1], len(POOL)), np.zeros(10, np.int64)
    )
    clusters = labels * 2 + np.tile([0, 0, 0, 1, 1, 1], 2)
    picks, stands_for = choose(
        config, reals, lambda raw: torch.from_numpy(raw).float().flatten(1), pool, clusters,
        is_sound=is_sound,
    )  # fmt: skip
    assert ((picks < len(POOL)) == (stands_for < 2)).all()  # each class among its own
    return picks.tolist()


@pytest.mark.parametrize(
    ("method", "expected"),
    [("random", [0, 1]), ("herding", [2, 3]), ("k_center", [2, 3]), ("greedy_cvar", [2, 3]),
     ("k_medoids", [1, 3])],
)  # fmt: skip
def test_each_method_chooses_in_each_class(method: str, expected: list[int]) -> None:
    found = chosen(method)
    assert sorted(found[:2]) == expected and sorted(i - 5 for i in found[2:]) == expected


def test_a_proxy_that_is_not_sound_chooses_nothing_whatever_the_method() -> None:
    assert chosen("herding", is_sound=False) == [0, 1, 5, 6]
