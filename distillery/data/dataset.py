"""A prepared dataset as later stages read it: memory-mapped images, labels, splits and facts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillery.data.prepare import FACTS_FILE, IMAGES_FILE, SPLITS_FILE
from distillery.errors import DataError
from distillery.files import read_json
from distillery.tensorfile import map_tensors, read_tensors


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Images of one size with labels and splits; see `prepare` for the files."""

    facts: dict[str, Any]
    """The content of `dataset.json`."""
    images: np.ndarray
    """uint8 (N, C, H, W), a memory map."""
    labels: np.ndarray
    """int64 (N,), indices into `class_names`."""
    splits: dict[str, np.ndarray]
    """Sorted int64 indices of "train", "validation" and "test"."""

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Open what `prepare_dataset` wrote into `folder`.

        Raises:
            DataError: If the folder holds no prepared dataset.
        """
        if not (folder / FACTS_FILE).exists():
            raise DataError(
                f"expected a prepared dataset in {str(folder)!r}, found no {FACTS_FILE}; "
                "run the prepare stage first"
            )
        arrays = map_tensors(folder / IMAGES_FILE)
        return cls(
            facts=read_json(folder / FACTS_FILE),
            images=arrays["images"],
            labels=np.array(arrays["labels"]),
            splits=read_tensors(folder / SPLITS_FILE)[0],
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class table."""
        return tuple(self.facts["class_names"])

    @property
    def image_size(self) -> int:
        """Height and width."""
        return self.facts["image_size"]

    @property
    def channels(self) -> int:
        """1 or 3."""
        return self.facts["channels"]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of class table, images, labels and splits."""
        return self.facts["fingerprint"]

    def indices(self, split: str) -> np.ndarray:
        """Return the sorted int64 indices of a split.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"split must be one of {sorted(self.splits)}, got {split!r}")
        return self.splits[split]

    def split(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (images uint8 (n, C, H, W) in memory, labels int64 (n,)) of a split."""
        indices = self.indices(split)
        return np.asarray(self.images[indices]), self.labels[indices]
