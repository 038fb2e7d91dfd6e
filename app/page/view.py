"""A job as the page shows it: words, figures and what can be done with it, worked out once.

Templates only place what these functions return, so that every statement of the page can be
tested without a browser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.api.names import public_name
from app.page import text
from app.page.phases import Step, purpose_of, steps, title_of

if TYPE_CHECKING:
    from app.jobs.records import JobRecord, Status
    from app.settings import Settings

ACTIVE: tuple["Status", ...] = ("queued", "running", "canceling")
STATUSES: dict[str, tuple[str, str]] = {
    "queued": ("Queued", "wait"),
    "running": ("Running", "live"),
    "canceling": ("Canceling", "wait"),
    "succeeded": ("Succeeded", "good"),
    "failed": ("Failed", "bad"),
    "canceled": ("Canceled", "idle"),
}
"""Word and tone of each status."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """What the pages say of one job."""

    id: str
    status: str
    word: str
    tone: str
    title: str
    facts: tuple[str, ...]
    """Dataset, images per class, preset: the line below the title."""
    is_active: bool
    share: float
    """Of the whole job, 0 to 1."""
    percent: int
    phase: str
    """Title of the phase."""
    message: str
    left: str
    """Time left in words, nothing where it is not known."""
    queue: str
    """Place in the queue in words, nothing where the job does not wait."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    elapsed: float | None
    """Seconds from start to end, or until now."""
    steps: tuple[Step, ...]
    accuracy: str
    best_control: tuple[str, str] | None
    """(label, accuracy) of the best control."""
    error: Mapping[str, Any] | None
    error_phase: str
    device: str
    attempt: int
    size: str
    """Of the bundle."""


def title_text(job: "JobRecord", settings: "Settings") -> str:
    """Return what a job is called: its name, else its dataset and size."""
    return job.name or f"{public_name(job.dataset, settings)}, {job.images_per_class} per class"


def job_view(
    job: "JobRecord", settings: "Settings", now: datetime, queue_position: int | None = None
) -> JobView:
    """Return what the pages say of a job at a moment.

    Args:
        job: The record.
        settings: For the names of datasets.
        now: The moment.
        queue_position: From 1, where it waits.
    """
    word, tone = STATUSES.get(job.status, (job.status, "idle"))
    progress, result = job.progress or {}, job.result or {}
    share = 1.0 if job.status == "succeeded" else min(max(progress.get("value") or 0.0, 0.0), 1.0)
    is_active = job.status in ACTIVE
    phase = job.phase or progress.get("phase")
    return JobView(
        id=job.id,
        status=job.status,
        word=word,
        tone=tone,
        title=title_text(job, settings),
        facts=_facts(job, settings),
        is_active=is_active,
        share=share,
        percent=round(100 * share) if share < 0.995 or share == 1.0 else 99,
        phase=title_of(phase) if job.status in ("running", "canceling") else "",
        message=_message(phase, progress),
        left=text.remaining(progress.get("eta_seconds")) if job.status == "running" else "",
        queue=queue_text(queue_position) if job.status == "queued" else "",
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        elapsed=_elapsed(job, now),
        steps=tuple(steps(job.phases or [], job.status, phase)),
        accuracy=text.accuracy_text(result.get("accuracy")),
        best_control=_best_control(result),
        error=job.error if job.status == "failed" else None,
        error_phase=title_of((job.error or {}).get("phase")),
        device=(job.worker or {}).get("device") or "",
        attempt=job.attempt,
        size=text.size(result.get("bundle_size_bytes")),
    )


def _facts(job: "JobRecord", settings: "Settings") -> tuple[str, ...]:
    """Return the line below the title."""
    # without a name, the title says dataset and images per class
    size = [public_name(job.dataset, settings), f"{job.images_per_class} per class"]
    facts = size if job.name else []
    if job.preset != "default":
        facts.append(f"{job.preset} preset")
    if job.attempt > 1:
        facts.append(f"attempt {job.attempt}")
    return tuple(facts)


def _message(phase: str | None, progress: Mapping[str, Any]) -> str:
    """Return what is being done; a phase that has not reported yet says what it is for."""
    if phase and progress.get("phase") != phase:
        return purpose_of(phase)
    return progress.get("message") or ""


def queue_text(position: int | None) -> str:
    """Return the place in the queue in words; the first position is 1."""
    if position is None:
        return "waiting for a worker"
    if position <= 1:
        return "next in the queue"
    return f"{position - 1} ahead in the queue"


def _elapsed(job: "JobRecord", now: datetime) -> float | None:
    """Return the seconds that a job has run."""
    if job.started_at is None:
        return None
    end = text.aware(job.finished_at) if job.finished_at else now
    return max((end - text.aware(job.started_at)).total_seconds(), 0.0)


def _best_control(result: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the control that came closest or better, with its accuracy."""
    rows = [(_mean(row.get("accuracy")), row) for row in result.get("controls") or ()]
    judged = [(mean, row) for mean, row in rows if mean is not None]
    if not judged:
        return None
    _, best = max(judged, key=lambda item: item[0])
    return str(best.get("label") or best.get("name")), text.accuracy_text(best["accuracy"])


def _mean(value: Any) -> float | None:
    """Return a share that may stand in a statistic."""
    return value.get("mean") if isinstance(value, Mapping) else value
