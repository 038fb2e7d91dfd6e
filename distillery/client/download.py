"""A file of the service on this disk: resumed where it was left, verified, renamed when whole.

The unfinished file carries the digest of what it will be in its name, so that a resumed download
never joins the bytes of two different files.
"""

import base64
import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

import httpx2

from distillery.client.transport import Transport, delay_of
from distillery.errors import JobError, ServiceError
from distillery.files import digest_file, sync_folder
from distillery.progress import OnProgress, Progress, ignore_progress

log = logging.getLogger(__name__)

SILENCE_S = 60.0
MAX_FAILURES = 5
"""Broken connections in a row that brought nothing."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What the service says of a file before it is fetched."""

    path: str
    etag: str
    sha256: str
    size_bytes: int


def describe(transport: Transport, path: str) -> RemoteFile:
    """Ask for size and digest of a file.

    Raises:
        ServiceError: If there is no such file, or the answer names no digest.
    """
    headers = transport.request("HEAD", path, headers={"Accept-Encoding": "identity"}).headers
    digest = _sha256(headers.get("Repr-Digest", ""))
    length = headers.get("Content-Length", "")
    if digest is None or not length.isdigit():
        raise ServiceError(
            f"the service names no digest or length for {path}, so the file could not be verified",
            code="no_digest",
        )
    return RemoteFile(path, headers.get("ETag", ""), digest, int(length))


def _sha256(field: str) -> str | None:
    """Return the SHA-256 of a `Repr-Digest` field in hexadecimal digits (RFC 9530)."""
    for part in field.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "sha-256" and value.startswith(":") and value.endswith(":"):
            try:
                digest = base64.b64decode(value[1:-1], validate=True)
            except ValueError:
                return None
            return digest.hex() if len(digest) == 32 else None
    return None


def fetch(
    transport: Transport, path: str, target: Path, *, on_progress: OnProgress = ignore_progress
) -> Path:
    """Bring a file of the service to `target` and return that.

    Interrupted at any moment, the next call goes on where this one ended. A `target` that already
    holds these bytes is left as it is.

    Raises:
        JobError: If `target` holds something else, or another process is fetching it.
        ServiceError: If the service refuses, stays away, or sends other bytes than it promised.
    """
    remote = describe(transport, path)
    if target.exists():
        if target.is_file() and digest_file(target) == remote.sha256:
            return target
        raise JobError(f"{target} holds something else: move it away, or name another place")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise JobError(
            f"{target.parent} is no folder and cannot be made one, because a file is in the way: "
            "name another folder"
        ) from None
    partial = target.with_name(f".{target.name}.{remote.sha256[:16]}.partial")
    with _locked(partial) as file:
        _fill(transport, remote, file, on_progress)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != remote.sha256:
            partial.unlink()
            raise ServiceError(
                f"{target.name} was damaged on its way (its SHA-256 is not the promised one): "
                "repeat the download",
                code="digest_mismatch",
            )
        os.replace(partial, target)
    sync_folder(target.parent)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[BufferedRandom]:
    """Open a partial file for reading and writing, for this process alone."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with open(handle, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JobError(f"another process is fetching {path.parent}: wait for it") from error
        yield file


def _fill(
    transport: Transport, remote: RemoteFile, file: BufferedRandom, on_progress: OnProgress
) -> None:
    """Append what is missing, over as many connections as it takes."""
    failures = 0
    while True:
        have = file.seek(0, os.SEEK_END)
        if have > remote.size_bytes:
            have = file.truncate(file.seek(0))
        on_progress(Progress("download", have, max(remote.size_bytes, 1)))
        if have == remote.size_bytes:
            return
        try:
            _append(transport, remote, file, have, on_progress)
        except httpx2.TransportError as error:
            got = file.seek(0, os.SEEK_END)
            failures = 0 if got > have else failures + 1
            if failures > MAX_FAILURES:
                raise transport.unreachable(error) from error
            log.debug("download of %s broke at %d: %r", remote.path, got, error)
            transport.sleep(delay_of(failures))


def _append(
    transport: Transport,
    remote: RemoteFile,
    file: BufferedRandom,
    have: int,
    on_progress: OnProgress,
) -> None:
    """Write the bytes of one connection behind the first `have`."""
    headers = {"Accept": "*/*"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": remote.etag}
    with transport.stream(remote.path, headers=headers, read_timeout_s=SILENCE_S) as response:
        if response.headers.get("ETag", remote.etag) != remote.etag:
            raise ServiceError(
                f"{remote.path} changed while it was fetched: repeat the download", code="changed"
            )
        if response.status_code != 206:  # the whole file, whatever was asked for
            file.truncate(file.seek(0))
            have = 0
        for block in response.iter_raw():  # as it arrives, so that a break loses nothing
            have += len(block)
            if have > remote.size_bytes:
                raise ServiceError(
                    f"the service sends more than the {remote.size_bytes} bytes it promised",
                    code="digest_mismatch",
                )
            file.write(block)
            on_progress(Progress("download", have, remote.size_bytes))
