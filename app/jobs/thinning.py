"""Finished jobs keep their history and lose the weight of it: progress and figures are thinned.

A long job leaves thousands of events that only mattered while somebody watched. Of its progress
the last one stays, of its figures what the curves need: the first and last, and of each stretch
the lowest and highest value of every curve.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.records import TERMINAL
from app.jobs.rows import now
from app.jobs.tables import EVENTS, JOBS

AGE = timedelta(days=1)
NUM_STRETCHES = 250
CHUNK = 500
Figures = tuple[int, Mapping[str, Any]]
"""Sequence number and data of a metric event."""


def thin_finished(database: Database, age: timedelta = AGE) -> list[str]:
    """Thin the events of jobs that finished longer ago than `age`; return their ids.

    A job that was thinned has one event of progress, and is not looked at again.
    """
    query = (
        sa.select(JOBS.c.id)
        .join(EVENTS, EVENTS.c.job_id == JOBS.c.id)
        .where(JOBS.c.status.in_(list(TERMINAL)), JOBS.c.finished_at < now() - age)
        .where(EVENTS.c.kind == "progress")
        .group_by(JOBS.c.id)
        .having(sa.func.count() > 1)
    )
    with database.read() as connection:
        job_ids = list(connection.scalars(query))
    for job_id in job_ids:
        _thin(database, job_id)
    return job_ids


def _thin(database: Database, job_id: str) -> None:
    """Thin the events of one job, unless it has been retried meanwhile."""
    events = sa.select(EVENTS.c.seq, EVENTS.c.kind, EVENTS.c.data).order_by(EVENTS.c.seq)
    events = events.where(EVENTS.c.job_id == job_id, EVENTS.c.kind.in_(["progress", "metric"]))
    with database.write() as connection:
        status = sa.select(JOBS.c.status).where(JOBS.c.id == job_id).with_for_update()
        if connection.scalar(status) not in TERMINAL:
            return
        rows = connection.execute(events).all()
        progress = [row.seq for row in rows if row.kind == "progress"]
        figures = [(row.seq, row.data) for row in rows if row.kind == "metric"]
        spare = progress[:-1] + sorted({seq for seq, _ in figures} - kept(figures))
        for start in range(0, len(spare), CHUNK):
            chunk = spare[start : start + CHUNK]
            connection.execute(
                EVENTS.delete().where(EVENTS.c.job_id == job_id, EVENTS.c.seq.in_(chunk))
            )


def kept(figures: Iterable[Figures], num_stretches: int = NUM_STRETCHES) -> set[int]:
    """Return the sequence numbers of the events that every curve keeps its shape with."""
    curves: dict[tuple[Any, Any, str], list[tuple[int, float]]] = defaultdict(list)
    for seq, data in figures:
        for name, value in (data.get("values") or {}).items():
            curves[data.get("phase"), data.get("group"), name].append((seq, value))
    found: set[int] = set()
    for points in curves.values():
        found |= {points[0][0], points[-1][0]}
        count = min(num_stretches, len(points))
        for number in range(count):
            first, last = (len(points) * place // count for place in (number, number + 1))
            stretch = sorted(points[first:last], key=lambda point: point[1])
            found |= {stretch[0][0], stretch[-1][0]}
    return found
