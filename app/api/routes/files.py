"""`/jobs/{id}/files`, `/bundle`, `/report`, `/logs`: what a job has written."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request, Response

from app.api.content import accepts
from app.api.context import Api, ApiDep, JobId
from app.api.files import BUNDLE, LOG, find_file, job_files, media_type, open_file
from app.api.openapi import documented
from app.api.problems import Problem
from app.api.schemas import FileList
from app.api.sending import file_response
from app.api.views import answer, list_json

router = APIRouter(prefix="/jobs/{job_id}", tags=["files"])
REPORT_POLICY = (
    "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'"
)
SENT = ("ETag", "Repr-Digest", "Accept-Ranges", "Content-Disposition")
Range = Annotated[str | None, Header(max_length=200, description="One range: `bytes=0-1023`.")]
IfRange = Annotated[str | None, Header(alias="If-Range", max_length=200)]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", max_length=1000)]
MAX_TAIL_BYTES = 1 << 20
HEADERS = {200: SENT, 206: (*SENT, "Content-Range")}


@router.head("/files", include_in_schema=False)
@router.get(
    "/files", summary="List the files of a job",
    **documented({200: (FileList, "Bundle, pictures, log.")}, 404, 422),
)  # fmt: skip
def files(api: ApiDep, job_id: JobId) -> Response:
    """Return each file with its size, SHA-256 and address."""
    api.job(job_id)
    data = [
        {
            "object": "file", "path": file.name, "size_bytes": file.size,
            "sha256": api.digests.of(file.path) if file.is_final else None,
            "media_type": media_type(file.name),
            "url": f"/jobs/{job_id}/files/{quote(file.name)}",
        }
        for file in job_files(api.service.job_folder(job_id))
    ]  # fmt: skip
    return answer(list_json(data))


FILE_DOCUMENT = documented(
    {200: ("*/*", "The file."), 206: ("*/*", "A part of it.")}, 304, 404, 416, 422, headers=HEADERS
)
BUNDLE_DOCUMENT = documented(
    {
        200: ("application/octet-stream", "`distilled.safetensors`."),
        206: ("application/octet-stream", "A part of it."),
    },
    304, 404, 409, 416, 422, headers=HEADERS,
)  # fmt: skip


@router.head("/files/{path:path}", summary="Ask about a file", **FILE_DOCUMENT)
@router.get("/files/{path:path}", summary="Download a file", **FILE_DOCUMENT)
def one_file(
    request: Request, api: ApiDep, job_id: JobId, path: Annotated[str, Path(max_length=500)],
    range_: Range = None, if_range: IfRange = None, if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """Send a file of `files`; ranges, `If-Range` and `If-None-Match` are understood."""
    api.job(job_id)
    return _send(request, api, job_id, path)


@router.head("/bundle", summary="Ask about the distilled dataset", **BUNDLE_DOCUMENT)
@router.get("/bundle", summary="Download the distilled dataset", **BUNDLE_DOCUMENT)
def bundle(
    request: Request, api: ApiDep, job_id: JobId,
    range_: Range = None, if_range: IfRange = None, if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """Send `distilled.safetensors`: everything that training on it needs, in one file."""
    _check_ready(api, job_id)
    return _send(request, api, job_id, BUNDLE)


def _check_ready(api: Api, job_id: str) -> None:
    """Refuse what only a job that succeeded has.

    Raises:
        Problem: `not_ready`.
    """
    job = api.job(job_id)
    if job.status != "succeeded":
        wait = 5 if not job.is_terminal else None
        raise Problem("not_ready", f"the job is {job.status}", retry_after_s=wait)


def _send(
    request: Request, api: Api, job_id: str, name: str, policy: str | None = None
) -> Response:
    file = find_file(api.service.job_folder(job_id), name)
    inline = name.endswith((".png", ".log")) or policy is not None
    opened = open_file(file, api.digests, inline=inline)
    extra = {"Content-Security-Policy": policy or "sandbox; default-src 'none'"}
    return file_response(opened, request.headers, extra)


@router.head("/report", include_in_schema=False)
@router.get(
    "/report", summary="Read the report",
    **documented(
        {200: ("application/json", "Accuracy, groups, controls."), 206: ("*/*", "A part.")},
        304, 404, 406, 409, 416, 422, page=True,
    ),
)  # fmt: skip
def report(
    request: Request, api: ApiDep, job_id: JobId,
    range_: Range = None, if_range: IfRange = None, if_none_match: IfNoneMatch = None,
) -> Response:  # fmt: skip
    """Return the report as JSON, or as a page for `Accept: text/html`."""
    kind = accepts(request, "application/json", "text/html")
    _check_ready(api, job_id)
    name = "report.html" if kind == "text/html" else "report.json"
    return _send(request, api, job_id, name, REPORT_POLICY)


@router.head("/logs", include_in_schema=False)
@router.get(
    "/logs", summary="Read the log",
    **documented({200: ("text/plain", "Lines."), 206: ("text/plain", "A part.")},
                 404, 406, 416, 422),
)  # fmt: skip
def logs(
    request: Request, api: ApiDep, job_id: JobId,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="Only the last lines.")] = None,
    range_: Range = None,
) -> Response:  # fmt: skip
    """Return what the job's processes wrote, oldest first; empty before it starts."""
    accepts(request, "text/plain")
    api.job(job_id)
    found = [file for file in job_files(api.service.job_folder(job_id)) if file.name == LOG]
    headers = {"Cache-Control": "no-store"}
    plain = "text/plain; charset=utf-8"
    if not found:
        return Response(b"", headers=headers, media_type=plain)
    opened = open_file(found[0], api.digests, inline=True)
    if tail is None:
        return file_response(opened, request.headers)
    with opened.file:
        opened.file.seek(max(0, opened.size - MAX_TAIL_BYTES))
        lines = opened.file.read(MAX_TAIL_BYTES).splitlines(keepends=True)
    return Response(b"".join(lines[-tail:]), headers=headers, media_type=plain)
