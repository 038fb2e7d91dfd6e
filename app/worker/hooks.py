"""What a running stage tells its job: progress, figures and messages, at a bearable rate.

Reports may come many times a second; at most two a second are stored, and one set of figures.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.jobs.phases import ACTIVE
from app.jobs.store import JobStore

LOG = logging.getLogger(__name__)
PROGRESS_INTERVAL_S, METRIC_INTERVAL_S = 0.5, 1.0
FIELDS = (
    "phase", "phase_index", "phases_total", "step", "total", "value", "message", "eta_seconds"
)  # fmt: skip


class JobHooks:
    """Stores what one stage of a job reports."""

    def __init__(
        self, store: JobStore, job_id: str, stage: str, stop: threading.Event,
        group: int | None = None,
    ) -> None:  # fmt: skip
        """Take the stage's job; `stop` is set when the worker is about to end.

        `group` is the class group that this part of the stage is for: several run at once, and
        each has curves of its own.
        """
        self.store, self.job_id, self.stage, self.stop = store, job_id, stage, stop
        self.group = group
        self._last_progress = self._last_metric = float("-inf")

    def on_progress(self, progress: Mapping[str, Any]) -> None:
        """Store a report of progress, and its figures, unless one was stored just now."""
        now = time.monotonic()
        if now - self._last_progress >= PROGRESS_INTERVAL_S:
            self._last_progress = now
            record = {name: progress.get(name) for name in FIELDS}
            self._add("progress", {"progress": record}, progress=record)
        values = progress.get("metrics")
        if values and now - self._last_metric >= METRIC_INTERVAL_S:
            self._last_metric = now
            step = progress.get("step", 0)
            data = {"phase": self.stage, "step": step, "values": dict(values)}
            self._add("metric", data if self.group is None else data | {"group": self.group})

    def on_event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Store an event of the stage."""
        self._add(kind, dict(data))

    def should_cancel(self) -> bool:
        """Say whether the job is to stop: canceled, deleted, or failed in another part."""
        try:
            job = self.store.get(self.job_id)
        except sa.exc.DBAPIError as error:
            LOG.warning("could not ask whether job %s is canceled: %s", self.job_id, error.orig)
            return False
        return job is None or job.status != "running" or job.error is not None

    def should_stop(self) -> bool:
        """Say whether this worker is about to end."""
        return self.stop.is_set()

    def _add(self, kind: Any, data: dict[str, Any], **fields: Any) -> None:
        """Store an event; one that a database in trouble does not take is let go."""
        try:
            self.store.add_event(self.job_id, kind, data, expect=ACTIVE, **fields)
        except sa.exc.DBAPIError as error:
            LOG.warning("an event of job %s could not be stored: %s", self.job_id, error.orig)
