"""A .zip, .tar, .tar.gz, .tar.xz or .tar.bz2 of class folders, read where it lies.

Archives come from strangers. Nothing is ever unpacked under a name from the archive; only regular
files are read; links and names that point elsewhere are refused, as are archives that expand
beyond `Limits`. The kind is told by the content, not by the file's ending.
"""

from dataclasses import dataclass
from pathlib import Path

from distillery.data.decode import MAX_FILE_BYTES, open_image
from distillery.data.source import Readable, Source
from distillery.data.sources.layout import Entry, arrange, is_hidden, is_image_name
from distillery.data.sources.members import Limits, Member, Opened, safe_parts
from distillery.data.sources.tars import open_tar
from distillery.data.sources.zips import open_zip
from distillery.errors import DataError


def open_archive(
    path: Path, *, max_pixels: int, reference: str | None = None, limits: Limits | None = None
) -> Source:
    """Return the images in an archive of class folders.

    Args:
        path: The archive.
        max_pixels: Larger images fail when they are read.
        reference: Name of the dataset; None: the file's name.
        limits: What the archive may expand to; None: the defaults of `Limits`.

    Raises:
        DataError: If the archive is broken, hostile or no archive, or has no class folders.
    """
    reference = reference or path.name
    limits = limits or Limits()
    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        opened = open_zip(path, limits)
    elif (compression := compression_of(start)) is not None:
        opened = open_tar(path, compression, limits)
    else:
        raise DataError(
            f"expected a .zip, .tar, .tar.gz, .tar.xz or .tar.bz2 file, {reference!r} starts like "
            "none of them; pack the dataset anew"
        )
    try:
        names, items, notes = arrange(_entries(opened, max_pixels), reference, opened.folders)
    except BaseException:
        opened.close()
        raise
    return Source(
        kind="archive", reference=reference, class_names=names, items=items, notes=notes,
        close=opened.close,
    )  # fmt: skip


def compression_of(start: bytes) -> str | None:
    """Return "gz", "xz", "bz2" or "" for (compressed) tar files by their first bytes, or None."""
    for magic, compression in ((b"\x1f\x8b", "gz"), (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bz2")):
        if start.startswith(magic):
            return compression
    return "" if start[257:262] == b"ustar" else None


def _entries(opened: Opened, max_pixels: int) -> list[Entry]:
    """Return the images among the members; no two may have the same name."""
    entries = []
    seen = set()
    for member in opened.members:
        parts = safe_parts(member.name)
        if not parts or is_hidden(parts) or not is_image_name(parts[-1]):
            continue
        if parts in seen:
            raise DataError(
                f"the archive holds {member.name[:80]!r} twice, so it is unclear which is meant; "
                "pack the dataset anew"
            )
        seen.add(parts)
        entries.append(Entry(parts, _Reader(member, max_pixels)))
    return entries


@dataclass(frozen=True, slots=True)
class _Reader:
    """Opens the image in a member."""

    member: Member
    max_pixels: int

    def __call__(self) -> Readable:
        size = self.member.size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"has {size} bytes, more than the {MAX_FILE_BYTES} allowed")
        return open_image(self.member.read(), max_pixels=self.max_pixels)
