"""Anybody's distilled set, opened for evaluation: a bundle, a job's folder, or class folders.

What it was made from is read where it says so; its classes are matched to those of the test set
by name. Shapes: N images, C channels, H and W, K classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.export import class_folder
from distillery.bundle.read import read_bundle
from distillery.bundle.schema import FILE_NAME, MAX_HEADER_BYTES, SCHEMA
from distillery.data.config import DataConfig
from distillery.data.decode import to_array
from distillery.data.sources.resolve import open_source
from distillery.data.survey import survey
from distillery.errors import BundleError, ConfigError, DataError
from distillery.evaluation.harness import ImageSet
from distillery.files import digest_arrays, read_json

JOB_FILE = "job.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class DistilledSet:
    """A distilled set with what is known of it."""

    name: str
    """Last part of its path."""
    kind: str
    """`bundle`, or the kind of dataset that it is stored as."""
    images: np.ndarray
    """What students train on, uint8 (N, C, H, W); of packed images their pictures."""
    labels: np.ndarray
    """int64 (N,), indices into `classes`."""
    teacher_logits: np.ndarray | None
    """Soft labels (N, K), or None."""
    classes: tuple[str, ...]
    data: DataConfig | None
    """The dataset that it was made from, where it says so."""
    digest: str
    """SHA-256 over its tensors."""
    pictures_per_image: int = 1
    """How many of `images` are one stored image."""

    @property
    def images_per_class(self) -> int:
        """Stored images of the largest class."""
        return int(np.bincount(self.labels, minlength=len(self.classes)).max()) // (
            self.pictures_per_image
        )

    @property
    def fewest_per_class(self) -> int:
        """Stored images of the smallest class."""
        return int(np.bincount(self.labels, minlength=len(self.classes)).min()) // (
            self.pictures_per_image
        )


def open_distilled(path: Path) -> DistilledSet:
    """Open a distilled set.

    Args:
        path: A bundle or its folder, the folder of a finished job, or any dataset on disk (class
            folders, archive, Parquet, safetensors) whose training images are the set.

    Raises:
        DataError, BundleError: If it cannot be read.
    """
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"there is no {path}: name a bundle, or a folder with a folder per class")
    job = path / JOB_FILE
    if job.is_file():
        if not (path / "bundle").is_dir():
            raise BundleError(
                f"the job in {path} has no bundle yet: finish it with distillery run --out {path}"
            )
        return _of_bundle(read_bundle(path / "bundle"), path, _data_of_job(job))
    if (path / FILE_NAME).is_file() or _is_bundle_file(path):
        return _of_bundle(read_bundle(path), path, None)
    return _of_source(path)


def _is_bundle_file(path: Path) -> bool:
    """Say whether a file claims to be a bundle; other safetensors files are plain datasets."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return SCHEMA.encode() in file.read(min(length, MAX_HEADER_BYTES))


def _data_of_job(path: Path) -> DataConfig | None:
    """Return the dataset of a job, None where its record cannot be read."""
    try:
        return DataConfig(**read_json(path)["config"]["data"])
    except (ValueError, KeyError, TypeError):
        return None


def _of_bundle(bundle: DistilledDataset, path: Path, data: DataConfig | None) -> DistilledSet:
    source = bundle.metadata.get("source_dataset")
    images, labels = bundle.views()
    return DistilledSet(
        name=path.resolve().name, kind="bundle", images=images, labels=labels,
        pictures_per_image=bundle.pictures_per_image,
        teacher_logits=bundle.teacher_logits, classes=bundle.classes,
        data=data or (DataConfig(dataset=source) if source else None),
        digest=bundle.content_digest,
    )  # fmt: skip


def _of_source(path: Path) -> DistilledSet:
    """Read every training image of a dataset on disk, at its own size."""
    with open_source(DataConfig(dataset=str(path))) as source:
        look = survey(source)
        items = [item for item in source.items if item.split in ("train", None)]
        images = []
        for item in items:
            try:
                image = item.read()
                images.append(
                    to_array(image, image_size=look.native_size, channels=1 if look.gray else 3)
                )
            except (ValueError, OSError, SyntaxError) as error:
                raise DataError(
                    f"{item.name!r} of the distilled set {error}: replace or remove it"
                ) from error
        labels = np.array([item.label for item in items], np.int64)
        counts = Counter(labels.tolist())
        empty = [n for i, n in enumerate(source.class_names) if not counts[i]]
        if empty:
            raise DataError(f"class {empty[0]!r} of the distilled set has no training images")
        arrays = {"images": np.stack(images), "labels": labels}
        return DistilledSet(
            name=path.resolve().name, kind=source.kind, images=arrays["images"], labels=labels,
            teacher_logits=None, classes=source.class_names, data=None,
            digest=digest_arrays(arrays),
        )  # fmt: skip


def match_classes(own: Sequence[str], of_test: Sequence[str]) -> tuple[np.ndarray, str | None]:
    """Return (label of the test set for each own label, a note where names were not enough).

    Names must be the same, or the folder names of an exported bundle; names that are just the
    numbers of the classes (`0`, `00001`) stand for the classes of the test set in their order.

    Raises:
        DataError: If they do not match.
    """
    if sorted(own) == sorted(of_test):
        return np.array([list(of_test).index(name) for name in own], np.int64), None
    exported = {class_folder(i, name, len(of_test)): i for i, name in enumerate(of_test)}
    if sorted(own) == sorted(exported):
        return np.array([exported[name] for name in own], np.int64), None
    numbers = [int(name) for name in own if name.isascii() and name.isdigit()]
    if sorted(numbers) == list(range(len(of_test))) and len(own) == len(of_test):
        note = "class folders are numbers, read as the classes of the test set in their order"
        return np.array(numbers, np.int64), note
    missing = sorted(set(of_test) - set(own))
    unknown = sorted(set(own) - set(of_test))
    parts = [f"lacks {_some(missing)}"] if missing else []
    parts += [f"has {_some(unknown)}, which the test set does not know"] if unknown else []
    raise DataError(
        f"the classes do not match the test set: the distilled set ({len(own)} classes) "
        f"{' and '.join(parts)}; name the right --dataset, or rename the class folders"
    )


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" * (len(names) > 3))


def fitted_set(distilled: DistilledSet, labels: np.ndarray, image_size: int) -> ImageSet:
    """Return a set with the labels of the test set, at the size that students see.

    Args:
        distilled: The set.
        labels: Label of the test set for each of its own, (K,).
        image_size: At most its own size.
    """
    images, logits = distilled.images, distilled.teacher_logits
    if images.shape[-1] != image_size:
        images = np.stack([resized(image, image_size) for image in images])
    if logits is not None:
        logits = logits[:, np.argsort(labels)]
    return ImageSet(images, labels[distilled.labels], logits)


def resized(image: np.ndarray, image_size: int) -> np.ndarray:
    """Return an image, uint8 (C, H, W), at another size (Lanczos)."""
    return to_array(image, image_size=image_size, channels=len(image))


def data_config(
    distilled: DistilledSet, reference: str | None, *, allow_download: bool
) -> DataConfig:
    """Return which dataset tests the set: the one that was named, else the one it says itself.

    Raises:
        ConfigError: If neither is known.
    """
    config = distilled.data if reference is None else DataConfig(dataset=reference)
    if config is None:
        raise ConfigError(
            f"{distilled.name} does not say what it was made from: name the dataset whose test "
            "split judges it with --dataset"
        )
    return replace(config, allow_download=allow_download or config.allow_download)


def facts_of(distilled: DistilledSet) -> Mapping[str, Any]:
    """Return what a result says of the set."""
    fewest, most = distilled.fewest_per_class, distilled.images_per_class
    return {
        "name": distilled.name,
        "kind": distilled.kind,
        "num_classes": len(distilled.classes),
        "num_images": len(distilled.labels) // distilled.pictures_per_image,
        "pictures_per_image": distilled.pictures_per_image,
        "images_per_class": most,
        "fewest_per_class": fewest,
        "image_size": int(distilled.images.shape[-1]),
        "channels": int(distilled.images.shape[1]),
        "has_soft_labels": distilled.teacher_logits is not None,
        "digest": distilled.digest,
    }
