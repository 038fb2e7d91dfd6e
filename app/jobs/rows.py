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
    return connection.execute(TAKE_TICKET).scalar_one()


BY_ID = sa.select(JOBS).where(JOBS.c.id == sa.bindparam("job_id"))
"""Built once: SQLAlchemy takes longer to put a query together than SQLite to answer it."""
BEFORE = sa.select(sa.func.count()).where(
    JOBS.c.status == "queued",
    sa.or_(
        JOBS.c.priority < sa.bindparam("priority"),
        sa.and_(
            JOBS.c.priority == sa.bindparam("priority"), JOBS.c.ticket < sa.bindparam("ticket")
        ),
    ),
)
TAKE_TICKET = (
    COUNTERS.update()
    .where(COUNTERS.c.name == "ticket")
    .values(value=COUNTERS.c.value + 1)
    .returning(COUNTERS.c.value)
)
ADD_EVENT = EVENTS.insert()


def find_job(connection: sa.Connection, job_id: str) -> JobRecord | None:
    """Return a job, None where there is none of this id."""
    row = connection.execute(BY_ID, {"job_id": job_id}).one_or_none()
    return None if row is None else to_job(row)


def position(connection: sa.Connection, priority: int, ticket: int) -> int:
    """Return the place in the queue, from 1, of a queued job with this priority and ticket."""
    return 1 + (connection.scalar(BEFORE, {"priority": priority, "ticket": ticket}) or 0)


def update_job(
    connection: sa.Connection, job_id: str, expect: Collection[Status], fields: Mapping[str, Any],
    revision: int | None = None,
) -> JobRecord | None:  # fmt: skip
    """Change a job in an expected status, and at an expected revision, and count that up."""
    statement = (
        JOBS.update()
        .where(JOBS.c.id == job_id, JOBS.c.status.in_(list(expect)))
        .values(revision=JOBS.c.revision + 1, **fields)
        .returning(JOBS)
    )
    if revision is not None:
        statement = statement.where(JOBS.c.revision == revision)
    row = connection.execute(statement).one_or_none()
    return None if row is None else to_job(row)


def insert_event(
    connection: sa.Connection, job_id: str, seq: int, kind: str, data: dict[str, Any]
) -> None:
    """Store an event under the sequence number that its change has just taken."""
    row = {"job_id": job_id, "seq": seq, "at": now(), "kind": kind, "data": data}
    connection.execute(ADD_EVENT, row)
