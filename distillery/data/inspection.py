"""Images that occur more than once, within the training split and across splits.

Test images that also lie in the training split make every accuracy look better than it is; the
report names them. Two images are the same if all their pixels are, after decoding and resizing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

NUM_NAMED = 5
"""Pairs of names that a finding lists."""


def inspect(
    digests: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    splits: Mapping[str, np.ndarray],
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return (duplicates within train, leakage of train into "validation" and "test").

    Args:
        digests: uint64 (N,), equal for equal pixels.
        labels: int64 (N,).
        names: Name of each image, (N,).
        splits: Image indices of "train", "validation" and "test".

    Returns:
        Findings as JSON values: `count` images that repeat an earlier (or a training) image,
        how many of those have another label (`other_label`), and the first pairs of `names`.
    """
    train = splits["train"]
    first = _first_of(digests, train)
    repeats = [i for i in train.tolist() if first[int(digests[i])] != i]
    duplicates = _finding(repeats, first, digests, labels, names)
    leakage = {}
    for split in ("validation", "test"):
        leaked = [i for i in splits[split].tolist() if int(digests[i]) in first]
        leakage[split] = _finding(leaked, first, digests, labels, names)
    return duplicates, leakage


def _first_of(digests: np.ndarray, indices: np.ndarray) -> dict[int, int]:
    """Return the first index of each digest."""
    first: dict[int, int] = {}
    for index in indices.tolist():
        first.setdefault(int(digests[index]), index)
    return first


def _finding(
    found: list[int],
    first: dict[int, int],
    digests: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    pairs = [(index, first[int(digests[index])]) for index in found]
    return {
        "count": len(pairs),
        "other_label": sum(int(labels[a] != labels[b]) for a, b in pairs),
        "names": [[names[a], names[b]] for a, b in pairs[:NUM_NAMED]],
    }
