"""Groups of test images, whose worst accuracy tells how robust a student is.

Source: Vahidian et al. (2024), "cluster-min": k-means with seed 0 on the normalised pixels of all
classes together. Above 32 px the pixels are averaged down to at most 32 (docs/method.md).
"""

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

MIN_GROUP_SIZE = 30
"""Groups with fewer test images get no accuracy: there is not enough data."""


def test_groups(images: np.ndarray, *, num_groups: int) -> np.ndarray:
    """Return the group of each raw test image (N, C, H, W), int64 (N,) in [0, num_groups)."""
    side = images.shape[-1]
    factor = -(-side // 32)
    pixels = images[..., : side // factor * factor, : side // factor * factor].astype(np.float32)
    if factor > 1:
        count, channels, height, width = pixels.shape
        blocks = (count, channels, height // factor, factor, width // factor, factor)
        pixels = pixels.reshape(blocks).mean((3, 5))
    mean = pixels.mean((0, 2, 3), keepdims=True)
    std = pixels.std((0, 2, 3), keepdims=True) + 1e-6
    flat = ((pixels - mean) / std).reshape(len(pixels), -1)
    with threadpool_limits(limits=1):  # threads add up in any order; groups must not change
        kmeans = KMeans(min(num_groups, len(flat)), n_init=1, random_state=0)
        return kmeans.fit_predict(flat).astype(np.int64)


def group_accuracies(correct: np.ndarray, groups: np.ndarray, num_groups: int) -> list[dict]:
    """Return `{"id", "n_test", "accuracy"}` of each group; accuracy None below the minimum size.

    Args:
        correct: Whether each test image was labelled rightly, bool (N,).
        groups: Group of each, (N,).
        num_groups: How many groups there are.
    """
    rows = []
    for group in range(num_groups):
        members = groups == group
        size = int(members.sum())
        enough = size >= MIN_GROUP_SIZE
        value = float(correct[members].mean()) if enough else None
        rows.append({"id": f"g{group}", "n_test": size, "accuracy": value})
    return rows


def cluster_min(rows: list[dict]) -> float | None:
    """Return the worst accuracy of groups with enough data, None where there is none."""
    values = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return min(values) if values else None
