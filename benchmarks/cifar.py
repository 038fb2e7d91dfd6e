"""CIFAR-10 for the benchmarks: raw arrays from parquet files, with a validation split of our own.

The validation images are cut from the train file, behind those that distillation may use, so that
settings can be searched without a look at the test images.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

NUM_CLASSES = 10
VALIDATION_PER_CLASS = 200


@dataclass(frozen=True, slots=True)
class Split:
    """Raw uint8 images (N, C, H, W) and labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, slots=True)
class Cifar:
    """The three splits."""

    train: Split
    validation: Split
    test: Split


def load_cifar(
    data: Path, cache: Path, *, per_class: int = 1000, has_validation: bool = True
) -> Cifar:
    """Return CIFAR-10 with `per_class` training images a class; decoded once, then from `cache`.

    Args:
        data: Folder with `train.parquet` and `test.parquet`.
        cache: Folder for the decoded arrays.
        per_class: The first images of each class; the next 200 are the validation split.
        has_validation: Off where no setting is searched: then all 5,000 can be training images.
    """
    path = cache / f"cifar10-{per_class}{'' if has_validation else '-all'}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        everything = _decoded(data / "train.parquet")
        train, validation = _cut(
            everything, per_class, VALIDATION_PER_CLASS if has_validation else 0
        )
        test = _decoded(data / "test.parquet")
        parts = {"train": train, "validation": validation, "test": test}
        arrays = {
            f"{name}_{field}": getattr(split, field)
            for name, split in parts.items()
            for field in ("images", "labels")
        }
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, allow_pickle=False, **arrays)
        partial.replace(path)
    with np.load(path) as stored:
        splits = {
            name: Split(stored[f"{name}_images"], stored[f"{name}_labels"])
            for name in ("train", "validation", "test")
        }
    return Cifar(**splits)


def _cut(split: Split, per_class: int, most: int) -> tuple[Split, Split]:
    """Return the first images of each class, and up to `most` behind them."""
    train, validation = [], []
    for label in range(NUM_CLASSES):
        members = np.flatnonzero(split.labels == label)
        validation_size = min(most, len(members) // 10)
        train.append(members[: min(per_class, len(members) - validation_size)])
        validation.append(members[len(train[-1]) :][:validation_size])
    first, second = np.concatenate(train), np.concatenate(validation)
    return (
        Split(split.images[first], split.labels[first]),
        Split(split.images[second], split.labels[second]),
    )


def _decoded(path: Path) -> Split:
    """Return the images of a parquet file with a column of encoded images and one of labels."""
    table = parquet.read_table(path)
    names = table.column_names
    image_column = next(name for name in names if name in ("img", "image"))
    label_column = next(name for name in names if name in ("label", "labels"))
    images = [
        np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")).transpose(2, 0, 1)
        for cell in table[image_column].to_pylist()
    ]
    return Split(np.stack(images), np.array(table[label_column].to_pylist(), np.int64))
