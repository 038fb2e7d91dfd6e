"""The strict reader of `distilled.safetensors`: everything is checked before it is handed out.

A bundle may come from anyone. The header is parsed here and trusted in nothing: its length, its
JSON, each tensor's place in the file, then names, dtypes, shapes, values and the digest.
"""

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from distillery.bundle import schema
from distillery.bundle.dataset import DistilledDataset
from distillery.bundle.formation import FACTORS
from distillery.errors import BundleError
from distillery.tensorfile import DTYPES

ADVICE = "the file is damaged or not a Distillery bundle, so fetch it again or distil again"


def read_bundle(path: Path) -> DistilledDataset:
    """Read and verify a bundle: the file, or a folder that holds `distilled.safetensors`.

    Raises:
        BundleError: If there is no such file, or it breaks a rule of the schema.
    """
    if path.is_dir():
        path = path / schema.FILE_NAME
    if not path.is_file():
        raise BundleError(f"{path} is not a file: name a bundle ({schema.FILE_NAME}) or its folder")
    with open(path, "rb") as file:
        return _read(file, os.fstat(file.fileno()).st_size, str(path))


def decode_bundle(content: bytes, *, name: str = "bundle") -> DistilledDataset:
    """Verify and return the bundle in `content`; `name` stands in front of error sentences.

    Raises:
        BundleError: If it breaks a rule of the schema.
    """
    return _read(io.BytesIO(content), len(content), name)


def _read(file: io.BufferedIOBase, size_bytes: int, name: str) -> DistilledDataset:
    try:
        header = _read_header(file, size_bytes)
        metadata = _take_metadata(header)
        table = _class_table(metadata)
        body_bytes = size_bytes - file.tell()
        entries = {key: _entry(key, value) for key, value in header.items()}
        _check_places(entries, body_bytes)
        schema.check_shapes(
            {key: entry[:2] for key, entry in entries.items()},
            num_classes=len(table["classes"]),
            images_per_class=table["images_per_class"],
            num_scores=len(table["score_names"]),
        )
        # only now, when the header makes sense, is memory taken for the tensors
        arrays: dict[str, Any] = _read_arrays(file, entries, body_bytes)
        own = {key: text for key, text in metadata.items() if key not in schema.RESERVED_KEYS}
        dataset = DistilledDataset(**arrays, **table, metadata=own)
        _check_claims(metadata, dataset)
    except ValueError as error:
        raise BundleError(f"{name}: {error}; {ADVICE}") from error
    return dataset


def _read_header(file: io.BufferedIOBase, size_bytes: int) -> dict[str, Any]:
    """Return the header of a file that is long enough for it."""
    if size_bytes < 8:
        raise ValueError(f"a bundle begins with 8 bytes of header length, got {size_bytes} bytes")
    length = int.from_bytes(file.read(8), "little")
    if length > schema.MAX_HEADER_BYTES:
        raise ValueError(f"the header may take {schema.MAX_HEADER_BYTES} bytes, it claims {length}")
    if 8 + length > size_bytes:
        raise ValueError(f"the header claims {length} bytes, the file has {size_bytes - 8} left")
    header = schema.parse_json(file.read(length), "the header")
    if not isinstance(header, dict):
        raise ValueError(f"the header must be a JSON object, got {type(header).__name__}")
    return header


def _take_metadata(header: dict[str, Any]) -> dict[str, str]:
    """Take the metadata out of the header, as text, of a schema that this reader knows."""
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict):
        raise ValueError("the header has no __metadata__ object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ValueError(f"metadata {key!r} must be text, got {type(value).__name__}")
    found = metadata.get("schema")
    if found != schema.SCHEMA:
        raise ValueError(f"the schema must be {schema.SCHEMA!r}, got {found!r}")
    for key in sorted(schema.RESERVED_KEYS - schema.OPTIONAL_KEYS):
        if key not in metadata:
            raise ValueError(f"metadata {key!r} is missing")
    return metadata


def _class_table(metadata: dict[str, str]) -> dict[str, Any]:
    """Return classes, images per class and score names from the metadata."""
    names = {}
    for key in ("classes", "score_names"):
        value = schema.parse_json(metadata[key], f"metadata {key!r}")
        if not isinstance(value, list):
            raise ValueError(f"metadata {key!r} must be a JSON list, got {metadata[key]:.80}")
        names[key] = tuple(value)
    schema.check_names(names["classes"], "classes", at_least=1)
    schema.check_names(names["score_names"], "score_names", at_least=0)
    factor = metadata.get("formation_factor", "1")
    if "formation_factor" in metadata and factor not in map(str, FACTORS):
        raise ValueError(f"metadata 'formation_factor' must be 2 or 3, got {factor[:80]!r}")
    return {
        **names,
        "images_per_class": _whole_number(metadata, "ipc"),
        "formation_factor": int(factor),
        "origin": _origin(metadata["digital_source_type"]),
    }


def _origin(source_type: str) -> schema.Origin:
    """Return where the images come from."""
    for origin, known in schema.SOURCE_TYPES.items():
        if source_type == known:
            return origin
    choices = ", ".join(schema.SOURCE_TYPES.values())
    raise ValueError(
        f"metadata 'digital_source_type' must be one of {choices}, got {source_type[:80]!r}"
    )


def _whole_number(metadata: dict[str, str], key: str) -> int:
    text = metadata[key]
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and int(text) > 0):
        raise ValueError(f"metadata {key!r} must be a whole number above 0, got {text[:80]!r}")
    return int(text)


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Return (dtype name, shape, begin, end) of a header entry whose length fits its shape."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} must have dtype, shape and data_offsets")
    dtype, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has the unknown dtype {dtype!r}")
    for what, numbers in (("shape", shape), ("data_offsets", place)):
        # `type is int`: JSON's true would pass as 1
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"tensor {name!r} must have whole numbers as {what}, got {numbers!r}")
    if len(place) != 2:
        raise ValueError(f"tensor {name!r} must have two data_offsets, got {len(place)}")
    length = DTYPES[dtype].itemsize
    for size in shape:
        length *= size
    if place[1] - place[0] != length:
        raise ValueError(
            f"tensor {name!r} of shape {shape} takes {length} bytes, "
            f"its data_offsets span {place[1] - place[0]}"
        )
    return dtype, tuple(shape), place[0], place[1]


def _check_places(
    entries: dict[str, tuple[str, tuple[int, ...], int, int]], body_bytes: int
) -> None:
    """Check that the tensors fill the rest of the file without gap or overlap."""
    reached = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != reached:
            raise ValueError(f"tensor {name!r} must begin at byte {reached}, got {begin}")
        reached = end
    if reached != body_bytes:
        raise ValueError(f"the tensors take {reached} bytes, the file holds {body_bytes} for them")


def _read_arrays(
    file: io.BufferedIOBase,
    entries: dict[str, tuple[str, tuple[int, ...], int, int]],
    body_bytes: int,
) -> dict[str, np.ndarray]:
    body = bytearray(body_bytes)
    if file.readinto(body) != body_bytes:
        raise ValueError("the file ended while it was being read")
    arrays = {}
    for name, (dtype, shape, begin, _) in entries.items():
        count = math.prod(shape)
        # frombuffer refuses to begin at the very end, where an empty tensor may lie
        array = np.frombuffer(body, DTYPES[dtype], count, begin) if count else np.empty(0)
        array = array.astype(DTYPES[dtype], copy=False).reshape(shape)
        # tensors lie back to back, so one may begin between two multiples of its item size
        arrays[name] = np.require(array, requirements="A")
    return arrays


def _check_claims(metadata: dict[str, str], dataset: DistilledDataset) -> None:
    """Check what the metadata says of the tensors against the tensors."""
    channels, image_size = dataset.images.shape[1], dataset.images.shape[-1]
    expected = {
        "channel_order": "RGB" if channels == 3 else "L",
        "image_size": str(image_size),
        "content_digest": dataset.content_digest,
        "synthetic": "true" if dataset.origin == "generated" else "false",
    }
    for key, value in expected.items():
        if metadata[key] != value:
            raise ValueError(
                f"metadata {key!r} says {json.dumps(metadata[key])[:80]}, the tensors say {value!r}"
            )
