"""Uploads: streamed to disk, looked through in a child process, then entered under their name.

The name in the address is the caller's, the file's name is ours; nothing is unpacked here.
"""

import os
import secrets
import shutil
from pathlib import Path

from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request

from app.api.context import Api
from app.api.names import BUILTIN, find_mounted
from app.api.problems import Problem
from app.jobs.records import DatasetRecord, Status
from distillery.files import sync_folder

ARCHIVES = {
    "application/zip": ".zip", "application/x-zip-compressed": ".zip",
    "application/x-tar": ".tar", "application/gzip": ".tar.gz", "application/x-gzip": ".tar.gz",
    "application/vnd.apache.parquet": ".parquet", "application/octet-stream": "",
}  # fmt: skip
"""Suffix of the stored file by the body's media type; empty: by its first bytes."""
MAGIC = ((b"PK", ".zip"), (b"\x1f\x8b", ".tar.gz"), (b"PAR1", ".parquet"))
MAX_HEADER_BYTES = 100_000_000
"""Of a safetensors file, as its own library has it."""
ACTIVE: tuple[Status, ...] = ("queued", "running", "canceling")
SYNC_BYTES = 8 << 20
MAX_WAITING_UPLOADS = 16
"""More than of other inspections: what was sent already should not be sent again."""


async def receive(request: Request, api: Api, name: str) -> Path:
    """Write the body to a temporary file and return its path.

    Raises:
        Problem: If the name is taken, the type unknown, the disk or the limit too small.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ARCHIVES:
        detail = f"send an archive as {', '.join(ARCHIVES)}; got {ascii(kind)[:60]}"
        raise Problem("unsupported_media_type", detail)
    length = request.headers.get("content-length", "")
    await run_in_threadpool(_check, api, name, int(length) if length.isdigit() else 0)
    folder = api.settings.data / "uploads" / secrets.token_hex(16)
    await run_in_threadpool(lambda: folder.mkdir(parents=True))
    partial = folder / ".partial"
    try:
        size = await _write(request, api, partial)
        if not size:
            raise Problem("dataset_unsupported", "the body is empty: send an archive")
        suffix = ARCHIVES[kind] or await run_in_threadpool(_suffix, partial)
        final = folder / f"{name}{suffix}"
        os.rename(partial, final)
        sync_folder(folder)
        return final
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


async def _write(request: Request, api: Api, path: Path) -> int:
    """Stream the body to a file; return its size."""
    size = 0
    with open(path, "xb") as file:
        pending = bytearray()
        try:
            async for block in request.stream():
                pending += block
                if len(pending) >= SYNC_BYTES:
                    size += await run_in_threadpool(file.write, bytes(pending))
                    pending.clear()
                    await run_in_threadpool(api.check_disk)
        except ClientDisconnect:
            raise Problem("malformed_request", "the upload ended before its end") from None
        size += await run_in_threadpool(file.write, bytes(pending))
        await run_in_threadpool(file.flush)
        await run_in_threadpool(os.fsync, file.fileno())
    return size


def _suffix(path: Path) -> str:
    """Return the suffix of a file by its first bytes; a tar has none at its start."""
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER_BYTES:
        return ".safetensors"
    return next((suffix for magic, suffix in MAGIC if start.startswith(magic)), ".tar")


def _check(api: Api, name: str, length: int) -> None:
    """Refuse what need not be received at all.

    Raises:
        Problem: If the name is taken or the disk too full.
    """
    api.check_disk(length)
    if name in BUILTIN or api.service.datasets.get(name) or find_mounted(api.settings, name):
        raise _taken(name)


def _taken(name: str) -> Problem:
    return Problem("dataset_exists", f"there is a dataset {name!r} already: choose another name")


def enter(api: Api, name: str, path: Path) -> DatasetRecord:
    """Look through an upload and enter it under its name.

    Raises:
        Problem: If it cannot be used; its file is removed then.
    """
    try:
        private = [str(path.parent)]
        task = {"kind": "dataset", "dataset": str(path), "private": private}
        facts = api.children.ask(task, max_waiting=MAX_WAITING_UPLOADS)
        facts["size_bytes"] = path.stat().st_size
        try:
            record = api.service.datasets.create(
                name, kind="archive", path=str(path), facts=facts, status="ready"
            )
        except IntegrityError:
            raise _taken(name) from None
    except BaseException:
        shutil.rmtree(path.parent, ignore_errors=True)
        raise
    return record


def remove(api: Api, name: str) -> None:
    """Delete an upload.

    Raises:
        Problem: If there is none of this name, or a job needs it.
    """
    record = api.service.datasets.get(name)
    if record is None:
        if name in BUILTIN or find_mounted(api.settings, name):
            raise Problem("forbidden", f"{name!r} is no upload: only uploads can be deleted")
        raise Problem("not_found", f"there is no dataset {name!r}")
    users, _ = api.service.store.list(status=ACTIVE, dataset=record.path, limit=1)
    if users:
        raise Problem("dataset_in_use", f"job {users[0].id} uses {name!r}: cancel it, or wait")
    api.service.datasets.delete(name)
    shutil.rmtree(Path(record.path).parent, ignore_errors=True)
