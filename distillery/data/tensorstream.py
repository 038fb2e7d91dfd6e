"""Write a safetensors file of images whose number is known only at the end.

Room for the header of the largest possible number is left at the front; dropping a few bad files
hardly ever makes the header shorter, and where it does, the images move up once.
"""

import os
from pathlib import Path
from types import TracebackType

import numpy as np

from distillery.files import sync_folder
from distillery.tensorfile import encode_header

COPY_BYTES = 16 * 1024 * 1024


class ImageStream:
    """Images uint8 (C, H, W) appended to `path`, then their labels; canonical bytes.

    Nothing stands under `path` until `finish`; leaving the context without it leaves nothing.
    """

    def __init__(self, path: Path, max_images: int, shape: tuple[int, int, int]) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        self._shape = shape
        self._start = len(self._header(max_images))
        self._file = open(self._partial, "w+b")
        self._file.seek(self._start)

    def __enter__(self) -> "ImageStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def write(self, content: bytes) -> None:
        """Append the bytes of one image."""
        self._file.write(content)

    def finish(self, labels: np.ndarray) -> None:
        """Append int64 labels (N,), write the header and give the file its name."""
        header = self._header(len(labels))
        if len(header) != self._start:
            self._move(self._start, len(header))
        self._file.write(labels.astype("<i8").tobytes())
        self._file.truncate()
        self._file.seek(0)
        self._file.write(header)
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._partial, self._path)
        sync_folder(self._path.parent)

    def _header(self, num_images: int) -> bytes:
        shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
            "images": (np.dtype(np.uint8), (num_images, *self._shape)),
            "labels": (np.dtype("<i8"), (num_images,)),
        }
        return encode_header(shapes, {})

    def _move(self, source: int, target: int) -> None:
        """Move everything from `source` on up to `target`, which lies before it."""
        while True:
            self._file.seek(source)
            block = self._file.read(COPY_BYTES)
            self._file.seek(target)
            if not block:
                return
            self._file.write(block)
            source, target = source + len(block), target + len(block)
