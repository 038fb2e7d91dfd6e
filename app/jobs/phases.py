"""The phases of a job: `plan` and the pipeline's stages, each with its own status.

Parts of one stage may run on several workers, so a phase is changed under the lock of its job's
row and the others stay as they are.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from app.jobs.database import Database
from app.jobs.records import JobRecord, Status
from app.jobs.rows import insert_event, update_job
from app.jobs.tables import JOBS
from generator.stage_names import STAGE_NAMES

PHASES = ("plan", *STAGE_NAMES)
ACTIVE: frozenset[Status] = frozenset({"running", "canceling"})


def new_phases() -> list[dict[str, Any]]:
    """Return the phases of a job that has not begun."""
    empty = {"status": "pending", "seconds": None, "summary": None, "cached": None}
    return [{"name": name, **empty} for name in PHASES]


def begun_again(phases: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the phases of a job that runs again: what was complete still is."""
    fresh = {phase["name"]: phase for phase in new_phases()}
    kept = {p["name"]: dict(p) for p in phases if p["status"] == "succeeded"}
    return [kept.get(name, fresh[name]) for name in PHASES]


def set_phase(
    database: Database,
    job_id: str,
    name: str,
    values: Mapping[str, Any],
    *,
    expect: Collection[Status] = ACTIVE,
    **fields: Any,
) -> JobRecord | None:
    """Change one phase of a job, with its event of kind `stage`, and other fields beside it.

    Returns:
        The job after the change; None where it is gone or not in an expected status.
    """
    with database.write() as connection:
        query = sa.select(JOBS.c.phases).where(JOBS.c.id == job_id).with_for_update()
        phases = connection.scalar(query)
        if phases is None:
            return None
        changed = [dict(p) | (dict(values) if p["name"] == name else {}) for p in phases]
        job = update_job(connection, job_id, expect, {"phases": changed, **fields})
        if job is None:
            return None
        data = next(phase for phase in changed if phase["name"] == name)
        insert_event(connection, job_id, job.revision, "stage", data)
    return job
