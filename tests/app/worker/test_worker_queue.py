"""Real workers on a real queue, with stages that do nothing: order, takeover, cancel, retry."""

import signal
import time

import psycopg
import pytest
import sqlalchemy as sa
from worker_house import House

from app.jobs.phases import PHASES
from app.worker.main import EXIT_GAVE_UP

pytestmark = pytest.mark.slow  # each starts worker processes and waits for their polls


def test_a_job_runs_through_and_its_parts_run_ahead_of_their_stage(
    house: House, database_url: str
) -> None:
    first, second = house.submit({"parts": 1}), house.submit({})
    house.start_worker("w0")
    house.start_worker("w1")
    done = house.wait_for(first, "succeeded")
    house.wait_for(second, "succeeded")
    assert done.result == {"content_digest": "abc"} and done.worker is None
    assert {phase["status"] for phase in done.phases} == {"succeeded"}
    ended = house.lines(first, "ended")
    assert [name for name in ended if "-" not in name] == list(PHASES)
    parts = [name for name in ended if "-" in name]
    assert sorted(parts) == sorted(
        [f"finetune-{n}" for n in range(3)] + [f"generate-{n}" for n in range(4)]
    )
    assert set(ended[ended.index("encode") + 1 : ended.index("finetune")]) == set(parts[:3])
    assert len(ended) == len(set(ended)), "a stage ran twice"
    assert house.service.store.events(first.id)[-1].kind == "done"


def test_one_worker_runs_jobs_whole_by_priority_then_in_order(house: House) -> None:
    jobs = [house.submit({}, priority=priority) for priority in (9, 5, 5, 1)]
    house.start_worker("w0")
    for job in jobs:
        house.wait_for(job, "succeeded")
    low, normal, later, high = (house.service.store.get(job.id) for job in jobs)
    order = sorted((high, normal, later, low), key=lambda job: job.started_at)
    assert order == [high, normal, later, low]
    assert all(a.finished_at <= b.started_at for a, b in zip(order, order[1:], strict=False))


def test_another_worker_takes_over_from_a_dead_one(house: House, database_url: str) -> None:
    house.set_seconds(1.0)
    job = house.submit({})
    victim = house.start_worker("w0")
    house.wait_for(job, "running", phase="base")
    house.start_worker("w1")
    house.wait(lambda: house.service.workers.get("w1"))
    victim.kill()
    house.set_seconds(0.02)
    done = house.wait_for(job, "succeeded")
    assert house.service.workers.get("w0").age_s > 4
    ended = house.lines(job, "ended")
    assert ended == list(PHASES) and done.attempt == 1
    assert house.lines(job, "began").count("base") in (1, 2)  # 2: killed within it


def test_a_worker_that_comes_back_goes_on(house: House) -> None:
    house.set_seconds(1.0)
    job = house.submit({})
    victim = house.start_worker("w0")
    house.wait_for(job, "running", phase="prepare")
    victim.kill()
    victim.wait()
    house.set_seconds(0.02)
    house.start_worker("w0")
    house.wait_for(job, "succeeded")
    assert house.lines(job, "ended") == list(PHASES)


def test_a_worker_that_is_told_to_stop_puts_its_stage_back(house: House) -> None:
    house.set_seconds(2.0)
    job = house.submit({})
    first = house.start_worker("w0")
    house.wait_for(job, "running", phase="prepare")
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    assert house.service.workers.get("w0").stopped_at is not None
    house.set_seconds(0.02)
    house.start_worker("w1")
    house.wait_for(job, "succeeded")
    assert house.lines(job, "ended") == list(PHASES)


def test_a_second_process_of_one_id_waits_for_the_first(house: House) -> None:
    first = house.start_worker("w0")
    house.wait(lambda: house.service.workers.get("w0"))
    boot = house.service.workers.get("w0").boot
    standby = house.start_worker("w0")
    job = house.submit({})
    house.wait_for(job, "succeeded")
    assert house.service.workers.get("w0").boot == boot and standby.poll() is None
    first.kill()
    house.wait(lambda: house.service.workers.get("w0").boot != boot)


def test_cancel_stops_a_running_job_and_retry_goes_on_after_its_last_stage(house: House) -> None:
    house.set_seconds(2.0)
    job = house.submit({})
    waiting = house.submit({})
    house.start_worker("w0")
    house.wait_for(job, "running", phase="prepare")
    assert house.service.engine.cancel(waiting.id).status == "canceled"
    assert house.service.engine.cancel(job.id).status == "canceling"
    canceled = house.wait_for(job, "canceled")
    statuses = {phase["status"] for phase in canceled.phases}
    assert statuses == {"succeeded", "canceled", "pending"}
    house.set_seconds(0.02)
    again = house.service.engine.retry(job.id)
    assert (again.status, again.attempt) == ("queued", 2)
    done = house.wait_for(job, "succeeded")
    assert house.lines(job, "ended") == list(PHASES) and done.error is None
    assert house.lines(waiting, "began") == []


def test_a_bug_in_a_stage_fails_its_job_and_the_next_one_runs(house: House) -> None:
    broken, sound = house.submit({"name": "broken"}), house.submit({})
    house.start_worker("w0")
    failed = house.wait_for(broken, "failed")
    assert failed.error["code"] == "internal_error" and failed.error["retryable"]
    house.wait_for(sound, "succeeded")


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_job_lives_through_a_restart_of_the_database(
    house: House, database_url: str, postgres_server: str
) -> None:
    """All connections break, and none can be had for a while."""
    house.set_seconds(0.5)
    house.start_worker("w1")
    job = house.submit()
    house.wait_for(job, "running", phase="base")
    name = sa.make_url(database_url).database
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        time.sleep(1.5)
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    house.set_seconds(0.02)
    house.wait_for(job, "succeeded")
    assert house.processes[0].poll() is None, "the worker went on"
    assert house.lines(job, "ended") == list(PHASES)


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_a_worker_that_stood_still_too_long_ends_when_it_wakes(
    house: House, database_url: str
) -> None:
    house.set_seconds(1.0)
    job = house.submit({})
    sleeper = house.start_worker("w0")
    house.wait_for(job, "running", phase="prepare")
    sleeper.send_signal(signal.SIGSTOP)
    for lock in house.service.job_folder(job.id).glob("*.lock"):
        lock.unlink()  # a real child would have died by its lease, and its locks with it
    house.set_seconds(0.02)
    house.start_worker("w1")
    done = house.wait_for(job, "succeeded")
    sleeper.send_signal(signal.SIGCONT)
    assert sleeper.wait(20) == EXIT_GAVE_UP
    assert house.service.store.get(job.id) == done
