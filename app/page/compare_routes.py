"""The page that holds two jobs side by side: settings, results, and images class by class."""

import math
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from app.api.names import public_request
from app.jobs.rows import now
from app.page import pictures, text
from app.page.templates import render, render_missing
from app.page.view import job_view, title_text
from distillery.evaluation import compare, report_view
from distillery.files import read_json

if TYPE_CHECKING:
    from app.jobs.records import JobRecord
    from app.jobs.service import Service

MAX_CHOICES = 100
PAGE_CLASSES = 20
SIDE_IMAGES = 6
TINY_PX = 64
"""Smaller images are shown as the pixels they are."""


def compare_router(service: "Service") -> APIRouter:
    """Return the page of a comparison."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get("/ui/compare")
    def two(request: Request, a: str = "", b: str = "", page: int = 1) -> Response:
        jobs = [service.store.get(job_id) if job_id else None for job_id in (a, b)]
        if any(job_id and job is None for job_id, job in zip((a, b), jobs, strict=True)):
            message = "It may have been deleted, or the address is not complete."
            return render_missing(request, "There is no such job", message)
        values = _choice(service, jobs)
        if jobs[0] is not None and jobs[1] is not None:
            values |= _comparison(service, jobs[0], jobs[1], page)
        return render(request, "compare.html", **values)

    return router


def _choice(service: "Service", jobs: list["JobRecord | None"]) -> dict[str, Any]:
    """Return what the form shows: the latest jobs, and those that are compared now."""
    latest, _ = service.store.list(limit=MAX_CHOICES)
    known = {job.id: job for job in latest} | {job.id: job for job in jobs if job}
    choices = [(job.id, _choice_text(service, job)) for job in known.values()]
    chosen = [job.id if job else "" for job in jobs]
    return {"choices": choices, "chosen": chosen, "is_shown": False}


def _choice_text(service: "Service", job: "JobRecord") -> str:
    """Return a job as a line of the form."""
    accuracy = text.accuracy_text((job.result or {}).get("accuracy")) if job.result else job.status
    when = job.created_at.strftime("%Y-%m-%d %H:%M")
    return f"{title_text(job, service.settings)} · {accuracy} · {when}"


def _comparison(
    service: "Service", first: "JobRecord", second: "JobRecord", page: int
) -> dict[str, Any]:
    """Return what is told of two jobs."""
    jobs = (first, second)
    reports = [_report(service, job) for job in jobs]
    configs = [public_request(job.config, service.settings) for job in jobs]
    return {
        "is_shown": True,
        "jobs": [job_view(job, service.settings, now()) for job in jobs],
        "notes": compare.notes(*reports),
        "results": [
            {
                "name": compare.figure_text(row), "tone": row["tone"],
                "a": report_view.mean_std(row["a"]), "b": report_view.mean_std(row["b"]),
                "difference": compare.difference_text(row),
            }
            for row in compare.report_diff(*reports)
        ],
        "settings": [
            {"key": row["key"], "a": _value(row["a"]), "b": _value(row["b"])}
            for row in compare.config_diff(*configs)
        ],
        "is_planned": all(job.config is not None for job in jobs),
    } | _images(service, jobs, page)  # fmt: skip


def _value(value: Any) -> str:
    """Return a setting, a dash where a job has none."""
    return text.DASH if value is None else compare.value_text(value)


def _report(service: "Service", job: "JobRecord") -> dict[str, Any] | None:
    """Return the report of a job that has one."""
    path = service.job_folder(job.id) / "bundle" / "report.json"
    return dict(read_json(path)) if job.status == "succeeded" and path.is_file() else None


def _images(service: "Service", jobs: tuple["JobRecord", "JobRecord"], page: int) -> dict[str, Any]:
    """Return one page of the classes of both, with the first images of each side."""
    bundles = [
        pictures.open_bundle(service.job_folder(job.id) / "bundle")
        if job.status == "succeeded" else None
        for job in jobs
    ]  # fmt: skip
    names = list(dict.fromkeys(name for bundle in bundles if bundle for name in bundle.classes))
    pages = max(math.ceil(len(names) / PAGE_CLASSES), 1)
    page = min(max(page, 1), pages)
    shown = islice(names, (page - 1) * PAGE_CLASSES, page * PAGE_CLASSES)
    here = [
        f"?{urlencode({'a': jobs[0].id, 'b': jobs[1].id, 'page': to})}#images-title"
        for to in (page - 1, page + 1)
    ]
    sides = list(zip(jobs, bundles, strict=True))
    return {
        "classes": [
            {"name": name, "sides": [_tiles(*side, name) for side in sides]} for name in shown
        ],
        "is_tiny": all(bundle.side < TINY_PX for bundle in bundles if bundle),
        "num_classes": len(names), "page": page, "pages": pages,
        "earlier": here[0] if page > 1 else None, "later": here[1] if page < pages else None,
    }  # fmt: skip


def _tiles(job: "JobRecord", bundle: pictures.Bundle | None, name: str) -> dict[str, Any]:
    """Return the addresses of a class's first images in one job."""
    if bundle is None or name not in bundle.classes:
        return {"urls": [], "num_more": 0}
    first, ipc = bundle.classes.index(name) * bundle.images_per_class, bundle.images_per_class
    version = str((job.result or {}).get("content_digest") or job.attempt)[:12]
    count = min(ipc, SIDE_IMAGES)
    urls = [f"/ui/jobs/{job.id}/images/{first + rank}.png?v={version}" for rank in range(count)]
    return {"urls": urls, "num_more": ipc - count}
