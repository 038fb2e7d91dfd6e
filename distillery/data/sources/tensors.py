"""A safetensors file with `images` uint8 (N, C, H, W) and integer `labels` (N,).

Distilled bundles are such files, so a bundle can be distilled again or compared with its source.
Class names may stand in the metadata as a JSON list under "classes".
"""

import json
from functools import partial
from pathlib import Path

import numpy as np

from distillery.data.source import Item, Source, check_class_names, clean_text
from distillery.errors import DataError
from distillery.tensorfile import read_header


def open_tensors(path: Path, *, max_pixels: int, reference: str | None = None) -> Source:
    """Return the images of a safetensors file, memory-mapped.

    Args:
        path: The file.
        max_pixels: Larger images are refused.
        reference: Name of the dataset; None: the file's name.

    Raises:
        DataError: If the file is broken, lacks a tensor or has one of another kind.
    """
    reference = reference or path.name
    images, labels, classes = _read(path, reference)
    if not 0 < images.shape[2] * images.shape[3] <= max_pixels:
        raise DataError(
            f"the images of {reference!r} have {images.shape[2]} x {images.shape[3]} pixels; "
            f"expected 1 to {max_pixels} pixels"
        )
    values = np.unique(labels)
    if classes is None:
        names = tuple(str(value) for value in values.tolist())
        labels = np.searchsorted(values, labels)
    else:
        names = classes
        if values.min() < 0 or values.max() >= len(names):
            raise DataError(
                f"{reference!r} holds labels {values.min()} to {values.max()}, but there are "
                f"{len(names)} class names; mend the file's metadata"
            )
    check_class_names(names)
    items = [
        Item(f"{index:09d}", label, None, partial(images.__getitem__, index))
        for index, label in enumerate(labels.tolist())
    ]
    return Source(kind="tensors", reference=reference, class_names=names, items=items)


def _read(path: Path, reference: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    """Return (images as a memory map, labels, class names or None), all checked."""
    from safetensors import SafetensorError, safe_open

    try:
        # the stock reader checks header, offsets and file length; ours below only maps
        with safe_open(path, framework="np") as file:
            missing = {"images", "labels"} - set(file.keys())
            if missing:
                raise DataError(
                    f"{reference!r} lacks the tensor {sorted(missing)[0]!r}; expected 'images' "
                    "uint8 (N, C, H, W) and integer 'labels' (N,)"
                )
            kinds = {name: file.get_slice(name) for name in ("images", "labels")}
            shape = tuple(kinds["images"].get_shape())
            dtypes = kinds["images"].get_dtype(), kinds["labels"].get_dtype()
            if dtypes[0] != "U8" or len(shape) != 4 or shape[1] not in (1, 3):
                raise DataError(
                    f"'images' of {reference!r} must be uint8 (N, 1 or 3, H, W), it is "
                    f"{dtypes[0]} {shape}"
                )
            if dtypes[1] not in ("U8", "I32", "I64") or kinds["labels"].get_shape() != [shape[0]]:
                raise DataError(
                    f"'labels' of {reference!r} must be integers ({shape[0]},), they are "
                    f"{dtypes[1]} {tuple(kinds['labels'].get_shape())}"
                )
            labels = np.asarray(file.get_tensor("labels")).astype(np.int64)
            classes = _classes(file.metadata(), reference)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{reference!r} is no usable safetensors file ({error}); fetch it again"
        ) from error
    if not len(labels):
        raise DataError(f"{reference!r} holds no images; expected some of every class")
    entries, _, start = read_header(path)
    offset = start + entries["images"]["data_offsets"][0]
    return np.memmap(path, np.uint8, "r", offset, shape), labels, classes


def _classes(metadata: dict[str, str] | None, reference: str) -> tuple[str, ...] | None:
    """Return the class names in the metadata, if there are any."""
    if not metadata or "classes" not in metadata:
        return None
    try:
        names = json.loads(metadata["classes"])
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            return tuple(map(clean_text, names))
    except (ValueError, RecursionError):
        pass
    raise DataError(
        f"'classes' in the metadata of {reference!r} must be a JSON list of names; mend the file"
    )
