"""A service on SQLite in a temporary folder, with an engine that only does what the store needs."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from app.api.app import build_api
from app.jobs.answers import AnswerStore
from app.jobs.database import Database
from app.jobs.datasets import DatasetStore
from app.jobs.keys import KeyStore
from app.jobs.records import JobRecord
from app.jobs.service import Service
from app.jobs.store import JobStore
from app.jobs.workers import WorkerStore
from app.settings import Settings, read_settings
from distillery.errors import JobError

BASE = "http://localhost"


@dataclass
class FakeEngine:
    """The engine without DBOS: notes what it is told, and moves jobs as the real one does."""

    store: JobStore
    submitted: list[str] = field(default_factory=list)
    fails: bool = False

    def submit(self, job: JobRecord) -> None:
        if self.fails:
            raise RuntimeError("the queue is away")
        self.submitted.append(f"{job.id}.{job.attempt}")

    def cancel(self, job_id: str) -> JobRecord:
        job = self.store.change(job_id, expect={"queued"}, status="canceled")
        job = job or self.store.change(job_id, expect={"running"}, status="canceling")
        job = job or self.store.get(job_id)
        if job is None:
            raise JobError("there is no such job")
        return job

    def retry(self, job_id: str) -> JobRecord:
        before = self.store.get(job_id)
        job = before and self.store.change(
            job_id, expect={"failed", "canceled"}, status="queued", attempt=before.attempt + 1,
            error=None,
        )  # fmt: skip
        if job is None:
            raise JobError("it cannot run again")
        self.submit(job)
        return job

    def forget(self, job_ids: list[str]) -> None:
        self.submitted = [each for each in self.submitted if each.split(".")[0] not in job_ids]

    def reconcile(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


@dataclass
class Place:
    """A running API and what lies under it."""

    client: TestClient
    service: Service
    key: str

    @property
    def settings(self) -> Settings:
        return self.service.settings

    @property
    def store(self) -> JobStore:
        return self.service.store

    def anonymous(self) -> TestClient:
        return TestClient(self.client.app, base_url=BASE)

    def make(self, **body: Any) -> str:
        """Create a job and return its id."""
        answer = self.client.post("/jobs", json={"dataset": "digits", **body})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def finish(self, job_id: str, status: str = "succeeded") -> Path:
        """Let a job run and end; return the folder of its bundle."""
        self.store.change(job_id, expect={"queued"}, status="running", phase="plan")
        folder = self.service.job_folder(job_id)
        bundle = write_bundle(folder)
        result = {"content_digest": "c" * 64, "accuracy": 0.97, "controls": []}
        self.store.change(
            job_id,
            expect={"running"},
            status=status,
            result=result if status == "succeeded" else None,
        )  # type: ignore[arg-type]
        return bundle


def write_bundle(folder: Path, content: bytes = bytes(range(256)) * 40) -> Path:
    bundle = folder / "bundle"
    (bundle / "data").mkdir(parents=True, exist_ok=True)
    (bundle / "distilled.safetensors").write_bytes(content)
    (bundle / "report.json").write_text(json.dumps({"accuracy": 0.97}))
    (bundle / "report.html").write_text("<!doctype html><p>report")
    (bundle / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    digest = hashlib.sha256(content).hexdigest()
    (bundle / "SHA256SUMS").write_text(f"{digest}  distilled.safetensors\n")
    (folder / "job.log").write_text("".join(f"line {n}\n" for n in range(100)))
    return bundle


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    env = {
        "HOME": str(tmp_path), "DISTILLERY_DATA": str(tmp_path / "data"), "PATH": "/usr/bin:/bin",
        "DISTILLERY_DATASETS": str(tmp_path / "mounted"), "OMP_NUM_THREADS": "1",
        "DISTILLERY_MODELS": str(tmp_path / "models"),
        "DISTILLERY_DISK_FLOOR_BYTES": "1000",
    }  # fmt: skip
    return read_settings(env)


def open_place(settings: Settings) -> tuple[Service, FakeEngine]:
    settings.data.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database_url)
    if database.is_sqlite:  # no test pulls the plug
        sa.event.listen(
            database.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF")
        )
    database.migrate()
    store = JobStore(database)
    engine = FakeEngine(store)
    service = Service(
        settings, database, store, DatasetStore(database), KeyStore(database),
        AnswerStore(database), WorkerStore(database), engine,  # type: ignore[arg-type]
    )  # fmt: skip
    return service, engine


@pytest.fixture
def changes() -> dict[str, Any]:
    """Settings that a test wants otherwise; parametrise it."""
    return {}


@pytest.fixture
def place(settings: Settings, changes: dict[str, Any]) -> Iterator[Place]:
    service, _ = open_place(replace(settings, **changes))
    _, key = service.keys.create("test")
    app = build_api(service.settings, service)
    app.state.api.hub.interval_s = 0.02
    with TestClient(app, base_url=BASE) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield Place(client, service, key)
    service.database.dispose()


@pytest.fixture
def client(place: Place) -> TestClient:
    return place.client
