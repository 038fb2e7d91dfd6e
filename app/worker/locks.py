"""Locks between the processes of one service: one process for an executor id, one reaper at a time.

A file lock (`flock`) belongs to the open file, so a child that inherits the handle holds it too:
the lock of an executor id is free only when its worker *and* that worker's child are gone.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from app.jobs.service import Service
from distillery.errors import JobError


def lock_folder(data: Path) -> Path:
    """Return the folder of lock files, made where it is missing."""
    folder = data / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def hold_executor(data: Path, executor_id: str, *, wait_s: float) -> int:
    """Take the id of an executor for as long as the returned file handle is open anywhere.

    Args:
        data: The service's folder.
        executor_id: Id that no other living process may have.
        wait_s: How long to wait for one that is about to end.

    Raises:
        JobError: If another process still has the id.
    """
    path = lock_folder(data) / f"worker-{executor_id}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + wait_s
    while not _try_file(handle):
        if time.monotonic() > deadline:
            os.close(handle)
            raise JobError(
                f"another worker is running as {executor_id}: stop it, or start this one with "
                "another id"
            )
        time.sleep(0.05)
    return handle


@contextmanager
def shared_lock(service: Service, name: str, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold a lock that all workers of the database respect; gives False where another has it.

    Postgres keeps it for all machines; with SQLite all workers share one, and it is a file.
    """
    holding = _file_lock if service.database.is_sqlite else _advisory_lock
    with holding(service, name, wait_s) as is_held:
        yield is_held


@contextmanager
def _file_lock(service: Service, name: str, wait_s: float) -> Iterator[bool]:
    """Hold a lock file."""
    path = lock_folder(service.settings.data) / f"{name}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _until(lambda: _try_file(handle), wait_s)
    finally:
        os.close(handle)  # frees it


@contextmanager
def _advisory_lock(service: Service, name: str, wait_s: float) -> Iterator[bool]:
    """Hold a lock of a Postgres session; it ends with the session, however that ends."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    connection = service.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with connection:
        taken = sa.select(sa.func.pg_try_advisory_lock(number))
        is_held = _until(lambda: bool(connection.scalar(taken)), wait_s)
        try:
            yield is_held
        finally:
            if is_held:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(number)))


def _until(attempt: Callable[[], bool], wait_s: float) -> bool:
    """Try until it works or the time is over."""
    deadline = time.monotonic() + wait_s
    while not attempt():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    return True


def _try_file(handle: int) -> bool:
    """Take a file lock if it is free."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
