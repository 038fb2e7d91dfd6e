"""What operators want to see of the jobs that ended, read in one query."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.tables import JOBS


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of one attempt at a job."""

    job_id: str
    attempt: int
    at: datetime
    status: str
    phases: list[dict[str, Any]]
    """As in `JobRecord`: those of earlier attempts that were complete, too."""


def ended_since(database: Database, moment: datetime | None, *, limit: int = 10_000) -> list[Ended]:
    """Return the jobs that ended at a moment or later, in order of their ends.

    Args:
        database: Of the service.
        moment: No earlier ends; None: all.
        limit: At most so many.
    """
    columns = (JOBS.c.id, JOBS.c.attempt, JOBS.c.finished_at, JOBS.c.status, JOBS.c.phases)
    query = sa.select(*columns)
    query = query.where(JOBS.c.finished_at.is_not(None)).order_by(JOBS.c.finished_at).limit(limit)
    if moment is not None:
        query = query.where(JOBS.c.finished_at >= moment)
    with database.read() as connection:
        return [Ended(*row) for row in connection.execute(query)]
