"""The workflows of a job, as DBOS runs and recovers them.

`distillery_job` waits on the queue `coord` and starts one `distillery_stage` after the other on
the queue `gpu`, which runs one at a time in each worker. A job that waited on `gpu` itself would
hold the slot that its own stages need. Ids are fixed, so a job that is taken up again finds the
stages it has started instead of starting them once more.

The order of steps here belongs to `app.jobs.engine.VERSION`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dbos import DBOS, EnqueueOptions, WorkflowHandle

from app.jobs.engine import APPLICATION, COORD, GPU, JOB_WORKFLOW, VERSION
from app.worker.tasks import PLAN
from generator.stage_names import STAGE_NAMES

STAGE_WORKFLOW = "distillery_stage"
POLL_S = 0.25

RunStage = Callable[[str, int, str, int | None], dict[str, Any]]
"""Runs (job id, attempt, stage, part) and returns a stage's outcome as plain values."""
FinishJob = Callable[[str, int, Mapping[str, Any]], None]
"""Ends (job id, attempt) as the outcome of its last stage says."""
PriorityOf = Callable[[str], int]
"""Returns the engine's priority of a job id."""


def define_workflows(run_stage: RunStage, finish_job: FinishJob, priority_of: PriorityOf) -> None:
    """Tell DBOS the two workflows, before it is launched.

    None has a limit of attempts: a worker that dies says nothing about the job it had.
    """

    @DBOS.workflow(name=STAGE_WORKFLOW, max_recovery_attempts=None)
    def stage(job_id: str, attempt: int, name: str, part: int | None) -> dict[str, Any]:
        """Run one stage, or one part of it, in a process of its own."""
        return DBOS.run_step({"name": "run"}, run_stage, job_id, attempt, name, part)

    @DBOS.workflow(name=JOB_WORKFLOW, max_recovery_attempts=None)
    def job(job_id: str, attempt: int) -> None:
        """Run all stages of a job in order."""
        priority = DBOS.run_step({"name": "priority"}, priority_of, job_id)
        outcome = _run_all(job_id, attempt, priority)
        DBOS.run_step({"name": "finish"}, finish_job, job_id, attempt, outcome)


def register_queues() -> None:
    """Tell a launched DBOS its queues."""
    for name in (COORD, GPU):
        # One job at a time asks a worker for stages: those of the job before it come first
        DBOS.register_queue(
            name, worker_concurrency=1, polling_interval_sec=POLL_S, on_conflict="always_update"
        )


def _run_all(job_id: str, attempt: int, priority: int) -> Mapping[str, Any]:
    """Run the stages until one does not end well; returns the last outcome."""
    outcome = _result(_start(job_id, attempt, PLAN, None, priority))
    num_parts = outcome["num_parts"]
    for name in STAGE_NAMES if outcome["kind"] == "done" else ():
        parts = range(num_parts.get(name, 0))
        handles = [_start(job_id, attempt, name, part, priority) for part in parts]
        outcomes = [_result(handle) for handle in handles]
        outcome = _worst(outcomes)
        if not outcomes or outcome["kind"] == "done":
            outcome = _result(_start(job_id, attempt, name, None, priority))
        if outcome["kind"] != "done":
            break
    return outcome


def stage_id(job_id: str, attempt: int, name: str, part: int | None) -> str:
    """Return the id of a stage's workflow."""
    return f"{job_id}.{attempt}-{name}" + ("" if part is None else f"-g{part:02d}")


def _start(
    job_id: str, attempt: int, name: str, part: int | None, priority: int
) -> WorkflowHandle[Any]:
    """Put a stage in the queue, or find it there."""
    options: EnqueueOptions = {
        "workflow_name": STAGE_WORKFLOW,
        "queue_name": GPU,
        "workflow_id": stage_id(job_id, attempt, name, part),
        "app_version": VERSION,
        "priority": priority,
        "application_name": APPLICATION,
    }
    return DBOS.enqueue_workflow_with_options(options, job_id, attempt, name, part)


def _result(handle: WorkflowHandle[Any]) -> Mapping[str, Any]:
    """Wait for a stage and return its outcome."""
    return handle.get_result(polling_interval_sec=POLL_S)


def _worst(outcomes: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the outcome that decides over several parts: a failure, else a cancel, else done."""
    order = ("failed", "canceled", "done")
    return min(outcomes, key=lambda outcome: order.index(outcome["kind"]), default={})
