"""What the service remembers: jobs, events, datasets, keys and workers, as plain values.

A job's `revision` grows by one with every change and is the sequence number of its last event, so
it serves as the ETag of the job and as the id of a server-sent event.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Status = Literal["queued", "running", "canceling", "succeeded", "failed", "canceled"]
EventKind = Literal[
    "status", "progress", "metric", "stage", "preview", "log", "artifact", "done"
]  # fmt: skip

STATUSES: tuple[Status, ...] = (
    "queued", "running", "canceling", "succeeded", "failed", "canceled"
)  # fmt: skip
ACKNOWLEDGED = "acknowledge_licence"
"""In a job's request: its sender knows that the base may not be used commercially."""
TERMINAL: frozenset[Status] = frozenset({"succeeded", "failed", "canceled"})
NEXT: Mapping[Status, frozenset[Status]] = {
    "queued": frozenset({"running", "canceled", "succeeded", "failed"}),
    "running": frozenset({"canceling", "succeeded", "failed", "queued"}),
    "canceling": frozenset({"canceled", "succeeded", "failed"}),
    "succeeded": frozenset(),
    "failed": frozenset({"queued"}),
    "canceled": frozenset({"queued"}),
}
"""Where a job may go from each status; queued again by a retry, or when its worker is gone. One
that lost its worker after its last stage ends from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job."""

    id: str
    """`job_` and the 26 base32 characters of a UUIDv7: ids sort by time of creation."""
    revision: int
    status: Status
    phase: str | None
    """`plan`, then the name of a stage of `generator.pipeline`."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    request: dict[str, Any]
    """Nested dict of the fields that the user set, as in `generator.config.DistillConfig`, and
    `ACKNOWLEDGED` where it was."""
    config: dict[str, Any] | None
    """Resolved `DistillConfig`, once the plan is made."""
    decisions: list[dict[str, Any]]
    """`{"what", "choice", "reason"}` of each choice that was made for the user."""
    name: str | None
    metadata: dict[str, str]
    priority: int
    """1 is first, 9 last."""
    ticket: int
    """Order of submission; inside a priority the lowest runs first."""
    dataset: str
    images_per_class: int
    preset: str
    progress: dict[str, Any] | None
    """`{"phase", "phase_index", "phases_total", "step", "total", "value", "message",
    "eta_seconds"}`; `value` is 0 to 1 over the whole job."""
    phases: list[dict[str, Any]]
    """`{"name", "status", "seconds", "summary", "cached"}` of each stage, in order."""
    worker: dict[str, Any] | None
    """`{"id", "device"}` of the worker at work."""
    result: dict[str, Any] | None
    """`{"content_digest", "bundle_sha256", "bundle_size_bytes", "accuracy", "cluster_min",
    "controls"}` of a succeeded job."""
    error: dict[str, Any] | None
    """`{"code", "message", "hint", "phase", "retryable", "log_tail"}` of a failed job."""
    warnings: list[dict[str, Any]]
    """`{"code", "message"}` each."""
    attempt: int
    """1, and one more by each retry."""

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more happens unless someone asks for it."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """Something that happened to a job."""

    job_id: str
    seq: int
    at: datetime
    kind: EventKind
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """What makes two requests the same one."""

    key: str
    """Of the `Idempotency-Key` header."""
    scope: str
    """Who asked, and the route."""
    body_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRecord:
    """The stored answer to a request with an idempotency key."""

    key: str
    scope: str
    body_digest: str
    job_id: str | None
    """The job that the request made, known even where the answer was never stored."""
    status: int | None
    """HTTP status; None while the first request is at work, or when it died."""
    headers: dict[str, str]
    body: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """An uploaded dataset."""

    id: str
    name: str
    kind: str
    path: str
    facts: dict[str, Any]
    status: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """A key to the API; the secret itself is not stored."""

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker process and its last sign of life."""

    executor_id: str
    boot: str
    """Made anew at each start."""
    started_at: datetime
    stopped_at: datetime | None
    """When it ended in good order."""
    beat: datetime
    age_s: float
    """Seconds since the beat, by the database's clock."""
    facts: dict[str, Any]
    """Device, cores, memory, GPU and GPU memory in use, current job and stage."""
