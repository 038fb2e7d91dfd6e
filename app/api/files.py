"""The files of a job that can be downloaded, and opening them without ever leaving its folder.

A name from an address is looked up in the list of files, never joined to a path as it comes;
links are not followed.
"""

import mimetypes
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.api.problems import Problem
from app.api.sending import Opened
from distillery.files import digest_file

BUNDLE = "distilled.safetensors"
LOG = "job.log"
PREVIEWS = "previews"
MAX_FILES = 10_000
MEDIA_TYPES = {
    ".safetensors": "application/octet-stream", ".parquet": "application/vnd.apache.parquet",
    ".md": "text/markdown; charset=utf-8", ".json": "application/json",
    ".log": "text/plain; charset=utf-8", ".txt": "text/plain; charset=utf-8",
    ".html": "text/html; charset=utf-8", ".png": "image/png", ".csv": "text/csv; charset=utf-8",
    ".yaml": "application/yaml",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobFile:
    """A file of a job."""

    name: str
    """Under `/jobs/{id}/files/`."""
    path: Path
    size: int
    is_final: bool
    """Whether it changes no more."""


def job_files(folder: Path) -> list[JobFile]:
    """Return the files of a job: its bundle, previews and log."""
    found = [*_below(folder / "bundle", "", True), *_below(folder / PREVIEWS, PREVIEWS, True)]
    log = folder / LOG
    size = _size_of(log)
    if size is not None:
        found.append(JobFile(LOG, log, size, False))
    return found[:MAX_FILES]


def find_file(folder: Path, name: str) -> JobFile:
    """Return the file of this name.

    Raises:
        Problem: If the job has no such file.
    """
    for file in job_files(folder):
        if file.name == name:
            return file
    raise Problem("not_found", f"this job has no file {name[:80]!r}; GET .../files lists them")


def open_file(file: JobFile, digests: "Digests", *, inline: bool = False) -> Opened:
    """Open a file for sending.

    Raises:
        Problem: If it has gone meanwhile.
    """
    try:
        handle = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise Problem("not_found", f"the file {file.name!r} has been removed") from None
    opened: BinaryIO = os.fdopen(handle, "rb", buffering=0)
    size = os.fstat(handle).st_size
    try:
        sha256 = digests.of(file.path) if file.is_final else None
    except Problem:
        opened.close()
        raise
    name = file.path.name
    return Opened(opened, size, sha256, name, media_type(name), is_attachment=not inline)


def media_type(name: str) -> str:
    """Return the media type of a file by its name."""
    suffix = os.path.splitext(name)[1]
    return MEDIA_TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _below(folder: Path, prefix: str, is_final: bool) -> Iterator[JobFile]:
    """Yield the regular files below a folder, in order of their names; links are left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path), name, is_final)
        elif entry.is_file(follow_symlinks=False):
            try:
                size = entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # the job is being deleted
                continue
            yield JobFile(name, Path(entry.path), size, is_final)


def _size_of(path: Path) -> int | None:
    """Return the size of a regular file, None where there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


class Digests:
    """SHA-256 of files, worked out once as long as a file stays as it is."""

    def __init__(self) -> None:
        """Start with none."""
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._lock = threading.Lock()
        self._reading: dict[Path, threading.Lock] = {}

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file as hexadecimal digits.

        Raises:
            Problem: If the file has gone: its job is being deleted.
        """
        try:
            return self._of(path)
        except FileNotFoundError:
            raise Problem("not_found", f"the file {path.name!r} has been removed") from None

    def _of(self, path: Path) -> str:
        found = path.lstat()
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        with self._lock:
            known = self._known.get(path)
            if known and known[0] == stamp:
                return known[1]
            reading = self._reading.setdefault(path, threading.Lock())
        with reading:  # one reader a file; the others find its answer
            with self._lock:
                known = self._known.get(path)
            if known is None or known[0] != stamp:
                known = (stamp, digest_file(path))
            with self._lock:
                if len(self._known) > MAX_FILES:
                    self._known.clear()
                self._known[path] = known
                self._reading.pop(path, None)
        return known[1]
