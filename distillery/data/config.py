"""Which images to read and how to split them.

No torch, no Pillow: the API process validates requests with this file alone.
"""

from dataclasses import dataclass

from distillery.errors import ConfigError

LARGEST_MAX_IMAGE_PIXELS = 150_000_000
"""Pillow itself refuses images of 179 million pixels; nobody needs to come close."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Where the images come from, and which of them train, validate and test."""

    dataset: str = "digits"
    """`digits`, a path (folder, archive, Parquet, idx, safetensors) or a Hub id `org/name`."""
    revision: str | None = None
    """Commit, branch or tag of a Hub dataset."""
    label_column: str | None = None
    """Column of a Parquet dataset that holds the class; None: found by its type or name."""
    split_seed: int = 0
    """Seed of the splits that the dataset does not bring along."""
    test_fraction: float = 0.2
    """Share of each class held out for the test, where the dataset has no test split."""
    validation_fraction: float = 0.1
    """Share of each class's training images held out for validation (at least one image)."""
    min_images_per_class: int = 10
    """Training images that every class must have once corrupt files are dropped."""
    max_image_pixels: int = 50_000_000
    """Larger images are counted as bad files and never decoded."""
    allow_download: bool = False
    """Whether a Hub dataset that is not in the local cache may be fetched."""

    def __post_init__(self) -> None:
        """Refuse values that no dataset can be prepared with."""
        if not self.dataset:
            raise ConfigError("dataset must name a dataset, got an empty text; try 'digits'")
        for name in ("test_fraction", "validation_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.test_fraction + self.validation_fraction >= 1:
            raise ConfigError(
                "test_fraction and validation_fraction must leave images to train on, "
                f"got {self.test_fraction} and {self.validation_fraction}; lower one of them"
            )
        if self.min_images_per_class < 1:
            raise ConfigError(
                f"min_images_per_class must be 1 or more, got {self.min_images_per_class}"
            )
        if not 1 <= self.max_image_pixels <= LARGEST_MAX_IMAGE_PIXELS:
            raise ConfigError(
                f"max_image_pixels must be 1 to {LARGEST_MAX_IMAGE_PIXELS}, "
                f"got {self.max_image_pixels}"
            )
