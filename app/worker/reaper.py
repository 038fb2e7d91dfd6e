"""Dead workers are found, and what they held goes back to the queue.

DBOS takes up a worker's jobs again only when a process starts under that worker's id. For a dead
one such a process is started here, for a moment: `python -m app.worker.reap ID`, which runs
nothing itself. It goes on where it was and keeps the engine's own counts.
"""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from app.jobs.records import WorkerRecord
from app.jobs.service import Service
from app.worker.locks import shared_lock

LOG = logging.getLogger(__name__)
REAP_TIMEOUT_S = 60
FORGET_AFTER_S = 24 * 3600.0
PENDING = "PENDING"

Recover = Callable[[str], None]
"""Gives what an executor id holds back to the queue."""


@dataclass(slots=True)
class _Seen:
    """The last sign of life of an executor, and when this process first saw it."""

    sign: tuple[str, float] | None
    since: float


class Reaper:
    """Looks for dead workers; one process of the service at a time does."""

    def __init__(
        self, service: Service, *, dead_after_s: float, recover: Recover | None = None
    ) -> None:
        """Take the service; `recover` is for tests that need no process."""
        self.service, self.dead_after_s = service, dead_after_s
        self.recover = recover or self._start_recovery
        self._seen: dict[str, _Seen] = {}

    def run(self, stop: threading.Event) -> None:
        """Look again and again until stopped."""
        while not stop.wait(min(5.0, self.dead_after_s / 8)):
            try:
                self.look()
            except sa.exc.DBAPIError as error:
                LOG.warning("could not look for dead workers: %s", error.orig)
            except Exception:  # nobody else would start this thread again
                LOG.exception("could not look for dead workers, to be tried again")

    def look(self) -> list[str]:
        """Give back what dead workers hold; return their ids.

        A beat counts as stale only after this process has read the same one for the whole limit:
        a database that was away, or a clock that jumped, makes nobody dead.
        """
        workers = {worker.executor_id: worker for worker in self.service.workers.list()}
        holders = self._holders()
        dead = [name for name in sorted(holders | set(workers)) if self._is_dead(name, workers)]
        found = []
        for name in dead:
            if name in holders:
                if self._give_back(name):
                    found.append(name)
            else:
                self._forget(workers[name])
        return found

    def _holders(self) -> set[str]:
        """Return the executor ids that hold work, by the engine's tables."""
        pending = self.service.engine.client.list_workflows(
            status=PENDING, load_input=False, load_output=False
        )
        return {status.executor_id for status in pending if status.executor_id}

    def _is_dead(self, name: str, workers: dict[str, WorkerRecord]) -> bool:
        """Say whether an executor has given no new sign of life for the limit."""
        worker = workers.get(name)
        if worker is not None and worker.stopped_at is not None:
            return True
        sign = None if worker is None else (worker.boot, worker.beat.timestamp())
        seen = self._seen.get(name)
        if seen is None or seen.sign != sign:
            seen = self._seen[name] = _Seen(sign, time.monotonic())
        return time.monotonic() - seen.since > self.dead_after_s

    def _give_back(self, name: str) -> bool:
        """Give back what a dead executor holds, unless it is just coming back to life."""
        with shared_lock(self.service, "reaper") as is_reaper:
            if not is_reaper:
                return False
            # A worker that starts holds this lock until its first beat and its own recovery
            with shared_lock(self.service, f"boot-{name}") as is_quiet:
                worker = self.service.workers.get(name)
                if not is_quiet or not self._is_dead(name, {name: worker} if worker else {}):
                    return False
                LOG.warning("worker %s is gone: its work goes back to the queue", name)
                self.recover(name)
                self._release_jobs(name)
        return True

    def _release_jobs(self, name: str) -> None:
        """Say of the jobs that ran there, and of none that also runs elsewhere, that they wait."""
        store, client = self.service.store, self.service.engine.client
        running, _ = store.list(status="running", limit=10_000)
        for job in running:
            if job.worker is None or job.worker["id"] != name or job.error is not None:
                continue
            busy = client.list_workflows(
                workflow_id_prefix=f"{job.id}.{job.attempt}-", status=PENDING,
                load_input=False, load_output=False,
            )  # fmt: skip
            if not busy:  # the revision: another worker may just have begun a stage of it
                store.change(
                    job.id, expect={"running"}, revision=job.revision, status="queued", worker=None
                )

    def _forget(self, worker: WorkerRecord) -> None:
        """Remove the row of a worker that is long gone and holds nothing."""
        if worker.age_s > FORGET_AFTER_S:
            self.service.workers.forget(worker.executor_id, worker.boot)
            self._seen.pop(worker.executor_id, None)

    def _start_recovery(self, name: str) -> None:
        """Run the recovery of an executor id in a process of its own."""
        command = [sys.executable, "-m", "app.worker.reap", name]
        settings = self.service.settings
        # not as arguments, which everyone on the machine may read: the URL holds a password
        address = json.dumps({"data": str(settings.data), "database_url": settings.database_url})
        try:
            subprocess.run(command, input=address.encode(), check=True, timeout=REAP_TIMEOUT_S)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            LOG.error("the recovery of worker %s failed, to be tried again: %s", name, error)
