"""From table rows to records and back; what `store` and its neighbours share."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from app.jobs.records import EventRecord, JobRecord, Status
from app.jobs.tables import COUNTERS, EVENTS, JOBS


def now() -> datetime:
    """Return this moment in UTC."""
    return datetime.now(UTC)


def to_job(row: sa.Row[Any]) -> JobRecord:
    """Return the job of a row."""
    return JobRecord(**row._mapping)


def to_event(row: sa.Row[Any]) -> EventRecord:
    """Return the event of a row."""
    return EventRecord(**row._mapping)


def next_ticket(connection: sa.Connection) -> int:
    """Return the next number in the order of submission, for the holder of a write transaction."""
    taken = COUNTERS.update().where(COUNTERS.c.name == "ticket")
    statement = taken.values(value=COUNTERS.c.value + 1).returning(COUNTERS.c.value)
    return connection.execute(statement).scalar_one()


def position(connection: sa.Connection, priority: int, ticket: int) -> int:
    """Return the place in the queue, from 1, of a queued job with this priority and ticket."""
    jobs = JOBS.c
    before = sa.or_(
        jobs.priority < priority, sa.and_(jobs.priority == priority, jobs.ticket < ticket)
    )
    query = sa.select(sa.func.count()).where(jobs.status == "queued", before)
    return 1 + (connection.scalar(query) or 0)


def update_job(
    connection: sa.Connection, job_id: str, expect: Collection[Status], fields: Mapping[str, Any]
) -> JobRecord | None:
    """Change a job in an expected status and count its revision up."""
    statement = (
        JOBS.update()
        .where(JOBS.c.id == job_id, JOBS.c.status.in_(list(expect)))
        .values(revision=JOBS.c.revision + 1, **fields)
        .returning(JOBS)
    )
    row = connection.execute(statement).one_or_none()
    return None if row is None else to_job(row)


def insert_event(
    connection: sa.Connection, job_id: str, seq: int, kind: str, data: dict[str, Any]
) -> None:
    """Store an event under the sequence number that its change has just taken."""
    row = {"job_id": job_id, "seq": seq, "at": now(), "kind": kind, "data": data}
    connection.execute(EVENTS.insert(), row)
