"""Files that are either whole or absent, and the digests that identify them.

Everything is written to a temporary name beside its target, flushed to the disk and renamed, so
that a process killed at any moment leaves no half-written file under a final name.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries (its names) to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expand_user(path: str | Path) -> Path:
    """Return a path with `~` for its home; of a user who is not there, as it was written."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically and durably."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def json_bytes(value: Any) -> bytes:
    """Return `value` as readable JSON with sorted keys: equal values give equal bytes.

    Raises:
        ValueError: If a number is not finite, which JSON cannot hold.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path` atomically (see `json_bytes`)."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_bytes())


def digest_bytes(content: bytes) -> str:
    """Return the SHA-256 of `content` as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical bytes."""
    return digest_bytes(json_bytes(value))


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """Return one SHA-256 over names, dtypes, shapes and bytes of arrays, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\x1f{array.dtype.str}\x1f{array.shape}\x1f".encode())
        digest.update(array.data)
    return digest.hexdigest()
