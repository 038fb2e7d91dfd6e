"""Jobs and their events: every read and every change of state, each in one short transaction.

A change names the statuses that it starts from and does nothing where the job has left them, so
that a cancel, a worker and a retry that meet never undo each other. Threads may share a store.
"""

from collections.abc import Collection, Mapping
from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.ids import new_id
from app.jobs.phases import new_phases
from app.jobs.records import (
    NEXT,
    STATUSES,
    EventKind,
    EventRecord,
    Idempotency,
    JobRecord,
    Status,
)
from app.jobs.rows import (
    find_job,
    insert_event,
    next_ticket,
    now,
    position,
    to_event,
    to_job,
    update_job,
)
from app.jobs.tables import ANSWERS, EVENTS, JOBS, LABELS

DEFAULT_PRIORITY = 5
NUM_QUEUED = sa.select(sa.func.count()).where(JOBS.c.status == "queued")
ADD_JOB = JOBS.insert()

Jobs = list[JobRecord]  # inside the class, `list` is its method
Events = list[EventRecord]


class JobStore:
    """The jobs of a database."""

    def __init__(self, database: Database) -> None:
        """Take the database; its tables must be there."""
        self.database = database

    def create(
        self,
        request: Mapping[str, Any],
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: int = DEFAULT_PRIORITY,
        idempotency: Idempotency | None = None,
    ) -> JobRecord:
        """Store a queued job and its first event.

        Args:
            request: Nested dict of the fields that the user set; checked by the caller.
            name: For people.
            metadata: Pairs to find the job by.
            priority: 1 (first) to 9.
            idempotency: Bound to the job in the same transaction (see `AnswerStore`).

        Raises:
            sqlalchemy.exc.IntegrityError: If the idempotency key is taken.
        """
        labels = dict(metadata or {})
        with self.database.write() as connection:
            row = _new_row(request, name, labels, priority, next_ticket(connection))
            connection.execute(ADD_JOB, row)
            if labels:
                pairs = [{"job_id": row["id"], "key": k, "value": v} for k, v in labels.items()]
                connection.execute(LABELS.insert(), pairs)
            if idempotency is not None:
                connection.execute(ANSWERS.insert(), _claim(idempotency, row["id"]))
            place = position(connection, priority, row["ticket"])
            data = {"status": "queued", "phase": None, "queue_position": place}
            insert_event(connection, row["id"], 1, "status", data)
        return JobRecord(**row)

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job, None where there is none of this id."""
        with self.database.read() as connection:
            return find_job(connection, job_id)

    def get_placed(self, job_id: str) -> tuple[JobRecord | None, int | None]:
        """Return a job and its place in the queue, from 1; None where it does not wait."""
        with self.database.read() as connection:
            job = find_job(connection, job_id)
            if job is None or job.status != "queued":
                return job, None
            return job, position(connection, job.priority, job.ticket)

    def list(
        self,
        *,
        status: Status | Collection[Status] | None = None,
        dataset: str | None = None,
        files: Collection[str] = (),
        metadata: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> tuple[Jobs, bool]:
        """Return jobs, newest first, and whether there are more.

        Args:
            status: Only of this status, or of these.
            dataset: Only of this dataset.
            files: Names of files and folders that count as this dataset too, wherever they lie.
            metadata: Only with all these pairs.
            after: Only older than the job of this id.
            limit: At most so many.
        """
        query = sa.select(JOBS).order_by(JOBS.c.id.desc()).limit(limit + 1)
        if status is not None:
            query = query.where(JOBS.c.status.in_([status] if isinstance(status, str) else status))
        if dataset is not None:
            ends = [JOBS.c.dataset.endswith(f"/{name}", autoescape=True) for name in files]
            stored = sa.and_(JOBS.c.dataset.startswith("/"), sa.or_(sa.false(), *ends))
            query = query.where(sa.or_(JOBS.c.dataset == dataset, stored))
        if after is not None:
            query = query.where(JOBS.c.id < after)
        for key, value in (metadata or {}).items():
            pair = sa.select(LABELS.c.job_id).where(LABELS.c.key == key, LABELS.c.value == value)
            query = query.where(JOBS.c.id.in_(pair))
        with self.database.read() as connection:
            jobs = [to_job(row) for row in connection.execute(query)]
        return jobs[:limit], len(jobs) > limit

    def queue_position(self, job_id: str) -> int | None:
        """Return the place of a job in the queue, from 1; None where it does not wait."""
        return self.get_placed(job_id)[1]

    def place_of(self, job: JobRecord) -> int:
        """Return the place in the queue of a job that waits."""
        with self.database.read() as connection:
            return position(connection, job.priority, job.ticket)

    def num_queued(self) -> int:
        """Return how many jobs wait."""
        with self.database.read() as connection:
            return connection.scalar(NUM_QUEUED) or 0

    def counts(self) -> dict[Status, int]:
        """Return the number of jobs in each status."""
        query = sa.select(JOBS.c.status, sa.func.count()).group_by(JOBS.c.status)
        with self.database.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {status: found.get(status, 0) for status in STATUSES}

    def change(
        self, job_id: str, *, expect: Collection[Status], revision: int | None = None, **fields: Any
    ) -> JobRecord | None:
        """Change a job that is in one of the expected statuses; the event is of kind `status`.

        Args:
            job_id: Of the job.
            expect: Statuses to start from.
            revision: Revision to start from; None: any.
            fields: New values of the record's fields; times and the ticket are set here.

        Returns:
            The job after the change; None where it is gone, or in another status or revision.

        Raises:
            ValueError: If the new status does not follow all expected ones.
        """
        status = fields.get("status")
        for old in expect:
            if status is not None and status != old and status not in NEXT[old]:
                raise ValueError(f"a job cannot go from {old} to {status}")
        with self.database.write() as connection:
            if status is not None:
                fields |= _times(connection, status, fields)
            job = update_job(connection, job_id, expect, fields, revision)
            if job is None:
                return None
            waits = job.status == "queued"
            place = position(connection, job.priority, job.ticket) if waits else None
            data = {"status": job.status, "phase": job.phase, "queue_position": place}
            insert_event(connection, job_id, job.revision, "status", data)
            if status is not None and job.is_terminal:
                job = update_job(connection, job_id, {job.status}, {})
                assert job is not None
                insert_event(connection, job_id, job.revision, "done", {"status": job.status})
        return job

    def add_event(
        self,
        job_id: str,
        kind: EventKind,
        data: dict[str, Any],
        *,
        expect: Collection[Status] = STATUSES,
        **fields: Any,
    ) -> int | None:
        """Store an event, and new values of fields that it brings.

        Returns:
            Its sequence number; None where the job is gone or not in an expected status.
        """
        assert "status" not in fields, "change() moves a job from status to status"
        with self.database.write() as connection:
            job = update_job(connection, job_id, expect, fields)
            if job is None:
                return None
            insert_event(connection, job_id, job.revision, kind, data)
        return job.revision

    def events(
        self,
        job_id: str,
        *,
        after: int = 0,
        limit: int = 500,
        kinds: Collection[EventKind] | None = None,
    ) -> Events:
        """Return a job's events after a sequence number, in order."""
        query = sa.select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.seq > after)
        if kinds is not None:
            query = query.where(EVENTS.c.kind.in_(kinds))
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(EVENTS.c.seq).limit(limit))
            return [to_event(row) for row in rows]

    def changed_since(self, seen: Mapping[str, int], *, limit: int = 500) -> dict[str, Events]:
        """Return the events that followed, of each job in `seen` that has new ones.

        Args:
            seen: Last known sequence number by job id.
            limit: At most so many events of a job; the rest come with the next call.
        """
        query = sa.select(JOBS.c.id, JOBS.c.revision).where(JOBS.c.id.in_(list(seen)))
        with self.database.read() as connection:
            changed = [row.id for row in connection.execute(query) if row.revision > seen[row.id]]
            return {job_id: _events_after(connection, job_id, seen, limit) for job_id in changed}

    def delete(self, job_id: str) -> bool:
        """Remove a finished job and its events; say whether it was there.

        Raises:
            ValueError: If the job is not finished.
        """
        with self.database.write() as connection:
            query = sa.select(JOBS.c.status).where(JOBS.c.id == job_id)
            status = connection.scalar(query)
            if status is None:
                return False
            if NEXT[status] - {"queued"}:
                raise ValueError(f"job {job_id} is {status}: cancel it first")
            for table in (EVENTS, LABELS, ANSWERS):
                connection.execute(table.delete().where(table.c.job_id == job_id))
            connection.execute(JOBS.delete().where(JOBS.c.id == job_id))
        return True


def _new_row(
    request: Mapping[str, Any], name: str | None, labels: dict[str, str], priority: int, ticket: int
) -> dict[str, Any]:
    """Return the row of a new job."""
    return {
        "id": new_id("job"), "revision": 1, "status": "queued", "phase": None,
        "created_at": now(), "started_at": None, "finished_at": None,
        "request": dict(request), "config": None, "decisions": [],
        "name": name, "metadata": labels, "priority": priority, "ticket": ticket,
        "dataset": request.get("data", {}).get("dataset", "digits"),
        "images_per_class": request.get("images_per_class", 10),
        "preset": request.get("preset", "default"),
        "progress": None, "phases": new_phases(), "worker": None, "result": None, "error": None,
        "warnings": [], "attempt": 1,
    }  # fmt: skip


def _claim(idempotency: Idempotency, job_id: str | None) -> dict[str, Any]:
    """Return the row of a key whose answer is still to come."""
    return {
        "key": idempotency.key, "scope": idempotency.scope,
        "body_digest": idempotency.body_digest, "job_id": job_id,
        "status": None, "headers": {}, "body": "", "created_at": now(),
    }  # fmt: skip


def _times(connection: sa.Connection, status: Status, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times, and on a retry the place in the queue, that come with a new status."""
    if status == "running":
        return {"started_at": sa.func.coalesce(JOBS.c.started_at, sa.bindparam(None, now()))}
    if status == "queued" and "attempt" in fields:
        return {"started_at": None, "finished_at": None, "ticket": next_ticket(connection)}
    return {"finished_at": now()} if not NEXT[status] - {"queued"} else {}


def _events_after(
    connection: sa.Connection, job_id: str, seen: Mapping[str, int], limit: int
) -> list[EventRecord]:
    """Return the events of one job that followed."""
    query = sa.select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.seq > seen[job_id])
    return [to_event(row) for row in connection.execute(query.order_by(EVENTS.c.seq).limit(limit))]
