"""Which images train, validate and test: given splits are respected, missing ones are drawn.

Draws are stratified and depend on the seed, the class and its number of images alone: adding a
class leaves the others' splits as they are. Shapes: N images, K classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from distillery.data.config import DataConfig
from distillery.data.source import Split
from distillery.errors import DataError
from distillery.seeds import numpy_rng

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
HELD_OUT: dict[Split, str] = {
    "validation": "choices between results know",
    "test": "figures say",
}
"""What a split without images of a class leaves out."""
VALIDATION_IS_TEST = (
    "the dataset has no test split, so its validation split is the test split and a new "
    "validation split was taken from its training images"
)


def settle_given(
    given: Sequence[Split | None],
) -> tuple[list[Split | None], tuple[str, ...]]:
    """Return the given splits as they will be used, and notes on what was read differently.

    A validation split without a test split becomes the test split; one split alone (or a dataset
    where some images have none) counts as no split.

    Raises:
        DataError: If there are held-out images but none to train on.
    """
    present = set(given)
    if present == {"validation", "test"}:
        raise DataError(
            "the dataset has validation and test images but no training images; "
            "add a train split, or put all images into one folder per class"
        )
    if len(present) < 2:
        return [None] * len(given), ()
    if None in present:
        return [None] * len(given), ("some images had no split, so all splits were drawn anew",)
    if "test" not in present:
        return ["test" if s == "validation" else s for s in given], (VALIDATION_IS_TEST,)
    return list(given), ()


def count_classes(
    labels: np.ndarray, splits: Mapping[str, np.ndarray], num_classes: int
) -> dict[str, list[int]]:
    """Return the number of images of each class in each split."""
    return {
        split: np.bincount(labels[splits[split]], minlength=num_classes).tolist()
        for split in SPLITS
    }


def lacking_classes(
    counts: Mapping[str, Sequence[int]], class_names: Sequence[str]
) -> tuple[str, ...]:
    """Return a note for each held-out split that has no image of a class that is trained on."""
    notes = []
    for split, what in HELD_OUT.items():
        lacking = [
            name
            for name, train, held_out in zip(
                class_names, counts["train"], counts[split], strict=True
            )
            if train and not held_out
        ]
        if len(lacking) == 1:
            notes.append(f"class {lacking[0]!r} has no {split} images: {what} nothing of it")
        elif lacking:
            shown = ", ".join(map(repr, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
            notes.append(
                f"{len(lacking)} classes have no {split} images ({shown}): {what} nothing of them"
            )
    return tuple(notes)


def assign_splits(
    labels: np.ndarray, given_splits: Sequence[Split | None], config: DataConfig
) -> dict[str, np.ndarray]:
    """Return the sorted int64 image indices of "train", "validation" and "test".

    Args:
        labels: int64 (N,), images in the order of their names.
        given_splits: The split that the dataset names for each image, or None, (N,).
        config: Fractions and seed for what has to be drawn.

    Raises:
        DataError: As `settle_given`.
    """
    settled = np.array(settle_given(given_splits)[0], dtype=object)
    everything = np.arange(len(labels), dtype=np.int64)
    seed = config.split_seed
    if "test" in settled:
        test = everything[settled == "test"]
        # a share of what is there to train on
        validation_fraction = config.validation_fraction
    else:
        test = draw_fraction(labels, everything, config.test_fraction, seed, "split", "test")
        # a share of all images: 0.2 and 0.1 leave 0.7
        validation_fraction = config.validation_fraction / (1 - config.test_fraction)
    rest = np.setdiff1d(everything, test)
    if "validation" in settled:
        validation = everything[settled == "validation"]
    else:
        validation = draw_fraction(labels, rest, validation_fraction, seed, "split", "validation")
    return {"train": np.setdiff1d(rest, validation), "validation": validation, "test": test}


def draw_fraction(
    labels: np.ndarray, pool: np.ndarray, fraction: float, seed: int, *path: str
) -> np.ndarray:
    """Return a share of each class's images in `pool`, at least one each, never all; sorted."""
    sizes = np.bincount(labels[pool])
    # half up, so that the number does not depend on being even
    counts = np.floor(sizes * fraction + 0.5).astype(np.int64)
    counts = np.minimum(np.maximum(counts, 1), np.maximum(sizes - 1, 0))
    return _draw(labels, pool, counts, seed, path)


def draw_stratified(
    labels: np.ndarray, pool: np.ndarray, total: int, seed: int, *path: str
) -> np.ndarray:
    """Return exactly `total` images of `pool`, classes in proportion (largest remainder); sorted.

    Raises:
        ValueError: If the pool has fewer images than `total`.
    """
    if not 0 <= total <= len(pool):
        raise ValueError(f"total must be 0 to {len(pool)}, got {total}")
    shares = np.bincount(labels[pool]) * (total / max(len(pool), 1))
    counts = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(counts - shares, kind="stable")  # largest first, then lowest label
    counts[by_remainder[: total - counts.sum()]] += 1
    return _draw(labels, pool, counts, seed, path)


def _draw(
    labels: np.ndarray, pool: np.ndarray, counts: np.ndarray, seed: int, path: tuple[str, ...]
) -> np.ndarray:
    """Return `counts[k]` random images of each class k, sorted."""
    chosen = [np.zeros(0, dtype=np.int64)]
    for label, count in enumerate(counts):
        members = pool[labels[pool] == label]
        chosen.append(numpy_rng(seed, *path, label).permutation(members)[:count])
    return np.sort(np.concatenate(chosen))
