"""The steps of the workflows: one stage in a process of its own, and the end of a job.

Every step may happen twice, after a crash between its work and the engine's note of it: stages
that are complete return at once, and changes of a job name the statuses they start from.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from app.jobs.engine import queue_priority
from app.jobs.phases import set_phase
from app.jobs.records import JobRecord
from app.jobs.service import Service
from app.worker.about import about
from app.worker.hooks import JobHooks
from app.worker.identity import Identity
from app.worker.patience import patiently
from app.worker.tasks import PLAN, Hooks, StageOutcome, StageTask

LOG = logging.getLogger(__name__)
RunProcess = Callable[[StageTask, Hooks], StageOutcome]

CANCELED: Mapping[str, Any] = {"kind": "canceled", "num_parts": {}, "result": None, "error": None}
RERUN_PAUSE_S = 0.2


class StageRunner:
    """Runs the stages that this worker takes from the queue, one at a time."""

    def __init__(
        self, service: Service, identity: Identity, run_process: RunProcess, *,
        is_fresh: Callable[[], bool], stop: threading.Event, lock: int,
    ) -> None:  # fmt: skip
        """Take what runs a stage in a process.

        Args:
            service: Of the jobs.
            identity: Of this worker.
            run_process: Runs one stage to its outcome.
            is_fresh: Says whether this worker may still act as a living one.
            stop: Set when this worker is about to end.
            lock: File handle that keeps this worker's id.
        """
        self.service, self.identity, self.run_process = service, identity, run_process
        self.is_fresh, self.stop, self.lock = is_fresh, stop, lock
        self.current: dict[str, Any] = {"job": None, "stage": None}
        self.is_idle = threading.Event()
        self.is_idle.set()

    def priority_of(self, job_id: str) -> int:
        """Return the engine's priority of a job."""
        job = patiently(lambda: self.service.store.get(job_id))
        return queue_priority(job.priority, job.ticket) if job is not None else 1

    def run(self, job_id: str, attempt: int, stage: str, part: int | None) -> dict[str, Any]:
        """Run one stage, or one part of it, and return its outcome as plain values."""
        with about(job_id, stage):
            return self._run(job_id, attempt, stage, part)

    def _run(self, job_id: str, attempt: int, stage: str, part: int | None) -> dict[str, Any]:
        """Run a stage, in a thread whose log lines name it."""
        self._hold_if_ending()
        job = patiently(lambda: self._begin(job_id, attempt, stage, part))
        if job is None:
            return dict(CANCELED)
        self.is_idle.clear()
        self.current = {"job": job_id, "stage": stage}
        try:
            outcome = self._run_until_known(job, stage, part)
            patiently(lambda: self._note(job, stage, part, outcome))
        finally:
            self.current = {"job": None, "stage": None}
            self.is_idle.set()
        return {
            "kind": outcome.kind,
            "num_parts": outcome.facts.get("num_parts", {}),
            "result": outcome.facts.get("result"),
            "error": outcome.error,
        }

    def finish(self, job_id: str, attempt: int, outcome: Mapping[str, Any]) -> None:
        """End a job as its last stage ended.

        It may wait again: its worker died after the last stage, and this one has only to end it.
        """
        with about(job_id):
            self._finish(job_id, attempt, outcome)

    def _finish(self, job_id: str, attempt: int, outcome: Mapping[str, Any]) -> None:
        """End a job, in a thread whose log lines name it."""
        job = patiently(lambda: self.service.store.get(job_id))
        if job is None or job.attempt != attempt or job.is_terminal:
            return
        change = self.service.store.change
        if outcome["kind"] == "done":
            patiently(lambda: change(
                job_id, expect={"queued", "running", "canceling"}, status="succeeded", worker=None,
                result=outcome["result"], error=None,
                progress=(job.progress or {}) | {"value": 1.0, "eta_seconds": 0},
            ))  # fmt: skip
            return
        canceled = patiently(
            lambda: change(job_id, expect={"canceling"}, status="canceled", worker=None, error=None)
        )
        if canceled is None:
            error = outcome["error"] or job.error or _unasked(job)
            patiently(lambda: change(
                job_id, expect={"queued", "running"}, status="failed", worker=None, error=error
            ))  # fmt: skip

    def _begin(self, job_id: str, attempt: int, stage: str, part: int | None) -> JobRecord | None:
        """Say that a stage begins; None where its job is not to go on."""
        store, values = self.service.store, {"status": "running"}
        worker = {"id": self.identity.executor_id, "device": self.identity.device_name}
        while True:  # until it stays: a reaper may put it back into the queue in between
            job = store.get(job_id)
            if job is None or job.attempt != attempt or job.error is not None:
                return None
            if job.status == "queued" or (job.status == "running" and job.phase != stage):
                job = store.change(
                    job_id, expect={"queued", "running"}, status="running", phase=stage,
                    worker=worker,
                )  # fmt: skip
            if job is None or job.status != "running":
                return None
            begun = set_phase(
                self.service.database, job_id, stage, values, expect={"running"}, worker=worker
            )
            if begun is not None:
                return begun

    def _run_until_known(self, job: JobRecord, stage: str, part: int | None) -> StageOutcome:
        """Run a stage again until it ends by itself; its deaths are counted elsewhere."""
        settings = self.service.settings
        task = StageTask(
            job_id=job.id, folder=self.service.job_folder(job.id),
            cache=settings.cache, stage=stage, group=part,
            device=self.identity.device, request=job.request if stage == PLAN else {},
            datasets=(settings.data / "uploads", *filter(None, [settings.datasets])),
            models=settings.models, keep_open=(self.lock,),
        )  # fmt: skip
        hooks = JobHooks(self.service.store, job.id, stage, self.stop, part)
        while True:
            self._hold_if_ending()
            outcome = self.run_process(task, hooks)
            if outcome.kind != "lost":
                return outcome
            LOG.warning("stage %s of job %s was lost and runs again", stage, job.id)
            time.sleep(RERUN_PAUSE_S)

    def _hold_if_ending(self) -> None:
        """Keep the stage unfinished where this worker is about to end: another one takes it up."""
        if self.stop.is_set() or not self.is_fresh():
            self.is_idle.set()
            threading.Event().wait()  # until the process ends

    def _note(self, job: JobRecord, stage: str, part: int | None, outcome: StageOutcome) -> None:
        """Store how a stage ended; the job itself ends in `finish`."""
        store, database = self.service.store, self.service.database
        if outcome.kind == "failed":
            error = outcome.error or _unasked(job)
            set_phase(database, job.id, stage, {"status": "failed"}, error=error)
        elif outcome.kind == "canceled":
            set_phase(database, job.id, stage, {"status": "canceled"})
        elif part is None:
            kept = ("seconds", "summary", "cached")
            values = {key: outcome.facts.get(key) for key in kept}
            planned = ("config", "decisions", "warnings")
            fields = {key: outcome.facts[key] for key in planned if key in outcome.facts}
            set_phase(database, job.id, stage, {"status": "succeeded", **values}, **fields)
        else:
            message = f"part {part} of stage {stage} is complete"
            store.add_event(job.id, "log", {"level": "info", "message": message})


def _unasked(job: JobRecord) -> dict[str, Any]:
    """Return the error of a job that stopped for no reason that we know."""
    return {
        "code": "internal_error",
        "message": "the stage ended without saying why",
        "hint": "look at the job's log, then retry the job",
        "phase": job.phase, "retryable": True, "log_tail": "",
    }  # fmt: skip
