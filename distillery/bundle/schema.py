"""What a bundle holds: names, dtypes and shapes of its tensors, and the rules of its metadata.

One set of checks for both directions: writing a dataset that breaks a rule is the caller's mistake
(`ValueError`), reading a file that does is a `BundleError`; the sentence is the same.
Legend: N images = K classes x images per class, C channels, H height, W width, S scores.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args

import numpy as np

from distillery.bundle.formation import FACTORS
from distillery.tensorfile import DTYPES

SCHEMA = "distilled-dataset/1"
Origin = Literal["generated", "refined", "real"]
"""Where images come from: a generator; real images moved by refinement; real images as they are."""
ORIGINS: tuple[Origin, ...] = get_args(Origin)
_IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
SOURCE_TYPES: dict[Origin, str] = {
    "generated": _IPTC + "trainedAlgorithmicMedia",
    "refined": _IPTC + "algorithmicallyEnhanced",
    "real": "unknown",  # a photo, a scan, a drawing: the source dataset does not say
}
"""IPTC's mark of each origin, in the metadata and, where it is known, in every PNG."""
FILE_NAME = "distilled.safetensors"
SHOWN_CHARACTERS = 60
"""Of a value that a sentence refuses."""
MAX_HEADER_BYTES = 1 << 20
"""The reader takes no longer header: class table, metadata and at most seven tensor entries."""

TENSORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "images": ("U8", ("N", "C", "H", "W")),
    "labels": ("I64", ("N",)),
    "weights": ("F32", ("N",)),
    "cluster_ids": ("I32", ("N",)),
    "scores": ("F32", ("N", "S")),
    "seeds": ("I64", ("N",)),
    "teacher_logits": ("F16", ("N", "K")),
}
"""Each tensor's dtype, as safetensors names it, and its shape."""
OPTIONAL_TENSORS = frozenset({"teacher_logits"})

RESERVED_KEYS = frozenset(
    {
        "channel_order",
        "classes",
        "content_digest",
        "digital_source_type",
        "format",
        "formation_factor",
        "image_size",
        "ipc",
        "schema",
        "score_names",
        "synthetic",
    }
)
"""Metadata that the writer fills in from the dataset itself; all other keys are the caller's."""
OPTIONAL_KEYS = frozenset({"formation_factor"})
"""Reserved, and there only where it says something: pictures along each side of a packed image."""


def check_shapes(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    *,
    num_classes: int,
    images_per_class: int,
    num_scores: int,
) -> None:
    """Hold names, dtype names and shapes of tensors against `TENSORS`.

    Raises:
        ValueError: With one sentence about the first tensor that does not fit.
    """
    for name in shapes:
        if name not in TENSORS:
            raise ValueError(f"tensor {name!r} is unknown, expected {sorted(TENSORS)}")
    for name in TENSORS:
        if name not in shapes and name not in OPTIONAL_TENSORS:
            raise ValueError(f"tensor {name!r} is missing")
    sizes = {"N": num_classes * images_per_class, "K": num_classes, "S": num_scores}
    for name, (dtype, shape) in shapes.items():
        expected_dtype, axes = TENSORS[name]
        if dtype != expected_dtype:
            raise ValueError(f"tensor {name!r} must have dtype {expected_dtype}, got {dtype}")
        expected = tuple(sizes.get(axis, axis) for axis in axes)
        fits = len(shape) == len(axes) and all(
            size == sizes.get(axis, size) for size, axis in zip(shape, axes, strict=True)
        )
        if not fits:
            raise ValueError(f"tensor {name!r} must have shape {_text(expected)}, got {shape}")
    _, (_, channels, height, width) = shapes["images"]
    if channels not in (1, 3) or height != width or height < 1:
        raise ValueError(
            "images must be square with 1 or 3 channels, "
            f"got {channels} channels of {height} x {width} pixels"
        )


def _text(shape: Sequence[object]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"


def check_values(
    arrays: Mapping[str, np.ndarray], *, num_classes: int, images_per_class: int
) -> None:
    """Check the values of tensors whose shapes are right: order, ranges and finite numbers.

    Raises:
        ValueError: With one sentence about the first value that does not fit.
    """
    labels = arrays["labels"]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1} for {num_classes} classes, "
            f"got {labels.min()}..{labels.max()}"
        )
    expected = np.repeat(np.arange(num_classes), images_per_class)
    if not np.array_equal(labels, expected):
        row = int(np.argmax(labels != expected))
        raise ValueError(
            f"images must be sorted by label with {images_per_class} per class, "
            f"but image {row} has label {labels[row]} instead of {expected[row]}"
        )
    for name in ("weights", "scores", "teacher_logits"):
        if name in arrays and not np.isfinite(arrays[name]).all():
            raise ValueError(f"tensor {name!r} must hold finite numbers, got NaN or infinity")
    if arrays["weights"].min() < 0:
        raise ValueError(f"weights must be 0 or more, got {arrays['weights'].min()}")
    if arrays["cluster_ids"].min() < -1:
        raise ValueError(f"cluster_ids must be -1 or more, got {arrays['cluster_ids'].min()}")


def check_formation(factor: int, *, has_logits: bool) -> None:
    """Check how many pictures a stored image holds along each side.

    Raises:
        ValueError: If it is not 1, 2 or 3, or packed images come with soft labels.
    """
    if factor not in (1, *FACTORS):
        raise ValueError(f"formation_factor must be 1, 2 or 3, got {factor}")
    if factor > 1 and has_logits:
        raise ValueError("packed images have no teacher_logits: a soft label is of one picture")


def check_origin(origin: str) -> None:
    """Check that it is known where images come from.

    Raises:
        ValueError: If it is none of `ORIGINS`.
    """
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, got {origin!r}")


def check_names(names: Sequence[str], what: str, *, at_least: int) -> None:
    """Check that names are distinct, non-empty text that can be written as UTF-8.

    Raises:
        ValueError: With one sentence about the first name that does not fit.
    """
    if len(names) < at_least:
        raise ValueError(f"{what} must hold at least {at_least} names, got {len(names)}")
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"{what} must be non-empty text, got {name!r}")
        if not _is_unicode(name):
            raise ValueError(f"{what} must be valid Unicode, got {name!r}")
        if name in seen:
            raise ValueError(f"{what} must be distinct, got {name!r} twice")
        seen.add(name)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def check_metadata(metadata: Mapping[str, str], *, channels: int) -> None:
    """Check the caller's own metadata: text throughout, and a usable normalisation.

    Raises:
        ValueError: With one sentence about the first entry that does not fit.
    """
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"metadata must be text, got {key!r}: {value!r}")
        if not _is_unicode(key + value):
            raise ValueError(f"metadata must be valid Unicode, got {key!r}: {value!r}")
        if key in RESERVED_KEYS:
            raise ValueError(f"metadata {key!r} is filled in by the writer, leave it out")
    if ("norm_mean" in metadata) != ("norm_std" in metadata):
        raise ValueError("metadata must hold norm_mean and norm_std together or neither")
    for key in ("norm_mean", "norm_std"):
        if key not in metadata:
            continue
        values = parse_json(metadata[key], f"metadata {key!r}")
        numbers = isinstance(values, list) and all(map(_is_finite_number, values))
        if not numbers or len(values) != channels:
            shown = metadata[key][:SHOWN_CHARACTERS]  # whole numbers may have thousands of digits
            raise ValueError(f"{key} must be {channels} finite numbers, got {shown}")
        if key == "norm_std" and min(values) <= 0:
            raise ValueError(f"norm_std must be above 0, got {metadata[key]}")


def _is_finite_number(value: Any) -> bool:
    """Say whether a value of JSON is a number that a float can hold."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:  # JSON has whole numbers of any length
        return False


def parse_json(text: str | bytes, what: str) -> Any:
    """Parse JSON strictly: no key twice, no NaN or infinity.

    Raises:
        ValueError: With one sentence that begins with `what`.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"{what} names {key!r} twice")
            result[key] = value
        return result

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{what} holds {constant}, which is not JSON")

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, object_pairs_hook=distinct, parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is not UTF-8 text ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is not valid JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deeply") from error


def dtype_name(dtype: np.dtype) -> str:
    """Return the safetensors name of `dtype`, or NumPy's where the format has none."""
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))
