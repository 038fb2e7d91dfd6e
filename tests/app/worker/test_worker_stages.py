"""What a stage tells its job, and how a job ends, without processes."""

import io
import json
import logging
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from worker_house import House

from app.api.logs import JsonLines
from app.jobs.records import JobRecord
from app.worker.about import name_work
from app.worker.hooks import JobHooks
from app.worker.identity import Identity
from app.worker.patience import patiently
from app.worker.reaper import Reaper
from app.worker.stages import StageRunner
from app.worker.tasks import Hooks, StageOutcome, StageTask
from app.worker.workflows import _worst, stage_id


def runner_of(house: House, *outcomes: StageOutcome) -> tuple[StageRunner, list[StageTask]]:
    """Return a runner whose stages end as told, and the tasks that it gave out."""
    left, tasks = list(outcomes), []

    def run_process(task: StageTask, hooks: Hooks) -> StageOutcome:
        tasks.append(task)
        return left.pop(0)

    identity = Identity(executor_id="w", boot="b", device="cpu", device_name="CPU")
    runner = StageRunner(
        house.service, identity, run_process, is_fresh=lambda: True, stop=threading.Event(), lock=9
    )
    return runner, tasks


def running(house: House) -> JobRecord:
    job = house.service.store.create({"seed": 1})
    return house.service.store.change(job.id, expect={"queued"}, status="running", phase="plan")


def phase(house: House, job: JobRecord, name: str) -> dict:
    found = house.service.store.get(job.id).phases
    return next(each for each in found if each["name"] == name)


DONE = StageOutcome(kind="done", facts={"seconds": 2.0, "summary": "well", "cached": False})


def test_a_plan_brings_its_facts_into_the_record(house: House) -> None:
    facts = {"config": {"seed": 1}, "decisions": [{"what": "a"}], "warnings": [], "num_parts": {}}
    runner, tasks = runner_of(house, StageOutcome(kind="done", facts=facts))
    job = house.service.store.create({"seed": 1})
    outcome = runner.run(job.id, 1, "plan", None)
    found = house.service.store.get(job.id)
    assert outcome["kind"] == "done" and found.status == "running"
    assert found.config == {"seed": 1} and found.decisions == [{"what": "a"}]
    assert found.worker == {"id": "w", "device": "CPU"}
    assert tasks[0].request == {"seed": 1} and tasks[0].keep_open == (9,)
    assert tasks[0].datasets == (house.data / "uploads",), "none is mounted"
    assert phase(house, job, "plan")["status"] == "succeeded"


def test_a_lost_stage_runs_again_and_its_log_lines_name_job_and_stage(house: House) -> None:
    runner, tasks = runner_of(house, StageOutcome(kind="lost"), DONE)
    job = running(house)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    handler.addFilter(name_work)
    logger = logging.getLogger("app.worker.stages")
    logger.addHandler(handler)
    try:
        assert runner.run(job.id, 1, "base", None)["kind"] == "done" and len(tasks) == 2
        logger.warning("between jobs")
    finally:
        logger.removeHandler(handler)
    lost, between = map(json.loads, stream.getvalue().splitlines())
    assert (lost["job_id"], lost["stage"]) == (job.id, "base")
    assert "job_id" not in between and "stage" not in between
    assert phase(house, job, "base")["summary"] == "well"
    assert tasks[0].request == {}, "the plan alone reads the request"


@pytest.mark.parametrize("status", ["canceled", "canceling", "failed"])
def test_a_stage_of_a_job_that_is_to_end_does_not_begin(house: House, status: str) -> None:
    runner, tasks = runner_of(house)
    job = running(house)
    if status == "failed":
        house.service.store.change(job.id, expect={"running"}, status="failed", error={})
    else:
        house.service.store.change(job.id, expect={"running"}, status="canceling")
    if status == "canceled":
        house.service.store.change(job.id, expect={"canceling"}, status="canceled")
    assert runner.run(job.id, 1, "base", None)["kind"] == "canceled" and tasks == []


def test_a_stage_of_an_earlier_attempt_does_not_begin(house: House) -> None:
    runner, tasks = runner_of(house)
    assert runner.run(running(house).id, 2, "base", None)["kind"] == "canceled" and tasks == []
    assert runner.run("job_none", 1, "base", None)["kind"] == "canceled"


def test_a_part_that_failed_stops_the_others(house: House) -> None:
    error = {"code": "training_failed", "message": "loss"}
    runner, _ = runner_of(house, StageOutcome(kind="failed", error=error))
    job = running(house)
    other = JobHooks(house.service.store, job.id, "finetune", threading.Event())
    assert not other.should_cancel()
    assert runner.run(job.id, 1, "finetune", 0)["kind"] == "failed"
    assert other.should_cancel()
    runner.finish(job.id, 1, _worst([{"kind": "canceled"}, {"kind": "failed", "error": error}]))
    ended = house.service.store.get(job.id)
    assert ended.status == "failed" and ended.error == error and ended.worker is None


def test_the_outcome_decides_how_a_job_ends_and_once_only(house: House) -> None:
    runner, _ = runner_of(house)
    done = {"kind": "done", "result": {"accuracy": 0.9}, "error": None}
    job = running(house)
    runner.finish(job.id, 2, done)
    assert house.service.store.get(job.id).status == "running", "of another attempt"
    runner.finish(job.id, 1, done)
    ended = house.service.store.get(job.id)
    assert ended.result == {"accuracy": 0.9} and ended.progress["value"] == 1.0
    runner.finish(job.id, 1, {"kind": "failed", "result": None, "error": {"code": "x"}})
    assert house.service.store.get(job.id) == ended


@pytest.mark.parametrize(("kind", "status"), [("done", "succeeded"), ("failed", "failed")])
def test_a_job_whose_worker_died_at_its_very_end_ends_elsewhere(
    house: House, kind: str, status: str
) -> None:
    """All stages are complete, so the worker that takes the job up has only to end it."""
    job = running(house)
    house.service.store.change(job.id, expect={"running"}, worker={"id": "dead", "device": "x"})
    Reaper(house.service, dead_after_s=4, recover=lambda _: None)._release_jobs("dead")
    assert house.service.store.get(job.id).status == "queued"
    runner, _ = runner_of(house)
    runner.finish(job.id, 1, {"kind": kind, "result": {"accuracy": 1}, "error": {"code": "x"}})
    assert house.service.store.get(job.id).status == status


def test_a_job_that_another_worker_has_just_begun_stays_its_own(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running(house)
    store = house.service.store
    store.change(job.id, expect={"running"}, worker={"id": "dead", "device": "x"})
    runner, _ = runner_of(house)
    listed = store.list

    def list_and_begin(**filters: Any) -> Any:
        found = listed(**filters)
        assert runner._begin(job.id, 1, "plan", None) is not None
        return found

    monkeypatch.setattr(store, "list", list_and_begin)
    Reaper(house.service, dead_after_s=4, recover=lambda _: None)._release_jobs("dead")
    found = store.get(job.id)
    assert (found.status, found.worker) == ("running", {"id": "w", "device": "CPU"})


def test_a_stage_begins_though_its_job_goes_back_to_the_queue_in_this_moment(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = running(house)
    store = house.service.store
    seen = store.get

    def get_and_release(job_id: str) -> JobRecord | None:
        found = seen(job_id)
        monkeypatch.setattr(store, "get", seen)
        store.change(job_id, expect={"running"}, status="queued", worker=None)
        return found

    monkeypatch.setattr(store, "get", get_and_release)
    runner, _ = runner_of(house, DONE)
    assert runner.run(job.id, 1, "plan", None)["kind"] == "done"
    assert seen(job.id).status == "running"


def test_a_failure_while_canceling_is_a_cancel(house: House) -> None:
    runner, _ = runner_of(house)
    job = running(house)
    house.service.engine.cancel(job.id)
    runner.finish(job.id, 1, {"kind": "failed", "result": None, "error": {"code": "x"}})
    ended = house.service.store.get(job.id)
    assert ended.status == "canceled" and ended.error is None


def test_a_stop_that_nobody_asked_for_is_a_failure_that_can_be_retried(house: House) -> None:
    runner, _ = runner_of(house)
    job = running(house)
    runner.finish(job.id, 1, {"kind": "canceled", "result": None, "error": None})
    assert house.service.store.get(job.id).error["retryable"]


def test_reports_are_stored_at_a_bearable_rate(house: House) -> None:
    job = running(house)
    hooks = JobHooks(house.service.store, job.id, "base", threading.Event())
    for step in range(50):
        hooks.on_progress({"phase": "base", "step": step, "total": 50, "metrics": {"loss": 1.0}})
    hooks.on_event("log", {"level": "info", "message": "x"})
    kinds = [event.kind for event in house.service.store.events(job.id, after=2)]
    assert kinds == ["progress", "metric", "log"]
    assert house.service.store.get(job.id).progress["step"] == 0


def test_figures_of_a_part_name_their_class_group(house: House) -> None:
    job = running(house)

    def run_process(task: StageTask, hooks: Hooks) -> StageOutcome:
        hooks.on_progress({"phase": "finetune", "step": 7, "total": 9, "metrics": {"loss": 1.0}})
        return DONE

    runner, _ = runner_of(house)
    runner.run_process = run_process
    for part in (3, None):
        runner.run(job.id, 1, "finetune", part)
    found = house.service.store.events(job.id, kinds={"metric"})
    place = {"phase": "finetune", "step": 7, "values": {"loss": 1.0}}
    assert [event.data for event in found] == [place | {"group": 3}, place]


def test_a_database_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.worker.patience.time.sleep", lambda _: None)
    answers = [sa.exc.OperationalError("x", {}, Exception("away"))] * 3 + [7]

    def call() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call) == 7 and answers == []
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 // 0)


def test_workflow_ids_are_fixed() -> None:
    assert stage_id("job_a", 2, "finetune", None) == "job_a.2-finetune"
    assert stage_id("job_a", 2, "finetune", 7) == "job_a.2-finetune-g07"
    assert _worst([]) == {} and _worst([{"kind": "done"}])["kind"] == "done"
