"""The members of a tar file; a compressed one is first expanded into a nameless temporary file.

A compressed tar has no random access, and images are read in the order of their names. What tar
headers may make us allocate is bounded by `_BoundedFile`.
"""

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from distillery.data.sources.members import Limits, Member, Opened, safe_parts
from distillery.errors import DataError

BLOCK = 1024 * 1024
MAX_HEADER_BYTES = 1024 * 1024
"""Longest name or attribute record; real ones have some hundred bytes."""
XZ_MEMORY = 256 * 1024 * 1024
"""Memory an xz stream may ask for; the strongest preset needs 65 MiB."""
BROKEN = (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error)


def open_tar(path: Path, compression: str, limits: Limits) -> Opened:
    """Return the regular files of a tar file.

    Args:
        path: The file.
        compression: "", "gz", "xz" or "bz2".
        limits: What it may expand to.

    Raises:
        DataError: If it is broken, too large once expanded, or has links or special files.
    """
    file: IO[bytes] = open(path, "rb")
    try:
        if compression:
            with file as packed:
                file = _expand(packed, path, compression, limits)
        members, folders = _members(file, path.name, limits)
    except BaseException:
        file.close()
        raise
    return Opened(members, folders, file.close)


def _expand(packed: IO[bytes], path: Path, compression: str, limits: Limits) -> IO[bytes]:
    """Return the uncompressed content as a temporary file that has no name."""
    archive_size = os.path.getsize(path)
    expanded = tempfile.TemporaryFile()
    total = 0
    try:
        for block in _blocks(packed, compression):
            total += len(block)
            limits.check_total(total, archive_size)
            expanded.write(block)
        expanded.flush()
    except BaseException as error:
        expanded.close()
        if isinstance(error, BROKEN):
            raise DataError(
                f"{path.name!r} cannot be expanded after {total} bytes ({error}); it may be cut "
                f"short, or {tempfile.gettempdir()!r} full"
            ) from error
        raise
    return expanded


def _blocks(packed: IO[bytes], compression: str) -> Iterator[bytes]:
    """Yield the uncompressed content in pieces of bounded size."""
    if compression == "xz":
        yield from _xz_blocks(packed)
        return
    with gzip.open(packed) if compression == "gz" else bz2.open(packed) as stream:
        while block := stream.read(BLOCK):
            yield block


def _xz_blocks(packed: IO[bytes]) -> Iterator[bytes]:
    """As `_blocks`; `lzma.open` would grant any memory that the file asks for."""
    rest = b""
    while rest or (rest := packed.read(BLOCK)):
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        while not stream.eof:
            fresh = rest or (packed.read(BLOCK) if stream.needs_input else b"")
            if stream.needs_input and not fresh:
                raise EOFError("the compressed data end too early")
            rest = b""
            yield stream.decompress(fresh, BLOCK)
        rest = stream.unused_data.lstrip(b"\x00")  # streams may be padded


class _BoundedFile:
    """A file that refuses the huge reads which a hostile header makes tarfile ask for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise DataError(f"the tar has a header record of {size} bytes; pack it anew")
        return self._file.read(size)


def _members(
    file: IO[bytes], name: str, limits: Limits
) -> tuple[list[Member], list[tuple[str, ...]]]:
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    members: list[Member] = []
    folders: list[tuple[str, ...]] = []
    try:
        bounded: BinaryIO = _BoundedFile(file)  # type: ignore[assignment]
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            for count, info in enumerate(archive):
                limits.check_count(count + 1)
                if info.isdir():
                    folders.append(safe_parts(info.name))
                    continue
                _check_member(info, length)
                read = partial(_read, file.fileno(), info.offset_data, info.size)
                members.append(Member(info.name, info.size, read))
            _check_end(file, archive.offset)
    except (tarfile.TarError, RecursionError, *BROKEN) as error:
        raise DataError(
            f"{name!r} is no usable tar file ({error}); it may be cut short, fetch it again"
        ) from error
    limits.check_total(sum(member.size for member in members), length)
    return members, folders


def _check_member(info: tarfile.TarInfo, length: int) -> None:
    """Refuse what is no plain file, or reaches beyond the end."""
    if not info.isreg() or info.issparse():
        raise DataError(
            f"the tar has a link or special file, {info.name[:80]!r}; pack the files themselves"
        )
    if info.size < 0 or info.offset_data < 0 or info.offset_data + info.size > length:
        raise DataError(
            f"the tar ends inside of {info.name[:80]!r}; it is cut short, fetch it again"
        )


def _check_end(file: IO[bytes], offset: int) -> None:
    """Tell the end marker from a broken header, at which tarfile stops without a word."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise ValueError(f"there is no end marker at byte {offset}")


def _read(handle: int, offset: int, size: int) -> bytes:
    """Read one member; `pread` needs no shared position, so threads do not disturb each other."""
    return os.pread(handle, size, offset)
