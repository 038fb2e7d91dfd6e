"""What is told of jobs, datasets and workers: the JSON of the answers, and their ETags."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from app.api.names import public_name, public_request
from app.jobs.records import DatasetRecord, EventRecord, JobRecord, WorkerRecord
from app.settings import Settings

MEDIA_TYPE = "application/json"


def json_bytes(value: Any) -> bytes:
    """Return compact JSON; what is not a finite number becomes null."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON answer that is not stored by caches."""
    given = {"Cache-Control": "no-store", **(headers or {})}
    return Response(json_bytes(value), status, given, MEDIA_TYPE)


def list_json(data: Sequence[Any], *, has_more: bool = False, after: str | None = None) -> Any:
    """Return a list; `next` is the cursor of the following page."""
    following = after if has_more else None
    return {"object": "list", "data": data, "has_more": has_more, "next": following}


def time_text(value: datetime | None) -> str | None:
    """Return a time as RFC 3339 in UTC."""
    if value is None:
        return None
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job_json(
    job: JobRecord, settings: Settings, *, queue_position: int | None = None, brief: bool = False
) -> dict[str, Any]:
    """Return a job as callers see it.

    Args:
        job: The record.
        settings: For the names of datasets.
        queue_position: From 1, where it waits.
        brief: Without what only a job's own page needs (configuration, decisions).
    """
    here = f"/jobs/{job.id}"
    done = job.status == "succeeded" and job.result is not None
    shown: dict[str, Any] = {
        "object": "job", "id": job.id, "revision": job.revision,
        "status": job.status, "phase": job.phase, "queue_position": queue_position,
        "created_at": time_text(job.created_at), "started_at": time_text(job.started_at),
        "finished_at": time_text(job.finished_at),
        "name": job.name, "metadata": job.metadata, "priority": job.priority,
        "dataset": public_name(job.dataset, settings), "images_per_class": job.images_per_class,
        "preset": job.preset, "progress": job.progress, "phases": job.phases,
        "worker": job.worker, "result": job.result, "error": job.error,
        "warnings": job.warnings, "attempt": job.attempt,
        "urls": {
            "self": here, "events": f"{here}/events", "cancel": f"{here}/cancel",
            "retry": f"{here}/retry", "files": f"{here}/files", "metrics": f"{here}/metrics",
            "logs": f"{here}/logs", "bundle": f"{here}/bundle" if done else None,
            "report": f"{here}/report" if done else None, "page": f"/ui/jobs/{job.id}",
        },
    }  # fmt: skip
    if not brief:
        shown["request"] = public_request(job.request, settings)
        shown["config"] = public_request(job.config, settings)
        shown["decisions"] = job.decisions
    return shown


def job_etag(job: JobRecord, queue_position: int | None) -> str:
    """Return the strong ETag: the revision, and the place in the queue while it waits."""
    return f'"{job.revision}"' if queue_position is None else f'"{job.revision}-{queue_position}"'


def matches(header: str | None, etag: str) -> bool:
    """Say whether an `If-None-Match` header names this ETag (RFC 9110, weak comparison)."""
    if header is None:
        return False
    return any(each.strip().removeprefix("W/") in (etag, "*") for each in header.split(","))


def is_current(header: str, etag: str) -> bool:
    """Say whether an `If-Match` header names this ETag (RFC 9110, strong comparison)."""
    return any(each.strip() in (etag, "*") for each in header.split(","))


def event_json(event: EventRecord) -> dict[str, Any]:
    """Return a stored event."""
    return {
        "seq": event.seq, "kind": event.kind, "at": time_text(event.at), "data": event.data,
    }  # fmt: skip


def dataset_json(record: DatasetRecord) -> dict[str, Any]:
    """Return an uploaded dataset."""
    return {
        "object": "dataset", "id": record.id, "name": record.name, "type": "upload",
        "status": record.status, "facts": record.facts or None,
        "created_at": time_text(record.created_at),
    }  # fmt: skip


def place_json(name: str, kind: str) -> dict[str, Any]:
    """Return a built-in or mounted dataset."""
    return {
        "object": "dataset", "id": name, "name": name, "type": kind, "status": "ready",
        "facts": None, "created_at": None,
    }  # fmt: skip


def worker_json(worker: WorkerRecord, dead_after_s: float) -> dict[str, Any]:
    """Return a worker; `status` is ready, busy, stopped or lost."""
    busy = bool(worker.facts.get("job") or worker.facts.get("current_job"))
    alive = "busy" if busy else "ready"
    status = "stopped" if worker.stopped_at else "lost" if worker.age_s > dead_after_s else alive
    return {
        "object": "worker", "id": worker.executor_id, "status": status,
        "started_at": time_text(worker.started_at), "beat_at": time_text(worker.beat),
        "beat_age_seconds": round(worker.age_s, 3), "facts": worker.facts,
    }  # fmt: skip
