"""A dataset before it is decoded: class names, and one lazily read item for each image.

Every kind of storage (see `sources`) becomes a `Source`; `prepare` knows nothing else. Names come
from strangers, so they are made valid text here and are never used as paths to write to.
"""

import errno
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

import numpy as np
from PIL import Image

from distillery.errors import DataError

Split = Literal["train", "validation", "test"]
Readable = np.ndarray | Image.Image
"""What an item reads to: uint8 (C, H, W) with C in {1, 3}, or an image opened but not decoded."""

MAX_CLASS_NAME_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled image that has not been read yet."""

    name: str
    """Unique name inside its dataset; the items' order is the order of their names."""
    label: int
    """Index into the class names."""
    split: Split | None
    """The split that the dataset puts it in, or None."""
    read: Callable[[], Readable]
    """Opens the image; may raise anything if the file is broken. Safe to call from threads."""


def _nothing_to_close() -> None:
    """Stand in for `close` where no file stays open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A dataset that can be read; a context manager that closes what it holds open."""

    kind: str
    """`digits`, `folder`, `archive`, `parquet`, `idx`, `tensors` or `hub`."""
    reference: str
    """What the user wrote, without the folders above it."""
    class_names: tuple[str, ...]
    """The class table; a label is an index into it."""
    items: Sequence[Item]
    """Every image, sorted by name."""
    licence: str | None = None
    """Licence of the images as the dataset states it."""
    revision: str | None = None
    """Commit of a Hub dataset."""
    notes: tuple[str, ...] = ()
    """What was left out or read in a way that could surprise, a sentence each."""
    close: Callable[[], None] = _nothing_to_close
    """Closes open files."""

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


OF_THE_MACHINE = frozenset(
    {
        errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR,
        errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN,
    }
)  # fmt: skip
"""Errors that say nothing of a file: a failing disk or share, too many open files, no memory."""


def failure_reason(error: Exception, name: str) -> str:
    """Return why an image cannot be used, without the folders of this machine.

    Raises:
        DataError: If it is not the file's fault: leaving it out would change the dataset.
    """
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error) or type(error).__name__
    if error.errno in OF_THE_MACHINE:
        raise DataError(
            f"{name!r} could not be read ({error.strerror}), which is no fault of the file: see to "
            "the disk or share, open files and memory, then run the job again"
        ) from error
    return error.strerror


def natural_key(name: str) -> tuple[tuple[tuple[bool, int, str], ...], str]:
    """Return a sort key under which numbers count by value: "2" < "10" < "a2" < "a10"."""
    parts = tuple(
        (False, int(part), "") if part[0] in "0123456789" else (True, 0, part)
        for part in re.split(r"([0-9]+)", name)
        if part
    )
    return parts, name


def clean_text(text: str) -> str:
    """Return `text` composed (NFC), so that it is equal on every system, and always valid.

    Bytes of a file name that are no UTF-8 become the text of their hexadecimal escapes.
    """
    if not text.isascii():
        raw = text.encode("utf-8", "surrogateescape" if _has_escapes(text) else "backslashreplace")
        text = unicodedata.normalize("NFC", raw.decode("utf-8", "backslashreplace"))
    return text


def _has_escapes(text: str) -> bool:
    """Say whether all surrogates in `text` stand for undecodable bytes of a file name."""
    surrogates = [c for c in text if "\ud800" <= c <= "\udfff"]
    return all("\udc80" <= c <= "\udcff" for c in surrogates)


def class_table(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct class names in natural order.

    Raises:
        DataError: As `check_class_names`.
    """
    distinct = sorted(set(names))
    check_class_names(distinct)  # first: a name of 10,000 digits is no number to sort by
    return tuple(sorted(distinct, key=natural_key))


def check_class_names(names: Sequence[str]) -> None:
    """Refuse class tables that no model can be trained on or no page can show.

    Raises:
        DataError: If there are fewer than two names, or a name is empty, too long, repeated or
            holds control characters.
    """
    if len(names) < 2:
        raise DataError(
            f"the dataset needs two classes or more, it has {len(names)}"
            f"{f' ({names[0]!r})' if names else ''}; give every class a folder of its own"
        )
    seen = set()
    for name in names:
        if not name.strip() or len(name) > MAX_CLASS_NAME_LENGTH:
            raise DataError(
                f"class names must have 1 to {MAX_CLASS_NAME_LENGTH} characters, got {name[:40]!r}"
            )
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise DataError(f"class name {name!r} holds control characters; rename the class")
        if name in seen:
            raise DataError(f"class name {name!r} occurs twice; give every class its own name")
        seen.add(name)
