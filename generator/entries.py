"""Entries of the cache, and the two small files beside each that say who is at it.

An entry is a folder `NAME-KEY`. `.NAME-KEY.lock` is held by the one process that writes it.
`.NAME-KEY.used` is held by every process that reads or writes it, any number at once; its time is
the entry's last use, its lines name the jobs that used it. Who removes an entry holds both alone.
"""

import errno
import fcntl
import os
import time
import weakref
from pathlib import Path
from typing import Any

from distillery.files import read_json

RECORD = "stage.json"
"""Written last: its presence means that an entry is complete."""
PARTIAL = ".partial"
EVALUATIONS = "evaluations"
"""Folder in the cache that holds the finished students of evaluations, an entry each."""
PAUSE_S = 0.02


class Hold:
    """A lock on a file, for as long as this value lives or until it is released."""

    def __init__(self, handle: int) -> None:
        """Take an open file handle that is locked."""
        self.handle = handle
        self.release = weakref.finalize(self, os.close, handle)


def take(path: Path, *, shared: bool = False) -> Hold | None:
    """Lock a file, made where it is missing; returns None where another hold forbids it.

    The file may have been removed by who held it before: then it is made anew.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if _is_at(handle, path):
                return Hold(handle)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:  # a disk that knows no locks
            os.close(handle)
            raise
        os.close(handle)


def take_within(path: Path, wait_s: float, *, shared: bool = False) -> Hold | None:
    """Lock a file as `take` does, waiting up to `wait_s` seconds for another hold to end."""
    until = time.monotonic() + wait_s
    while (hold := take(path, shared=shared)) is None and time.monotonic() < until:
        time.sleep(PAUSE_S)
    return hold


def is_held(path: Path) -> bool:
    """Say whether a process has a hold on a file; makes no file."""
    return path.exists() and take(path) is None


def record_of(folder: Path) -> dict[str, Any] | None:
    """Return the record of a complete entry, None where it is not there, or no longer."""
    try:
        return dict(read_json(folder / RECORD))
    except (FileNotFoundError, NotADirectoryError):
        return None


def lock_of(folder: Path) -> Path:
    """Return the file that the writer of an entry, or of a part of one, holds."""
    return folder.with_name(f".{folder.name}.lock")


def use_of(folder: Path) -> Path:
    """Return the file that tells of an entry's uses."""
    return folder.with_name(f".{folder.name}.used")


def note_use(folder: Path, job: str = "") -> Hold | None:
    """Note that an entry is used now, and keep it from being removed while the hold lives.

    Args:
        folder: Of the entry, which need not be there yet.
        job: Name of the job that uses it; nothing for a use outside of a job.

    Returns:
        The hold; None in a cache that this process may not write to.
    """
    path = use_of(folder)
    try:
        while (hold := take_within(path, 1.0, shared=True)) is None:
            pass  # it is just being looked at, or removed
        if job and job not in jobs_of(folder):
            os.write(hold.handle, f"{job}\n".encode())
        os.utime(hold.handle)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return None
    return hold


def jobs_of(folder: Path) -> tuple[str, ...]:
    """Return the names of the jobs that have used an entry."""
    try:
        return tuple(use_of(folder).read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return ()


def _is_at(handle: int, path: Path) -> bool:
    """Say whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
