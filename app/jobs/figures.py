"""What operators want to see of the jobs that ended, read in one query."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.tables import JOBS


def ended_since(
    database: Database, moment: datetime | None, *, limit: int = 10_000
) -> list[tuple[datetime, str, list[dict[str, Any]]]]:
    """Return (end, status, phases) of the jobs that ended after a moment, in order of their ends.

    Args:
        database: Of the service.
        moment: Only later ends; None: all.
        limit: At most so many.
    """
    query = sa.select(JOBS.c.finished_at, JOBS.c.status, JOBS.c.phases)
    query = query.where(JOBS.c.finished_at.is_not(None)).order_by(JOBS.c.finished_at).limit(limit)
    if moment is not None:
        query = query.where(JOBS.c.finished_at > moment)
    with database.read() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]
