"""Jobs change by compare-and-swap, and every change has its event and its revision."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.jobs.database import MIGRATIONS, Database
from app.jobs.phases import PHASES, set_phase
from app.jobs.records import Idempotency
from app.jobs.rows import BEFORE
from app.jobs.store import JobStore
from app.jobs.tables import QUEUE_INDEX, VERSION
from distillery.errors import ConfigError


@pytest.fixture
def store(database_url: str) -> Iterator[JobStore]:
    database = Database(database_url)
    database.migrate()
    yield JobStore(database)
    database.dispose()


REQUEST = {"images_per_class": 3, "preset": "smoke", "data": {"dataset": "digits"}}


def test_a_new_job_waits_and_echoes_what_was_asked(store: JobStore) -> None:
    made = store.create(REQUEST, name="a", metadata={"team": "vision"})
    job = store.get(made.id)
    assert job == made
    assert job.id.startswith("job_") and len(job.id) == 30
    assert (job.status, job.revision, job.attempt, job.priority) == ("queued", 1, 1, 5)
    assert (job.dataset, job.images_per_class, job.preset) == ("digits", 3, "smoke")
    assert [e.data["queue_position"] for e in store.events(job.id)] == [1]


def test_a_change_from_another_status_does_nothing(store: JobStore) -> None:
    job = store.create(REQUEST)
    assert store.change(job.id, expect={"running"}, status="canceling") is None
    assert store.get(job.id).revision == 1
    running = store.change(job.id, expect={"queued"}, status="running", phase="plan")
    assert (running.status, running.revision) == ("running", 2) and running.started_at is not None
    assert store.change("job_none", expect={"queued"}, status="running") is None


def test_steps_that_the_machine_of_statuses_lacks_are_refused(store: JobStore) -> None:
    job = store.create(REQUEST)
    with pytest.raises(ValueError, match="from queued to canceling"):
        store.change(job.id, expect={"queued"}, status="canceling")


def test_revision_is_the_number_of_the_last_event(store: JobStore) -> None:
    job = store.create(REQUEST)
    store.change(job.id, expect={"queued"}, status="running")
    assert store.add_event(job.id, "progress", {"x": 1}, progress={"value": 0.5}) == 3
    ended = store.change(job.id, expect={"running"}, status="failed", error={"code": "x"})
    events = store.events(job.id)
    assert [(e.seq, e.kind) for e in events] == [
        (1, "status"), (2, "status"), (3, "progress"), (4, "status"), (5, "done"),
    ]  # fmt: skip
    assert ended.revision == 5 and ended.finished_at is not None
    assert ended.progress == {"value": 0.5}
    assert [e.seq for e in store.events(job.id, after=3, limit=1)] == [4]
    assert store.add_event(job.id, "progress", {}, expect={"running"}) is None


def test_retry_goes_to_the_end_of_the_queue(store: JobStore) -> None:
    first, second = store.create(REQUEST), store.create(REQUEST)
    store.change(first.id, expect={"queued"}, status="canceled")
    again = store.change(first.id, expect={"canceled"}, status="queued", attempt=2)
    assert again.ticket > second.ticket and again.finished_at is None
    assert store.queue_position(first.id) == 2


def test_queue_position_follows_priority_then_submission(store: JobStore) -> None:
    low, normal, high = (store.create(REQUEST, priority=p) for p in (9, 5, 1))
    later = store.create(REQUEST, priority=1)
    positions = [store.queue_position(j.id) for j in (high, later, normal, low)]
    assert positions == [1, 2, 3, 4]
    store.change(high.id, expect={"queued"}, status="running")
    assert store.queue_position(high.id) is None and store.queue_position(low.id) == 3


def test_a_job_comes_with_its_place(store: JobStore) -> None:
    first, second = store.create(REQUEST), store.create(REQUEST)
    assert store.get_placed(second.id) == (second, 2) and store.place_of(second) == 2
    assert store.num_queued() == 2
    running = store.change(first.id, expect={"queued"}, status="running")
    assert store.get_placed(first.id) == (running, None) and store.num_queued() == 1
    assert store.get_placed("job_nobody") == (None, None)


def test_list_is_newest_first_with_filters_and_a_cursor(store: JobStore) -> None:
    jobs = [store.create(REQUEST, metadata={'a"b': str(i % 2)}) for i in range(5)]
    page, more = store.list(limit=2)
    assert [j.id for j in page] == [jobs[4].id, jobs[3].id] and more
    page, more = store.list(after=page[-1].id, limit=3)
    assert [j.id for j in page] == [j.id for j in jobs[2::-1]] and not more
    assert [j.id for j in store.list(metadata={'a"b': "1"})[0]] == [jobs[3].id, jobs[1].id]
    store.change(jobs[0].id, expect={"queued"}, status="canceled")
    assert [j.id for j in store.list(status="canceled")[0]] == [jobs[0].id]
    assert store.list(dataset="other") == ([], False)
    assert store.counts()["queued"] == 4 and store.counts()["failed"] == 0


def test_changed_since_answers_for_many_jobs_at_once(store: JobStore) -> None:
    a, b = store.create(REQUEST), store.create(REQUEST)
    store.add_event(b.id, "log", {"message": "x"})
    found = store.changed_since({a.id: 1, b.id: 1, "job_none": 0})
    assert [(e.job_id, e.seq) for e in found[b.id]] == [(b.id, 2)] and set(found) == {b.id}


def test_a_key_makes_one_job(store: JobStore) -> None:
    key = Idempotency(key="k", scope="s", body_digest="d")
    store.create(REQUEST, idempotency=key)
    with pytest.raises(sa.exc.IntegrityError):
        store.create(REQUEST, idempotency=key)
    assert sum(store.counts().values()) == 1


def test_only_finished_jobs_can_be_deleted(store: JobStore) -> None:
    job = store.create(REQUEST)
    with pytest.raises(ValueError, match="cancel it first"):
        store.delete(job.id)
    store.change(job.id, expect={"queued"}, status="canceled")
    assert store.delete(job.id) and not store.delete(job.id)
    assert store.events(job.id) == []


def test_of_many_that_change_a_job_at_once_one_wins(store: JobStore) -> None:
    job = store.create(REQUEST)

    def start(_: int) -> bool:
        return store.change(job.id, expect={"queued"}, status="running") is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(start, range(16))) == 1
    assert [event.seq for event in store.events(job.id)] == [1, 2]


def test_many_writers_wait_for_each_other(store: JobStore) -> None:
    job = store.create(REQUEST)

    def add(number: int) -> int | None:
        store.create(REQUEST)
        return store.add_event(job.id, "log", {"number": number})

    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(add, range(40)))
    assert sorted(numbers) == list(range(2, 42))
    tickets = [found.ticket for found in store.list(limit=100)[0]]
    assert sorted(tickets) == list(range(1, 42))


def test_parts_of_a_phase_keep_each_others_changes(store: JobStore) -> None:
    job = store.create(REQUEST)
    store.change(job.id, expect={"queued"}, status="running")

    def finish(name: str) -> None:
        set_phase(store.database, job.id, name, {"status": "succeeded"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(finish, PHASES))
    assert {phase["status"] for phase in store.get(job.id).phases} == {"succeeded"}
    assert store.get(job.id).revision == 2 + len(PHASES)


def test_migrating_twice_and_at_once_changes_nothing(store: JobStore) -> None:
    job = store.create(REQUEST)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.database.migrate(), range(4)))
    assert store.get(job.id) == job


def test_a_database_of_the_first_version_gets_the_index(store: JobStore) -> None:
    with store.database.write() as connection:
        QUEUE_INDEX.drop(connection)
        connection.execute(VERSION.update().values(version=1))
    store.database.migrate()
    with store.database.read() as connection:
        assert connection.scalar(sa.select(VERSION.c.version)) == len(MIGRATIONS)
        assert "jobs_by_place" in {i["name"] for i in sa.inspect(connection).get_indexes("jobs")}


def test_sqlite_finds_the_place_in_the_queue_by_the_index(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'queue.sqlite'}")
    database.migrate()
    with database.read() as connection:
        query = "EXPLAIN QUERY PLAN " + str(BEFORE.compile(dialect=connection.dialect))
        values = ("queued", 5, 5, 7)
        plan = str(connection.exec_driver_sql(query, values).all())
        # 1 is NORMAL: a commit does not wait for the disk, and the file stays whole
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
    database.dispose()
    assert "jobs_by_place" in plan and "SCAN" not in plan


def test_a_newer_database_is_refused(store: JobStore) -> None:
    with store.database.write() as connection:
        connection.execute(VERSION.update().values(version=99))
    with pytest.raises(ConfigError, match="newer distillery"):
        store.database.migrate()
