"""`/estimates`: what a job would take, before anything runs."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.bodies import EXAMPLE, JobBody
from app.api.content import JsonOnly
from app.api.context import Api, ApiDep
from app.api.names import public_request
from app.api.openapi import documented
from app.api.requests import distill_request
from app.api.schemas import EstimateOut
from app.api.views import answer

router = APIRouter(tags=["jobs"])


@router.post(
    "/estimates", dependencies=[JsonOnly], summary="Estimate a job",
    **documented(
        {200: (EstimateOut, "Time, memory, disk, licence, decisions.")},
        400, 413, 415, 422, 503, example=EXAMPLE,
    ),
)  # fmt: skip
def estimate(api: ApiDep, body: JobBody) -> Response:
    """Say what the same body sent to `/jobs` would do and take; nothing is stored or started."""
    request = distill_request(body, api.service)
    task = {
        "kind": "estimate", "request": request, "cache": str(api.settings.cache),
        "machine": _worker_machine(api),
        "models": str(api.settings.models) if api.settings.models else None,
        "private": [str(each) for each in (
            api.settings.data / "uploads", api.settings.datasets, api.settings.models,
            api.settings.cache,
        ) if each],
    }  # fmt: skip
    found = api.children.ask(task, reuse_s=60)
    config = public_request(found["config"], api.settings)
    return answer({"object": "estimate", **found, "config": config})


def _worker_machine(api: Api) -> dict[str, Any] | None:
    """Return what the last living worker says of its machine; a GPU comes first."""
    alive = [
        worker.facts for worker in api.service.workers.list()
        if worker.stopped_at is None and worker.age_s < api.settings.dead_after_s
        and "cores" in worker.facts and "memory_bytes" in worker.facts
    ]  # fmt: skip
    names = ("host", "cores", "memory_bytes", "gpu", "gpu_memory_bytes")
    chosen = max(alive, key=lambda facts: facts.get("gpu_memory_bytes") or 0, default=None)
    return None if chosen is None else {name: chosen.get(name) for name in names}
