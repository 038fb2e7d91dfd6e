"""Safetensors files with canonical bytes: equal content gives an equal file.

The stock writer orders metadata by a hash map that changes from run to run; this one sorts keys.
Arrays of any dtype in `DTYPES`, C order, little endian. The strict reader is `bundle.read`; this
module's `read_tensors` is for files that we wrote ourselves.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from distillery.files import write_bytes

DTYPES = {
    "BOOL": np.dtype("bool"),
    "U8": np.dtype("uint8"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
"""Names of the safetensors format for the dtypes that we write."""


def encode_header(
    shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Return length and JSON header of a file with these arrays in sorted order, 8-byte padded.

    Raises:
        ValueError: If a dtype is none of `DTYPES`.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {key: metadata[key] for key in sorted(metadata)}}
    offset = 0
    for name in sorted(shapes):
        dtype, shape = shapes[name]
        if dtype not in names:
            raise ValueError(f"dtype of {name!r} must be one of {sorted(DTYPES)}, got {dtype}")
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def encode_tensors(
    arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the canonical safetensors bytes of `arrays` and string `metadata`."""
    # ascontiguousarray makes scalars one-dimensional, so the shape is taken from the original
    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    body = [np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays)]
    return b"".join([encode_header(shapes, metadata or {}), *body])


def write_tensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write `arrays` to `path` atomically, as canonical safetensors."""
    write_bytes(path, encode_tensors(arrays, metadata))


def read_header(path: Path) -> tuple[dict[str, dict], dict[str, str], int]:
    """Return (entries by name, metadata, offset of the first tensor byte) of a file of ours."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    return header, metadata, 8 + length


def map_tensors(path: Path, *, is_writable: bool = False) -> dict[str, np.ndarray]:
    """Return the arrays of a file of ours as memory maps, read-only or in place: no read yet."""
    header, _, start = read_header(path)
    arrays = {}
    for name, entry in header.items():
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        if 0 in shape:
            arrays[name] = np.zeros(shape, dtype)
            continue
        offset = start + entry["data_offsets"][0]
        mode: Literal["r+", "r"] = "r+" if is_writable else "r"
        arrays[name] = np.memmap(path, dtype=dtype, mode=mode, offset=offset, shape=shape)
    return arrays


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return (arrays in memory, metadata) of a file of ours."""
    arrays = {name: np.array(array) for name, array in map_tensors(path).items()}
    return arrays, read_header(path)[1]
