"""The answers in the OpenAPI document, one model each; `views` builds the answers themselves."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.jobs.records import EventKind, Status


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FieldError(_Out):
    """What is wrong with one field or parameter."""

    pointer: str = Field("", description="JSON pointer into the body.")
    parameter: str = Field("", description="Name of a parameter of the query, path or header.")
    code: str
    detail: str


class ProblemOut(_Out):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str = Field(description="Stable: what a program should look at.")
    detail: str
    instance: str
    request_id: str | None
    errors: list[FieldError] = Field(default_factory=list)


class JobUrls(_Out):
    """Addresses of what belongs to a job; to be followed, not built."""

    self: str
    events: str
    cancel: str
    retry: str
    files: str
    metrics: str
    logs: str
    bundle: str | None
    report: str | None
    page: str


class JobBrief(_Out):
    """A job in a list."""

    object: Literal["job"]
    id: str
    revision: int = Field(description="Grows with every change; also the id of the last event.")
    status: Status
    phase: str | None = Field(description="`plan`, then the stage at work.")
    queue_position: int | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    name: str | None
    metadata: dict[str, str]
    priority: int
    dataset: str
    images_per_class: int
    preset: str
    progress: dict[str, Any] | None
    phases: list[dict[str, Any]]
    worker: dict[str, Any] | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    warnings: list[dict[str, Any]]
    attempt: int
    urls: JobUrls


class JobOut(JobBrief):
    """A job."""

    request: dict[str, Any]
    config: dict[str, Any] | None = Field(description="Everything resolved, once it is planned.")
    decisions: list[dict[str, Any]]


class _List(_Out):
    object: Literal["list"]
    has_more: bool
    next: str | None = Field(description="Send it as `after` to get the following page.")


class JobList(_List):
    """Jobs, newest first."""

    data: list[JobBrief]


class EventOut(_Out):
    """Something that happened to a job."""

    seq: int
    kind: EventKind
    at: str
    data: dict[str, Any]


class EventList(_List):
    """Events of a job, in order."""

    data: list[EventOut]


class Series(_Out):
    """A curve."""

    phase: str
    group: int | None = Field(
        description="Class group, from 0, where a stage is done in parts; each has its own curve."
    )
    name: str
    steps: list[float]
    values: list[float | None]


class MetricsOut(_Out):
    """The curves of a job."""

    object: Literal["metrics"]
    series: list[Series]


class FileOut(_Out):
    """A file of a job."""

    object: Literal["file"]
    path: str
    size_bytes: int
    sha256: str | None = Field(description="None while the file still grows.")
    media_type: str
    url: str


class FileList(_List):
    """Files of a job."""

    data: list[FileOut]


class DatasetOut(_Out):
    """A dataset that a job can name."""

    object: Literal["dataset"]
    id: str
    name: str
    type: Literal["builtin", "folder", "upload"]
    status: str
    facts: dict[str, Any] | None = Field(description="Classes, images, sizes, where known.")
    created_at: str | None


class DatasetList(_List):
    """Datasets by kind and name."""

    data: list[DatasetOut]


class ModelOut(_Out):
    """A base model that a job can name in `base.reference`."""

    object: Literal["model"]
    id: str
    kind: Literal["pixel", "latent"]
    image_size: int | None
    licence: str | None
    non_commercial: bool
    is_here: bool = Field(description="Whether its weights are on the machine of the API.")


class ModelList(_List):
    """Base models."""

    data: list[ModelOut]


class WorkerOut(_Out):
    """A worker."""

    object: Literal["worker"]
    id: str
    status: Literal["ready", "busy", "stopped", "lost"]
    started_at: str
    beat_at: str
    beat_age_seconds: float
    facts: dict[str, Any]


class WorkerList(_List):
    """Workers."""

    data: list[WorkerOut]


class EstimateOut(_Out):
    """What a job would take."""

    object: Literal["estimate"]
    seconds: dict[str, float] = Field(description="`expected`, `low` and `high`.")
    stages: list[dict[str, Any]]
    memory: dict[str, Any]
    disk: dict[str, Any]
    download_bytes: float
    licence: str | None
    non_commercial: bool = Field(
        description="Whether that licence forbids commercial use: the job then needs "
        "`acknowledge_licence`."
    )
    dataset: dict[str, Any]
    device: str
    warnings: list[str]
    decisions: list[dict[str, Any]]
    config: dict[str, Any]


class HealthOut(_Out):
    """Whether the service can be used."""

    status: Literal["ok"]
    checks: dict[str, Any] = Field(default_factory=dict)


class LoginOut(_Out):
    """A session has begun; it is in the cookie."""

    status: Literal["ok"]
    expires_at: str
