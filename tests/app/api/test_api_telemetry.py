"""What is counted of jobs that end: each end once, each stage once, whatever a clock says."""

from datetime import timedelta

import pytest

from app.jobs.phases import begun_again, set_phase
from app.jobs.records import JobRecord, Status
from app.jobs.rows import now
from app.jobs.tables import JOBS
from tests.app.api.conftest import Place


def end(place: Place, job: JobRecord, status: Status, *stages: str) -> JobRecord:
    """Let a job run these stages, a second each, and end."""
    place.store.change(job.id, expect={"queued"}, status="running", phase=stages[0])
    for stage in stages:
        set_phase(place.service.database, job.id, stage, {"status": "succeeded", "seconds": 1.0})
    ended = place.store.change(job.id, expect={"running"}, status=status)
    assert ended is not None
    return ended


def count_of(place: Place, line: str) -> float:
    """Return a figure of the application's metrics, 0 where it is not told."""
    text = place.client.app.state.api.telemetry.render().decode()  # type: ignore[attr-defined]
    found = [each.split()[-1] for each in text.splitlines() if each.startswith(line + " ")]
    return float(found[0]) if found else 0.0


def stages_of(place: Place, name: str) -> float:
    return count_of(place, f'distillery_stage_duration_seconds_count{{stage="{name}"}}')


@pytest.mark.parametrize("is_looked_at", [True, False])
def test_a_stage_of_an_earlier_attempt_is_counted_once(place: Place, is_looked_at: bool) -> None:
    failed = end(place, place.store.create({}), "failed", "plan", "prepare")
    if is_looked_at:
        assert (stages_of(place, "plan"), stages_of(place, "prepare")) == (1, 1)
    again = place.store.change(
        failed.id, expect={"failed"}, status="queued", attempt=2, phases=begun_again(failed.phases)
    )
    assert again is not None
    end(place, again, "succeeded", "plan", "prepare", "base")  # what is complete is told again
    assert [stages_of(place, name) for name in ("plan", "prepare", "base")] == [1, 1, 1]
    assert count_of(place, 'distillery_jobs_ended_total{status="succeeded"}') == 1
    assert count_of(place, 'distillery_jobs_ended_total{status="failed"}') == is_looked_at


def test_an_end_by_a_clock_that_lags_is_counted_and_only_once(place: Place) -> None:
    end(place, place.store.create({}), "succeeded", "plan")
    assert stages_of(place, "plan") == 1
    late = end(place, place.store.create({}), "succeeded", "plan")
    with place.service.database.write() as connection:
        earlier = now() - timedelta(minutes=3)
        connection.execute(JOBS.update().where(JOBS.c.id == late.id).values(finished_at=earlier))
    assert [stages_of(place, "plan") for _ in range(3)] == [2, 2, 2]
    assert count_of(place, 'distillery_jobs_ended_total{status="succeeded"}') == 2
