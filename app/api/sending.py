"""Files as answers: one range, a strong ETag from the content, nothing read twice.

Blocks are read in a thread into large buffers, so that neither a slow disk nor a large file holds
up the other requests. Source: RFC 9110, sections 13 and 14; RFC 9530 for `Repr-Digest`.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.problems import Problem
from app.api.views import matches

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file and what is known of its content."""

    file: BinaryIO
    size: int
    sha256: str | None
    """None where it still grows."""
    name: str
    media_type: str
    is_attachment: bool = True

    @property
    def etag(self) -> str | None:
        """Strong: of the content, not of the file's time."""
        return None if self.sha256 is None else f'"sha256-{self.sha256}"'


def file_response(
    opened: Opened, headers: Headers, extra: Mapping[str, str] | None = None
) -> Response:
    """Return the answer to a request for a file: all of it, a part, or "not modified".

    Raises:
        Problem: If the range lies outside; the file is closed then.
    """
    given = _headers(opened) | dict(extra or {})
    etag = opened.etag
    if etag and matches(headers.get("if-none-match"), etag):
        opened.file.close()
        kept = {k: v for k, v in given.items() if k in ("ETag", "Cache-Control", "Repr-Digest")}
        return Response(status_code=304, headers=kept)
    span = None
    if_range = headers.get("if-range")
    if "range" in headers and (if_range is None or (etag and if_range.strip() == etag)):
        try:
            span = find_range(headers["range"], opened.size)
        except Problem:
            opened.file.close()
            raise
    start, end = span or (0, opened.size)
    given["Content-Length"] = str(end - start)
    if span:
        given["Content-Range"] = f"bytes {start}-{end - 1}/{opened.size}"
    return _Blocks(opened.file, start, end, 206 if span else 200, given)


def _headers(opened: Opened) -> dict[str, str]:
    headers = {
        "Content-Type": opened.media_type,
        "Accept-Ranges": "bytes",
        "Cache-Control": "no-store",
    }
    if opened.sha256 is not None:
        digest = base64.b64encode(bytes.fromhex(opened.sha256)).decode()
        headers["ETag"] = f'"sha256-{opened.sha256}"'
        headers["Repr-Digest"] = f"sha-256=:{digest}:"
        headers["Cache-Control"] = "private, no-cache"  # a retry may write the same name anew
    kind = "attachment" if opened.is_attachment else "inline"
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", opened.name)
    named = f'{kind}; filename="{plain}"'
    if plain != opened.name:
        named += f"; filename*=UTF-8''{quote(opened.name, safe='')}"
    headers["Content-Disposition"] = named
    return headers


def find_range(text: str, size: int) -> tuple[int, int] | None:
    """Return (start, end) of a `Range` header; None where the whole file is to be sent.

    Other units, malformed ranges and several ranges get the whole file, as RFC 9110 allows.

    Raises:
        Problem: If the one range lies outside the file.
    """
    match = re.fullmatch(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", text, re.IGNORECASE)
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, end = max(0, size - int(match[2])), size
        is_inside = int(match[2]) > 0 and size > 0
    else:
        start = int(match[1])
        end = min(size, int(match[2]) + 1) if match[2] else size
        if match[2] and int(match[2]) < start:
            return None
        is_inside = start < size
    if not is_inside:
        detail = f"the file has {size} bytes, the range asks for others"
        headers = {"Content-Range": f"bytes */{size}"}
        raise Problem("range_not_satisfiable", detail, headers=headers)
    return start, end


class _Blocks(Response):
    """Sends a part of an open file and closes it."""

    def __init__(
        self, file: BinaryIO, start: int, end: int, status: int, headers: Mapping[str, str]
    ) -> None:
        self.file, self.start, self.end = file, start, end
        self.status_code, self.background, self.body = status, None, b""
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the headers and, but for HEAD, the bytes."""
        try:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            at, end = self.start, self.end if scope["method"] != "HEAD" else self.start
            number = self.file.fileno()
            while at < end:
                block = await run_in_threadpool(os.pread, number, min(BLOCK_BYTES, end - at), at)
                if not block:
                    raise RuntimeError("the file has become shorter while it was sent")
                at += len(block)
                message = {"type": "http.response.body", "body": block, "more_body": at < end}
                await send(message)
            if end == self.start:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.file.close()
