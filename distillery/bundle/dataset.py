"""A distilled dataset in memory: images, labels and what is known of each image.

Building one checks it (see `schema`), so that whoever holds one can rely on order, shapes and
ranges. NumPy only; torch is imported inside `.torch()`.
Legend: N images = K classes x images per class, C channels, H = W pixels, S scores.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from distillery.bundle import schema
from distillery.bundle.formation import decode_pictures

if TYPE_CHECKING:
    from torch.utils.data import TensorDataset


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DistilledDataset:
    """A checked distilled dataset, sorted by label and, inside a class, by rank.

    Raises:
        ValueError: If a field breaks a rule of the schema.
    """

    images: np.ndarray
    """uint8 (N, C, H, W), 0 to 255, RGB or gray, not normalised."""
    labels: np.ndarray
    """int64 (N,), index into `classes`."""
    weights: np.ndarray
    """float32 (N,), training weight; 1 unless robust weighting is on."""
    cluster_ids: np.ndarray
    """int32 (N,), cluster of the train split that the image stands for, -1 for none."""
    scores: np.ndarray
    """float32 (N, S), columns named by `score_names`."""
    seeds: np.ndarray
    """int64 (N,), noise seed of each image, -1 for one that began as a real image."""
    teacher_logits: np.ndarray | None = None
    """float16 (N, K), logits of a teacher for the image as it is, or None."""
    classes: tuple[str, ...]
    """Name of each class; any text."""
    images_per_class: int
    """Stored images of each class (IPC)."""
    formation_factor: int = 1
    """Pictures along each side of a stored image; above 1 images are packed, see `views`."""
    origin: schema.Origin = "generated"
    """Where the images come from."""
    score_names: tuple[str, ...] = ()
    """Names of the columns of `scores`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Provenance as text: source, base model, licence, config digest, norm_mean, norm_std."""

    def __post_init__(self) -> None:
        schema.check_names(self.classes, "classes", at_least=1)
        schema.check_names(self.score_names, "score_names", at_least=0)
        if self.images_per_class < 1:
            raise ValueError(f"images_per_class must be 1 or more, got {self.images_per_class}")
        arrays = self.arrays()
        shapes = {
            name: (schema.dtype_name(array.dtype), array.shape) for name, array in arrays.items()
        }
        num_classes, images_per_class = len(self.classes), self.images_per_class
        schema.check_shapes(
            shapes,
            num_classes=num_classes,
            images_per_class=images_per_class,
            num_scores=len(self.score_names),
        )
        schema.check_values(arrays, num_classes=num_classes, images_per_class=images_per_class)
        schema.check_metadata(self.metadata, channels=self.images.shape[1])
        schema.check_origin(self.origin)
        schema.check_formation(self.formation_factor, has_logits=self.teacher_logits is not None)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = " x ".join(str(size) for size in self.images.shape[1:])
        packed = (
            f", {self.pictures_per_image} pictures in each" if self.formation_factor > 1 else ""
        )
        return (
            f"DistilledDataset({len(self)} images of {size}, {len(self.classes)} classes, "
            f"{self.images_per_class} per class{packed})"
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the tensors by name, without those that are None."""
        arrays = {name: getattr(self, name) for name in schema.TENSORS}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def content_digest(self) -> str:
        """SHA-256 over the tensor bytes in the order of their names, as they lie in the file."""
        digest = hashlib.sha256()
        for _, array in sorted(self.arrays().items()):
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Recommended (mean, std) of each channel, for images scaled to [0, 1].

        From the metadata (usually the train split's), else from these images.
        """
        if "norm_mean" in self.metadata:
            mean, std = (json.loads(self.metadata[key]) for key in ("norm_mean", "norm_std"))
            return tuple(map(float, mean)), tuple(map(float, std))
        mean_bytes = self.images.mean(axis=(0, 2, 3), dtype=np.float64)  # (C,)
        std_bytes = self.images.std(axis=(0, 2, 3), dtype=np.float64)  # (C,)
        # a constant channel has no spread: one grey level keeps the division finite
        std = [round(float(max(value, 1.0)) / 255, 6) for value in std_bytes]
        return tuple(round(float(value) / 255, 6) for value in mean_bytes), tuple(std)

    @property
    def pictures_per_image(self) -> int:
        """Pictures that each stored image holds, V; 1 unless images are packed."""
        return self.formation_factor**2

    def views(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what to train on: the pictures, uint8 (N * V, C, H, W), and labels (N * V,).

        Packed images are cut and enlarged; others are returned as they are stored.
        """
        images = decode_pictures(self.images, self.formation_factor, self.normalisation[0])
        return images, np.repeat(self.labels, self.pictures_per_image)

    def torch(self, *, soft_labels: bool = False) -> "TensorDataset":
        """Return a torch dataset of (uint8 image (C, H, W), int64 label), of the `views`.

        Args:
            soft_labels: Add the teacher's float32 logits (K,) as a third item.

        Raises:
            ValueError: If soft labels are asked for and the bundle has none.
        """
        import torch  # here, so that reading a bundle does not need torch
        from torch.utils.data import TensorDataset

        if soft_labels and self.teacher_logits is None:
            raise ValueError(
                "this bundle has no teacher logits: distil with soft labels on, "
                "or call .torch() without soft_labels"
            )
        arrays = list(self.views())
        if soft_labels:
            arrays.append(np.asarray(self.teacher_logits, dtype=np.float32))
        return TensorDataset(*(torch.tensor(array) for array in arrays))
