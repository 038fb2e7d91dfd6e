"""Images that occur more than once, within the training and test splits and across splits.

Test images that also lie in the training split make every accuracy look better than it is; the
report names them, as it does test images that choices were made on, or that count twice. Two
images are the same if all their pixels are, after decoding and resizing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_NAMED = 5
"""Pairs of names that a finding lists."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """Findings as JSON values.

    Each has `count` images that are also elsewhere, how many of those have another label there
    (`other_label`), and the first pairs of `names`.
    """

    duplicates: dict[str, Any]
    """Training images that repeat an earlier one."""
    leakage: dict[str, dict[str, Any]]
    """Images of "validation" and of "test" that are also in the training split."""
    test_repeats: dict[str, dict[str, Any]]
    """Test images that are also in "validation", or repeat an earlier one of "test"."""


def inspect(
    digests: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    splits: Mapping[str, np.ndarray],
) -> Repeats:
    """Return which images occur more than once, and where.

    Args:
        digests: uint64 (N,), equal for equal pixels.
        labels: int64 (N,).
        names: Name of each image, (N,).
        splits: Image indices of "train", "validation" and "test".
    """
    keys = digests.tolist()
    first = {split: _first_of(keys, indices) for split, indices in splits.items()}

    def found(split: str, among: str) -> dict[str, Any]:
        earliest = first[among]
        pairs = [(i, earliest[keys[i]]) for i in splits[split].tolist() if keys[i] in earliest]
        return _finding([(i, j) for i, j in pairs if i != j], labels, names)

    return Repeats(
        duplicates=found("train", "train"),
        leakage={split: found(split, "train") for split in ("validation", "test")},
        test_repeats={split: found("test", split) for split in ("validation", "test")},
    )


def _first_of(keys: Sequence[int], indices: np.ndarray) -> dict[int, int]:
    """Return the first index of each digest."""
    first: dict[int, int] = {}
    for index in indices.tolist():
        first.setdefault(keys[index], index)
    return first


def _finding(
    pairs: list[tuple[int, int]], labels: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    return {
        "count": len(pairs),
        "other_label": sum(int(labels[a] != labels[b]) for a, b in pairs),
        "names": [[names[a], names[b]] for a, b in pairs[:NUM_NAMED]],
    }
