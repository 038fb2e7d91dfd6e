"""The pages of one job: its progress, its result, one class of it, and their pictures."""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from app.api.names import public_request
from app.jobs.rows import now
from app.page import commands, curves, lists, pictures, text
from app.page.phases import title_of
from app.page.result_view import result_view
from app.page.templates import render, render_missing
from app.page.view import job_view
from distillery.files import read_json

if TYPE_CHECKING:
    from app.jobs.records import EventKind, EventRecord, JobRecord
    from app.jobs.service import Service

PAGE_CLASSES = 30
ROW_IMAGES = 10
LOG_LINES = 300
MAX_METRICS = 20_000
LONG = {"Cache-Control": "private, max-age=31536000, immutable"}
SHORT = {"Cache-Control": "private, max-age=60"}


def job_router(service: "Service") -> APIRouter:
    """Return the pages of one job."""
    router = APIRouter(prefix="/ui/jobs/{job_id}", include_in_schema=False,
                       default_response_class=HTMLResponse)  # fmt: skip

    @router.get("")
    def job(request: Request, job_id: str) -> Response:
        record = service.store.get(job_id)
        if record is None:
            return _no_job(request)
        return render(request, "job.html", **_job(service, record))

    @router.get("/result")
    def result(request: Request, job_id: str, page: int = 1) -> Response:
        record = service.store.get(job_id)
        values = record and _result(service, request, record, page)
        return render(request, "result.html", **values) if values else _no_result(request, record)

    @router.get("/classes/{index}")
    def one_class(request: Request, job_id: str, index: int) -> Response:
        record = service.store.get(job_id)
        values = record and _class(service, record, index)
        return render(request, "class.html", **values) if values else _no_result(request, record)

    @router.get("/images/{index}.png")
    def image(request: Request, job_id: str, index: int) -> Response:
        bundle = _bundle(service, job_id)
        if bundle is None or not 0 <= index < bundle.num_images:
            return _no_result(request, None)
        return Response(pictures.image_png(bundle, index), headers=LONG, media_type="image/png")

    @router.get("/strip.png")
    def strip(request: Request, job_id: str) -> Response:
        bundle = _bundle(service, job_id)
        if bundle is None:
            return _no_result(request, None)
        return Response(pictures.strip_png(bundle), headers=SHORT, media_type="image/png")

    return router


def _no_job(request: Request) -> Response:
    message = "It may have been deleted, or the address is not complete."
    return render_missing(request, "There is no such job", message)


def _no_result(request: Request, record: "JobRecord | None") -> Response:
    if record is None:
        return _no_job(request)
    message = "Its result appears here when all phases are done."
    return render_missing(request, "This job has no result yet", message)


def request_body(dataset: str, ipc: int, preset: str) -> dict[str, Any]:
    """Return the body of a request with what differs from the defaults."""
    body: dict[str, Any] = {"dataset": dataset, "ipc": ipc}
    return body if preset == "default" else body | {"preset": preset}


def _bundle(service: "Service", job_id: str) -> pictures.Bundle | None:
    """Return the bundle of a job that has one."""
    job = service.store.get(job_id)  # an unknown id never becomes a path
    if job is None or job.status != "succeeded":
        return None
    return pictures.open_bundle(service.job_folder(job.id) / "bundle")


def _job(service: "Service", job: "JobRecord") -> dict[str, Any]:
    """Return what the page of a job shows."""
    metrics = service.store.events(job.id, kinds={"metric"}, limit=MAX_METRICS)
    told = service.store.events(job.id, kinds=TOLD, limit=MAX_METRICS)
    previews = service.store.events(job.id, kinds={"preview"}, limit=MAX_METRICS)
    return {
        "job": job_view(job, service.settings, now(), service.store.queue_position(job.id)),
        "seq": job.revision,
        "warnings": [str(warning.get("message") or "") for warning in job.warnings],
        "decisions": job.decisions,
        "previews": _previews(previews),
        "curves": curves.draw([event.data for event in metrics]),
        "log": [line for line in map(log_line, told) if line][-LOG_LINES:],
        "request_json": _json(public_request(job.request, service.settings)),
        "config_json": _json(public_request(job.config, service.settings)),
    }


TOLD: frozenset["EventKind"] = frozenset({"status", "stage", "log"})
"""Kinds of events that the log shows."""


def log_line(event: "EventRecord") -> dict[str, Any] | None:
    """Return an event as a line of the log; the same words as `logText` in static/log.js."""
    data = event.data
    line = {"seq": event.seq, "at": event.at, "level": "info"}
    if event.kind == "log":
        return line | {"level": data.get("level") or "info", "text": data.get("message") or ""}
    if event.kind == "stage":
        if data.get("status") == "running":
            return line | {"level": "stage", "text": title_of(data.get("name"))}
        seconds, summary = data.get("seconds"), data.get("summary") or data.get("status") or ""
        took = "" if seconds is None else f" ({text.duration(seconds)})"
        return line | {"text": f"{title_of(data.get('name'))}: {summary}{took}"}
    if data.get("phase") and data.get("status") == "running":
        return None  # a change of phase is told by the stage's own event
    return line | {"level": "stage", "text": f"job {data.get('status')}"}


def _previews(events: list["EventRecord"]) -> list[dict[str, Any]]:
    """Return the latest picture of each name, in the order in which the names appeared."""
    latest: dict[str, dict[str, Any]] = {}
    for event in events:
        name, url = str(event.data.get("name") or ""), str(event.data.get("url") or "")
        if url.startswith("/"):  # only pictures that this service serves
            number = event.data.get("images")
            latest[name] = {"name": name, "url": url, "title": preview_title(name),
                            "images": number if isinstance(number, int) else 0}  # fmt: skip
    return list(latest.values())


def preview_title(name: str) -> str:
    """Return the name of a picture's file as words."""
    return name.rsplit("/", 1)[-1].removesuffix(".png").replace("_", " ").replace("-", " ")


def _json(value: Mapping[str, Any] | None) -> str:
    return "" if value is None else json.dumps(value, indent=2, ensure_ascii=False)


def _result(
    service: "Service", request: Request, job: "JobRecord", page: int
) -> dict[str, Any] | None:
    """Return what the page of a result shows, None where there is no result."""
    bundle = _bundle(service, job.id)
    if bundle is None:
        return None
    folder = service.job_folder(job.id) / "bundle"
    report = folder / "report.json"
    result = result_view(read_json(report) if report.is_file() else {})
    num_pages = max(math.ceil(len(bundle.classes) / PAGE_CLASSES), 1)
    page = min(max(page, 1), num_pages)
    return {
        "job": job_view(job, service.settings, now()),
        "result": result,
        "bundle": bundle,
        "num_classes": len(bundle.classes),
        "classes": _class_rows(bundle, result["per_class"], page),
        "page": page,
        "pages": num_pages,
        "tile": 72,
        "version": _version(job),
        "loaders": commands.loader_texts(
            str(request.base_url).rstrip("/"), job.id, is_auth_on=service.settings.is_auth_on
        ),
        "files": lists.bundle_files(folder, f"/jobs/{job.id}"),
        "digest": (job.result or {}).get("content_digest") or "",
    }


def _version(job: "JobRecord") -> str:
    """Return what changes when the pictures of a job do."""
    return str((job.result or {}).get("content_digest") or job.attempt)[:12]


def _class_rows(
    bundle: pictures.Bundle, per_class: list[float | None], page: int
) -> list[dict[str, Any]]:
    """Return one page of the classes with the first images of each."""
    rows = []
    first = (page - 1) * PAGE_CLASSES
    ipc = bundle.images_per_class
    for index in range(first, min(first + PAGE_CLASSES, len(bundle.classes))):
        accuracy = per_class[index] if index < len(per_class) else None
        shown = min(ipc, ROW_IMAGES)
        rows.append({
            "index": index,
            "name": bundle.classes[index],
            "accuracy": "" if accuracy is None else text.accuracy_text(accuracy),
            "images": [index * ipc + rank for rank in range(shown)],
            "num_more": ipc - shown,
        })  # fmt: skip
    return rows


def _class(service: "Service", job: "JobRecord", index: int) -> dict[str, Any] | None:
    """Return what the page of one class shows, None where there is none."""
    bundle = _bundle(service, job.id)
    if bundle is None or not 0 <= index < len(bundle.classes):
        return None
    ipc = bundle.images_per_class
    images = range(index * ipc, (index + 1) * ipc)
    return {
        "job": job_view(job, service.settings, now()),
        "name": bundle.classes[index],
        "index": index,
        "num_classes": len(bundle.classes),
        "side": bundle.side,
        "version": _version(job),
        "images": [{"index": i, "facts": pictures.image_facts(bundle, i)} for i in images],
    }
