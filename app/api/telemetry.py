"""Figures for Prometheus: requests as they are answered, the rest from the store at each scrape.

What workers do is read from the events that they store, so every API process tells the same.
"""

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from app.api.hub import EventHub
from app.jobs.figures import Ended, ended_since
from app.jobs.service import Service

LATENCIES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
STAGES_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0)
LAG = timedelta(minutes=10)
"""By which the clock of a worker may lag behind another's without an end being missed."""
CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"


class Telemetry:
    """The registry of one application."""

    def __init__(self, service: Service, hub: EventHub, version: str) -> None:
        """Take what is looked at when Prometheus asks."""
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "distillery_http_request_duration_seconds", "Time to the end of an answer.",
            ("method", "route", "status"), buckets=LATENCIES_S, registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "distillery_http_refusals", "Refusals by their code.", ("code",),
            registry=self.registry,
        )  # fmt: skip
        self.stages = Histogram(
            "distillery_stage_duration_seconds", "Time of stages that were done, not cached.",
            ("stage",), buckets=STAGES_S, registry=self.registry,
        )  # fmt: skip
        self.ended = Counter(
            "distillery_jobs_ended", "Jobs that ended, by status.", ("status",),
            registry=self.registry,
        )  # fmt: skip
        self.service = service
        self._until: datetime | None = None
        self._ends: dict[tuple[str, int], datetime] = {}  # counted, as long as they come again
        self._stages_of: dict[str, frozenset[str]] = {}  # counted, of jobs that may be retried
        self._lock = threading.Lock()
        self.registry.register(_Store(service, hub, version))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self.requests.labels(method, route, str(status)).observe(seconds)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        with self._lock:
            self._count_ended()
        return generate_latest(self.registry)

    def _count_ended(self) -> None:
        """Add the jobs that ended since the last look; after a restart all that are kept.

        The ends are by the clocks of the workers, so some time before the last look is looked at
        again: one that lags brings its ends late.
        """
        since = self._until and self._until - LAG
        for job in ended_since(self.service.database, since):
            if (job.job_id, job.attempt) not in self._ends:
                self._ends[job.job_id, job.attempt] = job.at
                self.ended.labels(job.status).inc()
                self._count_stages(job)
            self._until = max(self._until or job.at, job.at)
        if self._until is not None:
            oldest = self._until - LAG
            self._ends = {key: at for key, at in self._ends.items() if at >= oldest}

    def _count_stages(self, job: Ended) -> None:
        """Add the stages of a job that were done since it was last counted, before a retry."""
        counted = self._stages_of.pop(job.job_id, frozenset())
        for phase in job.phases:
            name, seconds = str(phase["name"]), phase.get("seconds")
            if not isinstance(seconds, (int, float)) or phase.get("cached") or name in counted:
                continue
            counted |= {name}
            self.stages.labels(name).observe(seconds)
        if job.status != "succeeded":
            self._stages_of[job.job_id] = counted


class _Store(Collector):
    """Figures that are read when they are asked for."""

    def __init__(self, service: Service, hub: EventHub, version: str) -> None:
        self.service, self.hub, self.version = service, hub, version

    def describe(self) -> list[Metric]:
        """Say nothing in advance, so that registering reads nothing."""
        return []

    def collect(self) -> Iterator[Any]:
        """Read queue, stages and workers."""
        yield InfoMetricFamily("distillery_build", "This program.", value={"version": self.version})
        counts = self.service.store.counts()
        jobs = GaugeMetricFamily("distillery_jobs", "Jobs in each state.", labels=["status"])
        for status, count in counts.items():
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily("distillery_queue_depth", "Jobs that wait.", value=counts["queued"])
        yield GaugeMetricFamily(
            "distillery_event_streams", "Open event streams.", value=self.hub.num_streams
        )
        yield from self._workers()

    def _workers(self) -> Iterator[GaugeMetricFamily]:
        """Return heartbeat and GPU memory of each worker."""
        beat = GaugeMetricFamily(
            "distillery_worker_last_heartbeat_timestamp_seconds", "Last sign of life.",
            labels=["worker"],
        )  # fmt: skip
        age = GaugeMetricFamily(
            "distillery_worker_heartbeat_age_seconds", "Since the last sign of life.",
            labels=["worker"],
        )  # fmt: skip
        memory = GaugeMetricFamily(
            "distillery_gpu_memory_used_bytes", "GPU memory in use.", labels=["worker"]
        )
        for worker in self.service.workers.list():
            if worker.stopped_at is None:
                beat.add_metric([worker.executor_id], time.time() - worker.age_s)
                age.add_metric([worker.executor_id], worker.age_s)
                used = worker.facts.get("gpu_memory_used_bytes")
                if isinstance(used, (int, float)):
                    memory.add_metric([worker.executor_id], float(used))
        yield from (beat, age, memory)
