"""The engine under the queue: DBOS, reached through its client.

A job is the workflow `JOB_ID.ATTEMPT` on the queue `coord`; its stages are workflows on the queue
`gpu` (see `app.worker.workflows`). The store is the truth of a job, the engine only makes it go
on: what the engine misses, `reconcile` hands to it again.
"""

import threading
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions

from app.jobs.database import quick_and_safe, with_driver
from app.jobs.phases import begun_again
from app.jobs.records import JobRecord
from app.jobs.store import JobStore
from app.settings import Settings
from distillery.errors import JobError

APPLICATION = "distillery"
VERSION = "wf1"
"""Of the order of steps in the workflows. Raise it when that order changes, and let one worker of
the old version run until its jobs have ended: a workflow stays with the version that began it."""
COORD = "coord"
GPU = "gpu"
JOB_WORKFLOW = "distillery_job"
ALIVE = ("ENQUEUED", "PENDING", "DELAYED")

PLACES = 200_000_000  # tickets of one priority; 9 priorities fill DBOS's range of 31 bits


def workflow_id(job: JobRecord) -> str:
    """Return the id of a job's current workflow."""
    return f"{job.id}.{job.attempt}"


def queue_priority(priority: int, ticket: int) -> int:
    """Return the engine's priority, lowest first: by priority, then in order of submission."""
    return priority * PLACES + ticket % PLACES


def engine_url(settings: Settings) -> str:
    """Return the URL of the engine's tables.

    SQLite has one writer at a time, so there the engine has a file of its own beside ours.
    """
    url = with_driver(settings.database_url)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=f"{url.database.removesuffix('.sqlite')}-engine.sqlite")
        return url.render_as_string(hide_password=False)
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def prepare_engine(url: str) -> None:
    """Make or update the engine's tables; several processes may do so at once."""
    DBOS.migrate(url)
    if url.startswith("sqlite"):  # DBOS leaves SQLite's journal as it is; the setting stays
        engine = sa.create_engine(url)
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        engine.dispose()


def sqlite_engine(url: str) -> sa.Engine | None:
    """Return the connections of the engine to SQLite, None for Postgres.

    DBOS would ask before each use whether the file is still there, and wait for the disk at each
    commit; else these are as it makes them (`dbos._sys_db_sqlite`).
    """
    if not url.startswith("sqlite"):
        return None
    made = sa.create_engine(url, pool_size=10, pool_timeout=30)

    @sa.event.listens_for(made, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA foreign_keys=ON")
        quick_and_safe(connection)

    return made


class JobEngine:
    """Starts, stops and removes the workflows of jobs."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        """Take the store of the jobs; connects when first used."""
        self.store = store
        self.url = engine_url(settings)
        self._client: DBOSClient | None = None
        self._connections: sa.Engine | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> DBOSClient:
        """The connection to the engine's tables."""
        with self._lock:
            if self._client is None:
                self._connections = sqlite_engine(self.url)
                self._client = DBOSClient(
                    system_database_url=self.url,
                    system_database_engine=self._connections,
                    serializer=DBOSPortableJSONSerializer(),
                    application_name=APPLICATION,
                    retry_connection_errors=False,  # a request fails and can be sent again
                )
            return self._client

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.destroy()
                self._client = None
            if self._connections is not None:
                self._connections.dispose()

    def submit(self, job: JobRecord) -> None:
        """Hand a queued job to the workers; once more changes nothing."""
        options: EnqueueOptions = {
            "workflow_name": JOB_WORKFLOW,
            "queue_name": COORD,
            "workflow_id": workflow_id(job),
            "app_version": VERSION,
            "priority": queue_priority(job.priority, job.ticket),
        }
        self.client.enqueue(options, job.id, job.attempt)

    def cancel(self, job_id: str) -> JobRecord:
        """Stop a job: at once where it waits, at its next checkpoint where it runs.

        Returns:
            The job as it is then; one that had already ended is as it was.

        Raises:
            JobError: If there is no such job.
        """
        job = self.store.change(job_id, expect={"queued"}, status="canceled")
        if job is not None:
            self.stop(job)
            return job
        job = self.store.change(job_id, expect={"running"}, status="canceling")
        return job or self._existing(job_id)

    def stop(self, job: JobRecord) -> None:
        """Take the workflows of a job that has ended out of the queue."""
        self.client.cancel_workflow(workflow_id(job), cancel_children=True)

    def retry(self, job_id: str) -> JobRecord:
        """Run a failed or canceled job again, from its last complete stage and checkpoint.

        Raises:
            JobError: If there is no such job, or it has not ended, or it succeeded.
        """
        before = self._existing(job_id)
        job = self.store.change(
            job_id, expect={"failed", "canceled"}, status="queued", attempt=before.attempt + 1,
            error=None, worker=None, progress=None, phases=begun_again(before.phases),
        )  # fmt: skip
        if job is None:
            raise JobError(f"job {job_id} is {before.status}: only a failed or canceled one can be")
        self.submit(job)
        return job

    def forget(self, job_ids: Iterable[str]) -> None:
        """Remove the workflows of jobs that are no more."""
        for job_id in job_ids:
            found = self.client.list_workflows(
                workflow_id_prefix=f"{job_id}.", load_input=False, load_output=False
            )
            ids = [status.workflow_id for status in found]
            if ids:
                self.client.delete_workflows(ids)

    def statuses(self, jobs: Iterable[JobRecord]) -> dict[str, str]:
        """Return the engine's status of each job that it knows, by job id."""
        by_workflow = {workflow_id(job): job.id for job in jobs}
        if not by_workflow:
            return {}
        found: list[Any] = self.client.list_workflows(
            workflow_ids=list(by_workflow), load_input=False, load_output=False
        )
        return {by_workflow[status.workflow_id]: status.status for status in found}

    def reconcile(self) -> list[str]:
        """Bring the engine to what the store says; return the ids of the jobs that it touched.

        A job whose process died between store and engine is submitted now. One whose workflow
        ended without the job's knowing ends too, so that nothing waits for ever.
        """
        active, _ = self.store.list(status={"queued", "running", "canceling"}, limit=10_000)
        statuses = self.statuses(active)
        touched = [job.id for job in active if self._mend(job, statuses.get(job.id))]
        return touched

    def _mend(self, job: JobRecord, status: str | None) -> bool:
        """Bring one job and its workflow together; say whether anything was to be done."""
        if status in ALIVE:
            return False
        if status is None:
            self.submit(job)
            return True
        current = self.store.get(job.id)  # it may have ended since the list was made
        if current is None or current.attempt != job.attempt or current.is_terminal:
            return False
        if status == "CANCELLED":
            expect = {"queued"} if current.status == "queued" else {"canceling"}
            return self.store.change(job.id, expect=expect, status="canceled") is not None  # type: ignore[arg-type]
        error = {
            "code": "internal_error",
            "message": "the queue lost this job's workflow",
            "hint": "retry the job: it goes on after its last complete stage",
            "phase": job.phase, "retryable": True, "log_tail": "",
        }  # fmt: skip
        kind = "canceled" if current.status == "canceling" else "failed"
        fields: dict[str, Any] = {} if kind == "canceled" else {"error": error}
        ended = self.store.change(job.id, expect={current.status}, status=kind, **fields)
        return ended is not None

    def _existing(self, job_id: str) -> JobRecord:
        """Return a job that must be there."""
        job = self.store.get(job_id)
        if job is None:
            raise JobError(f"there is no job {job_id}")
        return job
