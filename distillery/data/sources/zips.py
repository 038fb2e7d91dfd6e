"""The members of a zip file, with its directory taken for a claim that may be a lie.

Each member is decompressed up to its declared size and checked by its CRC, so a false size makes
a bad file, not a full disk. Overlapping members (Fifield 2019, "A better zip bomb") are refused.
"""

import os
import stat
import struct
import zipfile
from functools import partial
from pathlib import Path

from distillery.data.sources.members import Limits, Member, Opened, safe_parts
from distillery.errors import DataError

MAX_DIRECTORY_BYTES = 256 * 1024 * 1024
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
ENCRYPTED, UTF8_NAME = 0x1, 0x800
END_RECORD, END_RECORD_64 = b"PK\x05\x06", b"PK\x06\x06"
LOCATOR_64 = b"PK\x06\x07"


def open_zip(path: Path, limits: Limits) -> Opened:
    """Return the regular files of a zip.

    Raises:
        DataError: If it is broken, encrypted, too large once unpacked, or has links.
    """
    _check_directory_size(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError,
            struct.error, LookupError) as error:  # fmt: skip
        raise DataError(
            f"{path.name!r} is no usable zip file ({error}); it may be cut short, fetch it again"
        ) from error
    try:
        members, folders = _members(archive, os.path.getsize(path), limits)
    except BaseException:
        archive.close()
        raise
    return Opened(members, folders, archive.close)


def _members(
    archive: zipfile.ZipFile, archive_size: int, limits: Limits
) -> tuple[list[Member], list[tuple[str, ...]]]:
    infos = archive.infolist()
    limits.check_count(len(infos))
    if sum(info.compress_size for info in infos) > archive_size:
        raise DataError(
            "the zip claims more compressed bytes than it has, so its members overlap; "
            "it is broken or made to fill a disk"
        )
    limits.check_total(sum(info.file_size for info in infos), archive_size)
    members, folders = [], []
    for info in infos:
        name = _true_name(info)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(
                f"the zip has a link or special file, {name[:80]!r}; pack the files themselves"
            )
        if name.endswith(("/", "\\")) or kind == stat.S_IFDIR:
            folders.append(safe_parts(name))
            continue
        if info.flag_bits & ENCRYPTED:
            raise DataError("the zip is encrypted; pack it without a password")
        if info.compress_type not in METHODS:
            raise DataError(
                f"the zip uses compression method {info.compress_type}, which is not supported; "
                "pack it anew with the usual deflate"
            )
        members.append(Member(name, info.file_size, partial(_read, archive, info)))
    return members, folders


def _true_name(info: zipfile.ZipInfo) -> str:
    """Return the member's name; some packers write UTF-8 without saying so."""
    name = info.orig_filename
    if info.flag_bits & UTF8_NAME or name.isascii():
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as member:
        content = member.read(info.file_size)
        member.read(1)  # nothing is left; reading to the end makes zipfile compare the CRC
    if len(content) != info.file_size:
        raise ValueError(f"has {len(content)} bytes where {info.file_size} were declared")
    return content


def _check_directory_size(path: Path) -> None:
    """Refuse a directory so large that listing it alone would fill the memory."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 65_557))  # the end record and the longest comment behind it
        tail = file.read()
        position = tail.rfind(END_RECORD)
        if position < 0 or len(tail) - position < 22:
            raise DataError(
                f"{path.name!r} is a zip file without its directory; it may be cut short, "
                "fetch it again"
            )
        (directory_size,) = struct.unpack_from("<L", tail, position + 12)
        locator = tail[max(0, position - 20) : position]
        if locator.startswith(LOCATOR_64):
            file.seek(min(struct.unpack_from("<Q", locator, 8)[0], size))
            record = file.read(56)
            if len(record) == 56 and record.startswith(END_RECORD_64):
                (directory_size,) = struct.unpack_from("<Q", record, 40)
    if directory_size > MAX_DIRECTORY_BYTES:
        raise DataError(
            f"the directory of {path.name!r} has {directory_size} bytes, more than the "
            f"{MAX_DIRECTORY_BYTES} that are read; unpack it and name the folder"
        )
