"""The idx files of MNIST and its kin (Fashion-MNIST, KMNIST, EMNIST), plain or gzipped.

Format: two zero bytes, type 8 (uint8), number of dimensions, the dimensions as big-endian uint32,
then the values. Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import re
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from distillery.data.source import Item, Source, Split, check_class_names
from distillery.errors import DataError

PATTERN = re.compile(
    r"(?P<prefix>.*?)(?P<split>train|t10k|test)[-_.](?P<kind>images|labels)"
    r"[-_.]idx[13][-_.]ubyte(?P<packed>\.gz)?"
)
SPLIT_OF: dict[str, Split] = {"train": "train", "t10k": "test", "test": "test"}
MAX_BYTES = 4 * 1024**3
UINT8_MAGIC = bytes([0, 0, 8])


def idx_folder(folder: Path) -> Path | None:
    """Return `folder`, or its subfolder as torchvision makes it, where idx files lie; or None."""
    for candidate in (folder, folder / "raw", folder / "MNIST" / "raw"):
        if candidate.is_dir() and any(PATTERN.fullmatch(p.name) for p in candidate.iterdir()):
            return candidate
    return None


def is_idx_file(path: Path) -> bool:
    """Say whether a file is one of idx, by its name or its first bytes."""
    if PATTERN.fullmatch(path.name):
        return True
    with open(path, "rb") as file:
        return file.read(4) in (UINT8_MAGIC + b"\1", UINT8_MAGIC + b"\3")


def open_idx(folder: Path, *, max_pixels: int, reference: str | None = None) -> Source:
    """Return the images of a folder of idx files; classes are named by their numbers.

    Args:
        folder: Where the files lie.
        max_pixels: Larger images are refused.
        reference: Name of the dataset; None: the folder's name.

    Raises:
        DataError: If a file is missing or broken, or the files belong to several datasets.
    """
    reference = reference or folder.name
    files = _files(folder, reference)
    arrays = {key: read_idx(path) for key, path in files.items()}
    items_of: list[tuple[Split, np.ndarray, np.ndarray]] = []
    for split in sorted({split for split, _ in files}):
        if (split, "images") not in files or (split, "labels") not in files:
            raise DataError(
                f"{reference!r} lacks the images or the labels of {split!r}; expected both, such "
                "as train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"
            )
        images, labels = arrays[split, "images"], arrays[split, "labels"]
        _check(images, labels, split, max_pixels)
        items_of.append((SPLIT_OF[split], images, labels))

    values = np.unique(np.concatenate([labels for _, _, labels in items_of]))
    names = tuple(str(value) for value in values.tolist())
    check_class_names(names)
    items = [
        Item(f"{split}/{index:09d}", label, split, partial(_read, images, index))
        for split, images, labels in items_of
        for index, label in enumerate(np.searchsorted(values, labels).tolist())
    ]
    return Source(
        kind="idx", reference=reference, class_names=names,
        items=sorted(items, key=lambda item: item.name),
    )  # fmt: skip


def read_idx(path: Path) -> np.ndarray:
    """Return the uint8 array in an idx file.

    Raises:
        DataError: If the file is broken, or holds more or fewer values than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            start = file.read(4)
            if len(start) != 4 or start[:3] != UINT8_MAGIC or start[3] not in (1, 3):
                raise ValueError("it does not start like one")
            shape = struct.unpack(f">{start[3]}I", file.read(4 * start[3]))
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise ValueError(f"it claims {size} bytes, more than the {MAX_BYTES} that are read")
            content = file.read(size + 1)  # one more, to see that it ends there
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path.name!r} is no usable idx file ({error}); fetch it again") from error
    if len(content) != size:
        raise DataError(
            f"{path.name!r} should hold {size} values, it holds "
            f"{'more' if len(content) > size else len(content)}; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _files(folder: Path, reference: str) -> dict[tuple[str, str], Path]:
    """Return the file of each (train|t10k|test, images|labels); plain ones before gzipped."""
    matches = [(match, p) for p in sorted(folder.iterdir())
               if (match := PATTERN.fullmatch(p.name)) and p.is_file()]  # fmt: skip
    prefixes = sorted({match["prefix"] for match, _ in matches})
    if len(prefixes) > 1:
        raise DataError(
            f"{reference!r} holds the idx files of several datasets, {prefixes}; "
            "give each a folder of its own"
        )
    matches.sort(key=lambda pair: pair[0]["packed"] is None)
    return {(match["split"], match["kind"]): path for match, path in matches}


def _check(images: np.ndarray, labels: np.ndarray, split: str, max_pixels: int) -> None:
    """Refuse arrays that do not belong together."""
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"the {split!r} images have shape {images.shape} and the labels {labels.shape}; "
            "expected as many labels as images"
        )
    if not 0 < images.shape[1] * images.shape[2] <= max_pixels:
        raise DataError(
            f"the {split!r} images have {images.shape[1]} x {images.shape[2]} pixels; expected 1 "
            f"to {max_pixels} pixels"
        )


def _read(images: np.ndarray, index: int) -> np.ndarray:
    return images[index][None]  # (1, H, W)
