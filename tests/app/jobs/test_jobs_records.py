"""Ids, keys, answers, datasets and workers: small things that must be right."""

import time
from collections.abc import Iterator

import pytest

from app.jobs.answers import AnswerStore
from app.jobs.database import Database, with_driver
from app.jobs.datasets import DatasetStore
from app.jobs.ids import new_id
from app.jobs.keys import KeyStore
from app.jobs.records import NEXT, STATUSES, TERMINAL, Idempotency
from app.jobs.store import JobStore
from app.jobs.workers import WorkerStore
from distillery.errors import ConfigError


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.dispose()


def test_ids_sort_by_time() -> None:
    assert new_id("job", 0).startswith("job_0000000000")
    times = [1_000_000, 1_500_000, 2_000_000, 1_700_000_000_000_000_000]
    ids = [new_id("job", when) for when in times]
    assert ids == sorted(ids) and len(set(ids)) == 4
    assert all(len(made) == 4 + 26 for made in ids)
    assert new_id("job", 5) != new_id("job", 5)


def test_the_machine_of_statuses_ends_where_it_should() -> None:
    assert set(NEXT) == set(STATUSES)
    assert all(NEXT[status] <= {"queued"} for status in TERMINAL)
    assert all(NEXT[status] - {"queued"} for status in set(STATUSES) - TERMINAL)


def test_a_key_is_found_by_its_secret_until_it_is_revoked(database: Database) -> None:
    keys = KeyStore(database)
    record, secret = keys.create("ada")
    assert secret.startswith("dst_") and keys.find(secret) == record
    assert keys.find(secret + "x") is None
    with database.read() as connection:
        stored = connection.exec_driver_sql("select * from api_keys").all()
    assert secret not in str(stored)
    assert keys.revoke(record.id) and not keys.revoke(record.id)
    assert keys.find(secret) is None and keys.list()[0].revoked_at is not None


def test_an_answer_is_kept_for_the_one_who_asked(database: Database) -> None:
    answers = AnswerStore(database)
    first = Idempotency(key="k", scope="a", body_digest="d")
    job = JobStore(database).create({}, idempotency=first)
    assert answers.find("k", "a").job_id == job.id
    assert answers.find("k", "a").status is None and answers.find("k", "b") is None
    answers.finish("k", "a", status=202, headers={"Location": "/x"}, body="{}")
    found = answers.find("k", "a")
    assert (found.status, found.headers, found.body) == (202, {"Location": "/x"}, "{}")
    answers.purge()
    assert answers.find("k", "a") is not None


def test_datasets_by_name(database: Database) -> None:
    datasets = DatasetStore(database)
    made = datasets.create("photos", kind="upload", path="/x", status="inspecting")
    assert datasets.get("photos") == made and datasets.get("other") is None
    changed = datasets.change("photos", status="ready", facts={"classes": 3})
    assert changed == datasets.get("photos") and changed.facts == {"classes": 3}
    assert datasets.delete("photos") and not datasets.delete("photos")


def test_a_beat_counts_for_the_process_that_started_last(database: Database) -> None:
    workers = WorkerStore(database)
    workers.start("w", "boot-1", {"cores": 2})
    workers.start("w", "boot-2", {"cores": 2})
    assert not workers.beat("w", "boot-1")
    before = workers.get("w")
    time.sleep(0.05)
    assert workers.beat("w", "boot-2", {"cores": 4})
    after = workers.get("w")
    assert after.beat > before.beat and 0 <= after.age_s < 30 and after.facts == {"cores": 4}
    assert workers.stop("w", "boot-2") and workers.get("w").stopped_at is not None
    workers.forget("w", "boot-2")
    assert workers.get("w") is None


def test_other_databases_are_refused() -> None:
    assert with_driver("postgresql://h/d").drivername == "postgresql+psycopg"
    for text in ("mysql://h/d", "nonsense", ""):
        with pytest.raises(ConfigError, match="sqlite:/// or postgresql://"):
            with_driver(text)
