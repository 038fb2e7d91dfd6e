"""Finished jobs keep what their curves and their history need, and no more."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from app.jobs.database import Database
from app.jobs.store import JobStore
from app.jobs.thinning import kept, thin_finished

NOW = timedelta(seconds=-1)


@pytest.fixture
def store(database_url: str) -> Iterator[JobStore]:
    database = Database(database_url)
    database.migrate()
    yield JobStore(database)
    database.dispose()


def finished(store: JobStore, num_events: int) -> str:
    job = store.create({})
    store.change(job.id, expect={"queued"}, status="running")
    for step in range(num_events):
        store.add_event(job.id, "progress", {"progress": {"step": step}})
        values = {"loss": 9.0 if step == 3 else 1.0}
        store.add_event(job.id, "metric", {"phase": "base", "step": step, "values": values})
    store.add_event(job.id, "log", {"level": "info", "message": "kept"})
    store.change(job.id, expect={"running"}, status="failed")
    return job.id


def test_old_finished_jobs_are_thinned_once(store: JobStore) -> None:
    job_id = finished(store, 4)
    assert thin_finished(store.database) == [], "it has just ended"
    before = {event.seq: event for event in store.events(job_id)}
    assert thin_finished(store.database, NOW) == [job_id]
    assert thin_finished(store.database, NOW) == []
    after = store.events(job_id)
    assert [event.kind for event in after] == (
        ["status", "status", "metric", "metric", "metric", "progress", "metric", "log", "status",
         "done"]
    )  # fmt: skip
    assert all(before[event.seq] == event for event in after), "numbers stay as they were"
    assert store.get(job_id).revision == after[-1].seq


def test_a_job_at_work_keeps_everything(store: JobStore) -> None:
    job_id = finished(store, 4)
    store.change(job_id, expect={"failed"}, status="queued", attempt=2)
    count = len(store.events(job_id))
    assert thin_finished(store.database, NOW) == []
    assert len(store.events(job_id)) == count


def test_curves_keep_their_ends_and_spikes() -> None:
    def figure(seq: int, group: int | None = None, value: float = 1.0) -> tuple[int, dict]:
        return seq, {"phase": "finetune", "group": group, "values": {"loss": value}}

    figures = [figure(seq, value=5.0 if seq == 777 else 1.0 + seq / 1e6) for seq in range(1000)]
    found = kept(figures, num_stretches=10)
    assert {0, 777, 999} <= found and len(found) <= 22
    own = [figure(2000, 3, 7.0), figure(2001, 3, 8.0)]
    assert {2000, 2001} <= kept(figures + own, num_stretches=1), "a group has its own curves"
    assert kept([]) == set()
