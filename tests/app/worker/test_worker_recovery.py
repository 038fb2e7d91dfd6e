"""The answers to what the engine leaves to us: ids, dead workers, versions, priorities, files."""

import json
import os
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from worker_house import House

from app.jobs.engine import VERSION, queue_priority, sqlite_engine, workflow_id
from app.jobs.housekeeping import delete_job, remove_old_jobs, settle_cancels, sweep, tend
from app.worker import main
from app.worker.identity import Identity, default_id
from app.worker.liveness import Liveness
from app.worker.locks import hold_executor, shared_lock
from app.worker.reaper import Reaper
from distillery.errors import JobError


def engine_rows(house: House, statement: str) -> list[sa.Row]:
    """Run a statement on the engine's own tables."""
    engine = sa.create_engine(house.service.engine.url)
    with engine.begin() as connection:
        found = connection.exec_driver_sql(statement)
        rows = found.all() if found.returns_rows else []
    engine.dispose()
    return rows


def hold(house: House, executor_id: str) -> None:
    """Make all waiting workflows look taken by a worker."""
    engine_rows(
        house,
        f"UPDATE workflow_status SET status = 'PENDING', executor_id = '{executor_id}'",
    )


def test_a_workflow_has_the_pinned_version_a_priority_and_json(house: House) -> None:
    job = house.submit({"seed": 3}, priority=2)
    row = engine_rows(house, "SELECT * FROM workflow_status")[0]._mapping
    assert row["application_version"] == VERSION == "wf1"
    assert row["priority"] == queue_priority(2, job.ticket)
    assert row["serialization"] == "portable_json"
    stored = str(engine_rows(house, "SELECT * FROM workflow_input") or row["inputs"])
    assert job.id in stored, "inputs are plain text, never pickled"


def test_both_files_are_in_wal_mode(house: House) -> None:
    assert engine_rows(house, "PRAGMA journal_mode") == [("wal",)]
    with house.service.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    made = sqlite_engine(house.service.engine.url)
    assert made is not None
    with made.connect() as connection:  # 1 is NORMAL
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    made.dispose()
    assert sqlite_engine("postgresql://somewhere/x") is None


def test_priorities_order_by_priority_then_ticket() -> None:
    order = [(1, 7), (1, 8), (2, 1), (5, 100_000_000), (9, 2), (9, 199_999_999)]
    numbers = [queue_priority(*pair) for pair in order]
    assert numbers == sorted(numbers) and 1 <= numbers[0] and numbers[-1] < 2**31


def test_submitting_twice_makes_one_workflow(house: House) -> None:
    job = house.submit()
    house.service.engine.submit(job)
    assert len(engine_rows(house, "SELECT * FROM workflow_status")) == 1


def test_a_job_that_never_reached_the_engine_is_handed_over(house: House) -> None:
    job = house.service.store.create({})
    assert house.service.engine.reconcile() == [job.id]
    assert house.service.engine.statuses([job]) == {job.id: "ENQUEUED"}
    assert house.service.engine.reconcile() == []


@pytest.mark.parametrize("engine_status", ["ERROR", "SUCCESS"])
@pytest.mark.parametrize(
    ("before", "status"),
    [("queued", "failed"), ("running", "failed"), ("canceling", "canceled")],
)
def test_a_job_whose_workflow_ended_without_it_ends_too(
    house: House, before: str, status: str, engine_status: str
) -> None:
    job = house.submit()
    if before != "queued":
        house.service.store.change(job.id, expect={"queued"}, status="running")
    if before == "canceling":
        assert house.service.engine.cancel(job.id).status == "canceling"
    engine_rows(house, f"UPDATE workflow_status SET status = '{engine_status}'")
    tend(house.service)
    ended = house.service.store.get(job.id)
    assert ended.status == status
    assert (ended.error or {}).get("retryable", False) == (status == "failed")
    again = house.service.engine.retry(job.id)
    assert house.service.engine.statuses([again]) == {job.id: "ENQUEUED"}
    assert workflow_id(again) == f"{job.id}.2"


def test_only_what_failed_or_was_canceled_can_be_retried(house: House) -> None:
    job = house.submit()
    with pytest.raises(JobError, match="is queued"):
        house.service.engine.retry(job.id)
    for verb in (house.service.engine.retry, house.service.engine.cancel):
        with pytest.raises(JobError, match="no job"):
            verb("job_none")


def test_a_canceled_job_leaves_the_queue_and_a_second_cancel_changes_nothing(house: House) -> None:
    job = house.submit()
    first, second = (house.service.engine.cancel(job.id) for _ in range(2))
    assert first.status == "canceled" and second == first
    assert house.service.engine.statuses([job]) == {job.id: "CANCELLED"}


def test_a_dead_workers_job_goes_back_to_the_queue(house: House) -> None:
    job = house.submit()
    house.service.store.change(
        job.id, expect={"queued"}, status="running", worker={"id": "dead", "device": "CPU"}
    )
    hold(house, "dead")
    reaper = Reaper(house.service, dead_after_s=0.2)
    assert reaper.look() == [], "nobody is dead at first sight"
    time.sleep(0.3)
    assert reaper.look() == ["dead"]
    row = engine_rows(house, "SELECT * FROM workflow_status")[0]._mapping
    assert row["status"] == "ENQUEUED"
    assert house.service.store.get(job.id).status == "queued"


def test_a_worker_that_beats_is_not_reaped_and_one_that_left_is_at_once(house: House) -> None:
    house.submit()
    hold(house, "w")
    workers = house.service.workers
    workers.start("w", "boot", {})
    reaped: list[str] = []
    reaper = Reaper(house.service, dead_after_s=0.3, recover=reaped.append)
    for _ in range(4):
        time.sleep(0.1)
        workers.beat("w", "boot")
        assert reaper.look() == []
    time.sleep(0.2)
    with shared_lock(house.service, "boot-w") as is_held:
        assert is_held
        time.sleep(0.2)
        assert reaper.look() == [], "it is just starting again"
    assert reaper.look() == ["w"] == reaped
    workers.start("w", "boot-2", {})
    workers.stop("w", "boot-2")
    assert reaper.look() == ["w"]


def test_one_reaper_at_a_time(house: House, database_url: str) -> None:
    with shared_lock(house.service, "reaper") as first:
        taken: list[bool] = []

        def other() -> None:
            with shared_lock(house.service, "reaper") as second:
                taken.append(second)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert first and taken == [False]
    with shared_lock(house.service, "reaper") as again:
        assert again


def test_an_id_is_taken_while_worker_or_child_lives(tmp_path: Path) -> None:
    lock = hold_executor(tmp_path, "w", wait_s=0)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                             pass_fds=(lock,))  # fmt: skip
    os.close(lock)  # as when the worker dies
    with pytest.raises(JobError, match="running as w"):
        hold_executor(tmp_path, "w", wait_s=0.1)
    child.kill()
    child.wait()
    child.stdin.close()
    os.close(hold_executor(tmp_path, "w", wait_s=1))


def alive(house: House, limit_s: float) -> tuple[Liveness, list[str]]:
    identity = Identity(executor_id="w", boot="b", device="cpu", device_name="CPU")
    house.service.workers.start("w", "b", {})
    reasons: list[str] = []
    made = Liveness(
        house.service.workers, identity, dead_after_s=limit_s, facts=dict, give_up=reasons.append
    )
    return made, reasons


def test_a_worker_without_its_database_ends_before_others_take_it_for_dead(house: House) -> None:
    liveness, reasons = alive(house, 2.0)

    def broken(*_: object) -> bool:
        raise sa.exc.OperationalError("beat", {}, Exception("away"))

    liveness.workers.beat = broken
    started = time.monotonic()
    liveness.start()
    house.wait(lambda: reasons, 10)
    liveness.stop()
    assert time.monotonic() - started < 2.0
    assert "no sign of life" in reasons[0] and not liveness.is_fresh


def test_a_worker_whose_id_was_taken_ends(house: House) -> None:
    liveness, reasons = alive(house, 2.0)
    liveness.beat()
    assert reasons == [] and liveness.is_fresh
    house.service.workers.start("w", "other", {})
    liveness.beat()
    assert "taken" in reasons[0]


def test_retention_removes_old_finished_jobs_with_all_they_left(house: House) -> None:
    old, young, waiting = house.submit(), house.submit(), house.submit()
    for job in (old, young):
        house.service.engine.cancel(job.id)
        house.service.job_folder(job.id).mkdir(parents=True)
    with house.service.database.write() as connection:
        connection.exec_driver_sql(
            f"UPDATE jobs SET finished_at = '2020-01-01 00:00:00.000000' WHERE id = '{old.id}'"
        )
    assert remove_old_jobs(house.service, timedelta(days=1)) == [old.id]
    assert house.service.store.get(old.id) is None
    assert not house.service.job_folder(old.id).exists()
    assert house.service.job_folder(young.id).exists()
    left = engine_rows(house, "SELECT workflow_uuid FROM workflow_status")
    assert {row[0] for row in left} == {f"{young.id}.1", f"{waiting.id}.1"}


def test_a_deletion_that_was_killed_halfway_is_finished_later(house: House) -> None:
    job, kept = house.submit(), house.submit()
    house.service.engine.cancel(job.id)
    for each in (job, kept):
        house.service.job_folder(each.id).mkdir(parents=True)
        (house.service.job_folder(each.id) / "deleted").touch()
    house.service.store.delete(job.id)
    sweep(house.service.settings, house.service)
    assert not house.service.job_folder(job.id).exists()
    assert [p.name for p in house.service.job_folder(kept.id).iterdir()] == []
    with pytest.raises(JobError, match="cancel it first"):
        delete_job(house.service, kept.id)


def test_an_upload_that_a_kill_has_broken_off_is_removed_after_a_day(house: House) -> None:
    uploads = house.data / "uploads"
    for name in ("old", "young", "entered"):
        (uploads / name).mkdir(parents=True)
        (uploads / name / ".partial").touch()
    for path in (p for n in ("old", "entered") for p in (uploads / n / ".partial", uploads / n)):
        os.utime(path, (0, time.time() - 25 * 3600))
    path = str(uploads / "entered" / "a.zip")
    house.service.datasets.create("a", kind="archive", path=path, status="ready")
    os.utime(uploads / "young", (0, 0))  # a long upload: only its file changes
    sweep(house.service.settings, house.service)
    assert {folder.name for folder in uploads.iterdir()} == {"young", "entered"}


def test_a_thread_that_looks_or_tidies_outlives_any_error(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()
    rounds: list[str] = []

    def fail(*_: object) -> None:
        rounds.append("failed")
        if len(rounds) > 1:
            stop.set()
        raise OSError("the disk is full")

    reaper = Reaper(house.service, dead_after_s=0.08)
    monkeypatch.setattr(reaper, "look", fail)
    reaper.run(stop)
    assert rounds == ["failed"] * 2

    def pause(_: float) -> None:
        if len(rounds) > 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(main, "tend", fail)
    monkeypatch.setattr("app.worker.main.time.sleep", pause)
    with pytest.raises(KeyboardInterrupt):
        main._tend_on(house.service)
    assert len(rounds) == 4 and caplog.text.count("OSError: the disk is full") == 4


def test_the_recovery_of_a_worker_shows_no_password_to_the_machine(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[list[str], bytes]] = []
    monkeypatch.setattr(
        "app.worker.reaper.subprocess.run", lambda c, input, **_: calls.append((c, input))
    )
    Reaper(house.service, dead_after_s=4)._start_recovery("dead")
    ((command, given),) = calls
    url = house.service.settings.database_url
    assert command[-1] == "dead" and url not in " ".join(command)
    assert json.loads(given) == {"data": str(house.data), "database_url": url}


def test_a_cancel_that_no_worker_is_left_to_answer_is_settled(house: House) -> None:
    job = house.submit()
    house.service.store.change(job.id, expect={"queued"}, status="running")
    house.service.engine.cancel(job.id)
    house.service.workers.start("w", "b", {})
    assert settle_cancels(house.service) == []
    house.service.workers.stop("w", "b")
    assert settle_cancels(house.service) == [job.id]
    assert house.service.store.get(job.id).status == "canceled"
    assert house.service.engine.statuses([job]) == {job.id: "CANCELLED"}


def test_ids_of_workers_name_machine_and_device() -> None:
    assert default_id("cuda:1").endswith("-cuda-1") and ":" not in default_id("cuda:1")
