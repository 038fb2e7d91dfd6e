"""What zip and tar files have in common: members, safe names, and limits on what they expand to."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from distillery.errors import DataError

GIB = 1024**3
MAX_DEPTH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What an archive may expand to."""

    max_members: int = 2_000_000
    """Files and folders."""
    max_total_bytes: int = 256 * GIB
    """All files together, uncompressed."""
    max_ratio: int = 200
    """Uncompressed size over the archive's own size."""
    always_allowed_bytes: int = GIB // 4
    """Up to this total, the ratio does not matter: blank images compress very well."""

    def check_count(self, count: int) -> None:
        """Refuse an archive of too many members."""
        if count > self.max_members:
            raise DataError(
                f"the archive has more than {self.max_members} members, the most that is read; "
                "unpack it and name the folder"
            )

    def check_total(self, total: int, archive_size: int) -> None:
        """Refuse an archive that expands too far."""
        allowed = max(self.always_allowed_bytes, self.max_ratio * archive_size)
        if total > min(allowed, self.max_total_bytes):
            raise DataError(
                f"the archive of {archive_size} bytes expands to {total} bytes or more, which is "
                "too much for images; unpack it yourself and name the folder if you trust it"
            )


@dataclass(frozen=True, slots=True)
class Member:
    """One regular file in an archive."""

    name: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of an archive."""

    members: list[Member]
    folders: list[tuple[str, ...]]
    close: Callable[[], None]


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the folders and file name in a member's name.

    Raises:
        DataError: If the name is absolute, leads upwards, is empty or too deep.
    """
    # packers on Windows write backslashes
    parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", "."))
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name) or ".." in parts:
        raise DataError(
            f"the archive has a member named {name[:80]!r}, which points out of the archive; "
            "pack the dataset anew with relative names"
        )
    if len(parts) > MAX_DEPTH or "\x00" in name:
        raise DataError(f"the archive has a member with an unusable name, {name[:80]!r}")
    return parts
