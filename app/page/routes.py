"""The pages that are not about one job: list, new job, system, login, and the static files.

Who may see them is decided before a request comes here; the pages read from the stores and
change nothing: buttons and forms use the API.
"""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.datastructures import URL
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.api.names import public_request
from app.jobs.rows import now
from app.page import commands, form, lists, text
from app.page.compare_routes import compare_router
from app.page.job_routes import job_router, request_body
from app.page.phases import PHASES
from app.page.templates import render
from app.page.view import ACTIVE, JobView, job_view, title_text

if TYPE_CHECKING:
    from app.jobs.records import JobRecord, Status
    from app.jobs.service import Service

STATIC = Path(__file__).parent / "static"
PAGE_JOBS = 20
DEMO = {"dataset": "digits", "ipc": 10}
TABS: dict[str, tuple[str, tuple["Status", ...] | None]] = {
    "": ("All", None),
    "active": ("Active", ACTIVE),
    "succeeded": ("Succeeded", ("succeeded",)),
    "failed": ("Failed", ("failed",)),
    "canceled": ("Canceled", ("canceled",)),
}
"""Name and statuses of each view of the list, by its word in the address."""


class Static(StaticFiles):
    """Scripts and styles, asked for again each time and mostly answered with "not modified"."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file that a browser may keep but must ask about."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def add_pages(app: FastAPI, service: "Service") -> None:
    """Add all pages to an app.

    Args:
        app: Whose middleware checks who asks, and sets the security headers.
        service: The stores that the pages read.
    """
    app.mount("/static", Static(directory=STATIC), name="static")
    app.include_router(_router(service))
    app.include_router(job_router(service))
    app.include_router(compare_router(service))


def _router(service: "Service") -> APIRouter:
    """Return the pages that are not about one job."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)

    @router.get("/")
    def jobs(request: Request, status: str = "", after: str | None = None) -> Response:
        return render(request, "jobs.html", **_jobs(service, request, status, after))

    @router.get("/new")
    def new(request: Request) -> Response:
        return render(request, "new.html", **_new(service, request))

    @router.get("/system")
    def system(request: Request) -> Response:
        return render(request, "system.html", **_system(service))

    return router


def _views(service: "Service", jobs: list["JobRecord"]) -> list[JobView]:
    """Return jobs as the list shows them."""
    moment, place = now(), service.store.queue_position
    return [
        job_view(job, service.settings, moment, place(job.id) if job.status == "queued" else None)
        for job in jobs
    ]


def _jobs(service: "Service", request: Request, status: str, after: str | None) -> dict[str, Any]:
    """Return what the list of jobs shows."""
    status = status if status in TABS else ""
    statuses = TABS[status][1]
    found, has_more = service.store.list(status=statuses, after=after, limit=PAGE_JOBS)
    counts = dict(service.store.counts())
    workers = _workers(service)
    here = URL(scope=request.scope).path
    query = {"status": status} if status else {}
    tabs = [
        {
            "name": name,
            "url": f"{here}?{urlencode({'status': word})}" if word else here,
            "count": sum(counts[s] for s in (wanted or counts)),
            "is_here": word == status,
        }
        for word, (name, wanted) in TABS.items()
    ]
    return {
        "jobs": _views(service, found),
        "tabs": [tab for tab in tabs if tab["count"] or tab["is_here"] or tab["name"] == "Active"],
        "here_tab": TABS[status][0],
        "total": sum(counts.values()),
        "num_active": sum(counts[s] for s in ACTIVE),
        "queued": counts["queued"],
        "workers": workers,
        "older": f"{here}?{urlencode({**query, 'after': found[-1].id})}" if has_more else None,
        "newer": f"{here}?{urlencode(query)}" if after else None,
        "curl": commands.curl_text(base_url(request), DEMO, is_auth_on=service.settings.is_auth_on),
    }


def base_url(request: Request) -> str:
    """Return the address under which the reader sees this service."""
    return str(request.base_url).rstrip("/")


def _workers(service: "Service") -> list[lists.Worker]:
    """Return the workers with the titles of their jobs."""
    records = service.workers.list()
    titles = {}
    for record in records:
        job = service.store.get(record.facts["job"]) if record.facts.get("job") else None
        if job is not None:
            titles[job.id] = title_text(job, service.settings)
    return lists.workers(records, service.settings.dead_after_s, titles)


def _new(service: "Service", request: Request) -> dict[str, Any]:
    """Return what the form of a new job shows at first."""
    datasets = lists.datasets(service.settings, service.datasets.list())
    values = form.values_of_query(list(request.query_params.multi_items()))
    source = service.store.get(request.query_params.get("from", ""))
    if source is not None:
        request_of = public_request(source.request, service.settings) or {}
        values = form.values_of_job(request_of, source.name) | values
    filled = form.form_of(values, [dataset["name"] for dataset in datasets])
    body = request_body(filled.dataset, filled.ipc, filled.preset)
    return {
        "form": filled,
        "fields": filled.fields,
        "datasets": datasets,
        "models": lists.models(service.settings),
        "titles": json.dumps({name: title for name, (title, _) in PHASES.items()}),
        "same": commands.same_texts(
            base_url(request), body, is_auth_on=service.settings.is_auth_on
        ),
    }


def _system(service: "Service") -> dict[str, Any]:
    """Return what the system page shows."""
    settings = service.settings
    disks = lists.disks(settings)
    retention = settings.retention_days
    facts = [
        ("version", version("distillery")),
        ("Python", platform.python_version()),
        ("database", settings.database_url.partition(":")[0]),
        ("access", "key needed" if settings.is_auth_on else "open to everyone who can reach it"),
        ("finished jobs are kept", "until deleted" if not retention else f"{retention:g} days"),
        ("jobs that may wait", str(settings.max_queued)),
        ("largest upload", text.size(settings.max_upload_bytes)),
        ("downloads from the Hub", "allowed" if settings.allow_download else "not allowed"),
    ]
    return {
        "workers": _workers(service),
        "counts": list(service.store.counts().items()),
        "disks": disks,
        "is_auth_on": settings.is_auth_on,
        "is_low": any(disk["free"] < settings.disk_floor_bytes for disk in disks),
        "floor": settings.disk_floor_bytes,
        "facts": facts,
    }
