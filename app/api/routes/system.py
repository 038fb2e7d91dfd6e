"""`/health`, `/metrics`, `/workers`, `/openapi.json`, `/docs`: what operators look at."""

import os
import shutil
from typing import Any

from fastapi import APIRouter, Request, Response

from app.api.context import Api, ApiDep
from app.api.docs_page import docs_page
from app.api.openapi import documented
from app.api.problems import Problem
from app.api.schemas import HealthOut, WorkerList
from app.api.telemetry import CONTENT_TYPE
from app.api.views import answer, list_json, worker_json

router = APIRouter(tags=["operations"])


@router.head("/health/live", include_in_schema=False)
@router.get(
    "/health/live", summary="Is the process alive?",
    **documented({200: (HealthOut, "It answers.")}),
)  # fmt: skip
async def live() -> Response:
    """Answer at once; asks nothing else."""
    return answer({"status": "ok"})


@router.head("/health/ready", include_in_schema=False)
@router.get(
    "/health/ready", summary="Can it be used?",
    **documented({200: (HealthOut, "Jobs are taken.")}, 503),
)  # fmt: skip
def ready(api: ApiDep) -> Response:
    """Check database, data folder and disk; workers are counted but not needed."""
    failed = [f"{name}: {text}" for name, text in _failures(api).items() if text]
    if failed:
        raise Problem("service_unavailable", "; ".join(failed), retry_after_s=5)
    shown = [worker_json(each, api.settings.dead_after_s) for each in api.service.workers.list()]
    checks: dict[str, Any] = dict.fromkeys(("database", "data", "disk"), "ok")
    statuses = ("ready", "busy", "lost", "stopped")
    checks["workers"] = {name: sum(w["status"] == name for w in shown) for name in statuses}
    return answer({"status": "ok", "checks": checks})


def _failures(api: Api) -> dict[str, str]:
    """Return what is wrong by check, empty texts where nothing is."""
    found = dict.fromkeys(("database", "data", "disk"), "")
    try:
        api.service.store.counts()
    except Exception as error:  # any driver's own error means the same here
        found["database"] = f"does not answer ({type(error).__name__})"
    folder = api.settings.data
    if not os.access(folder, os.W_OK | os.X_OK):
        found["data"] = "cannot be written"
    elif shutil.disk_usage(folder).free < api.settings.disk_floor_bytes:
        found["disk"] = "is almost full"
    return found


@router.get("/metrics", summary="Figures for Prometheus",
            **documented({200: ("text/plain", "Prometheus' text format.")}))  # fmt: skip
def metrics(api: ApiDep) -> Response:
    """Return queue depth, jobs by state, stage durations, heartbeats, GPU memory, requests."""
    return Response(api.telemetry.render(), media_type=CONTENT_TYPE)


@router.get(
    "/workers", summary="List workers",
    **documented({200: (WorkerList, "With their last sign of life.")}),
)  # fmt: skip
def workers(api: ApiDep) -> Response:
    """Return every worker that is not forgotten: ready, busy, stopped or lost."""
    found = api.service.workers.list()
    return answer(list_json([worker_json(each, api.settings.dead_after_s) for each in found]))


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Return the OpenAPI document."""
    return answer(request.app.openapi())


@router.get("/docs", include_in_schema=False)
def docs(request: Request) -> Response:
    """Return the document as a page: no script, nothing from elsewhere."""
    return Response(docs_page(request.app.openapi()), media_type="text/html")
