"""Jobs of a service: create, list, wait for, cancel, run again, delete, download.

A `Job` is what the service said at one moment; `refresh` and the verbs return a newer one.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from distillery.client.download import fetch
from distillery.client.events import PATIENCE_S, Event, follow_events
from distillery.client.transport import Transport, retry_after_s
from distillery.errors import JobError, ServiceError, WaitTimeout
from distillery.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from distillery.bundle.dataset import DistilledDataset

FINISHED = frozenset({"succeeded", "failed", "canceled"})
BUNDLE_NAME = "distilled.safetensors"
LONG_POLL_S, SHORT_POLL_S = 30, 3
PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the service described it last."""

    record: Mapping[str, Any]
    """Every field, as in `GET /jobs/{id}`."""
    _jobs: "Jobs"

    def __repr__(self) -> str:
        at = f", {self.phase} {100 * self.progress:.0f} %" if self.status == "running" else ""
        return f"<Job {self.id}: {self.status}{at}>"

    @property
    def id(self) -> str:
        """Its name in the service."""
        return str(self.record["id"])

    @property
    def status(self) -> str:
        """`queued`, `running`, `canceling`, `succeeded`, `failed` or `canceled`."""
        return str(self.record["status"])

    @property
    def is_finished(self) -> bool:
        """Whether its status will not change by itself any more."""
        return self.status in FINISHED

    @property
    def phase(self) -> str | None:
        """The stage it is in."""
        return self.record.get("phase")

    @property
    def progress(self) -> float:
        """Share of the whole job that is done, 0 to 1."""
        if self.status == "succeeded":
            return 1.0
        return float((self.record.get("progress") or {}).get("value") or 0.0)

    def refresh(self) -> "Job":
        """Ask the service again."""
        return self._jobs.get(self.id)

    def wait(self, timeout_s: float | None = None) -> "Job":
        """Return the finished job, whatever its end; see `Jobs.wait`."""
        return self._jobs.wait(self.id, timeout_s=timeout_s)

    def events(self, *, after: int | None = None) -> Iterator[Event]:
        """Yield its events until its end, over broken connections; `after=0`: from the first."""
        return self._jobs.events(self.id, after=after)

    def cancel(self) -> "Job":
        """Ask it to stop; what it has done is kept."""
        return self._jobs.cancel(self.id)

    def retry(self) -> "Job":
        """Run a failed or canceled job on, from its last complete stage."""
        return self._jobs.retry(self.id)

    def delete(self) -> None:
        """Remove it and its files from the service."""
        self._jobs.delete(self.id)

    def download(
        self, folder: str | PathLike[str] = ".", *, on_progress: OnProgress = ignore_progress
    ) -> "DistilledDataset":
        """Bring the bundle to `folder`, verify it to its last byte and return it.

        Raises:
            JobError: If the job did not succeed, with the reason that the service gives.
        """
        from distillery.bundle.read import read_bundle  # numpy, only where a bundle is read

        if self.is_finished and self.status != "succeeded":
            raise JobError(f"job {self.id} has no bundle: {self.reason()}")
        target = Path(folder) / BUNDLE_NAME
        return read_bundle(self._jobs.download(self.id, target, on_progress=on_progress))

    def reason(self) -> str:
        """Return in a sentence how it ended."""
        error = self.record.get("error") or {}
        parts = [str(error[name]) for name in ("message", "hint") if error.get(name)]
        return f"it {self.status}" if not parts else f"it {self.status}: {'; '.join(parts)}"


class Jobs:
    """The jobs of one service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, dataset: Any = "digits", ipc: int | None = None, *, idempotency_key: str = "",
        **fields: Any,
    ) -> Job:  # fmt: skip
        """Put a job into the queue.

        Args:
            dataset: A name, or an object such as `{"type": "hub", "id": "owner/name"}`.
            ipc: Images per class; None leaves the choice to the service.
            idempotency_key: Creating twice with the same key gives the same job; by default each
                call has a key of its own, which is what makes its retries safe.
            fields: Everything else that `POST /jobs` takes, such as `preset` or `name`.
        """
        body = {"dataset": dataset} | ({} if ipc is None else {"ipc": ipc}) | fields
        answer = self._transport.request(
            "POST", "/jobs", json=body, idempotency_key=idempotency_key
        )
        return Job(answer.json(), self)

    def get(self, job_id: str) -> Job:
        """Return a job."""
        return Job(self._transport.request("GET", _path(job_id)).json(), self)

    def list(
        self, *, status: str | None = None, dataset: str | None = None,
        metadata: Mapping[str, str] | None = None, limit: int | None = None,
    ) -> Iterator[Job]:  # fmt: skip
        """Yield jobs, newest first, page after page; at most `limit` of them."""
        params: dict[str, Any] = {"limit": min(limit or PAGE_SIZE, PAGE_SIZE)}
        params |= {} if status is None else {"status": status}
        params |= {} if dataset is None else {"dataset": dataset}
        params |= {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        left = limit
        while left is None or left > 0:
            page = self._transport.request("GET", "/jobs", params=params).json()
            for record in page["data"][:left]:
                yield Job(record, self)
            left = None if left is None else left - len(page["data"])
            if not page["has_more"]:
                return
            params["after"] = page["next"]

    def wait(
        self, job_id: str, *, timeout_s: float | None = None,
        on_job: Callable[[Job], None] | None = None,
    ) -> Job:  # fmt: skip
        """Return a job once it has ended, whatever its end.

        A service that is restarted meanwhile is waited for.

        Args:
            job_id: Of the job.
            timeout_s: How long to wait; None: for ever.
            on_job: Called with what the service says of the job, every few seconds.

        Raises:
            WaitTimeout: If the job goes on after `timeout_s` seconds.
        """
        start_s = answered_s = time.monotonic()
        longest_s = LONG_POLL_S if on_job is None else SHORT_POLL_S
        while True:
            now_s = time.monotonic()
            left_s = float("inf") if timeout_s is None else start_s + timeout_s - now_s
            poll_s = int(max(0, min(longest_s, left_s)))
            try:
                job, pause_s = self._poll(job_id, poll_s)
                answered_s = time.monotonic()
            except ServiceError as error:
                if error.code != "unreachable" or now_s - answered_s > PATIENCE_S:
                    raise
                job, pause_s = None, 1.0
            if job is not None and on_job is not None:
                on_job(job)
            if job is not None and job.is_finished:
                return job
            left_s -= time.monotonic() - now_s
            if left_s <= 0:
                status = "out of reach" if job is None else job.status
                text = f"job {job_id} is still {status} after {timeout_s:g} s"
                raise WaitTimeout(f"{text}: it goes on, wait again", code="wait_timeout")
            self._transport.sleep(min(pause_s, left_s))

    def _poll(self, job_id: str, poll_s: int) -> tuple[Job, float]:
        """Return a job after a change or `poll_s` seconds, and how long to pause before again."""
        headers = {"Prefer": f"wait={poll_s}"} if poll_s else {}
        answer = self._transport.request(
            "GET", _path(job_id), headers=headers, timeout_s=poll_s + 15.0
        )
        was_held = "Preference-Applied" in answer.headers
        pause_s = 0.2 if was_held else min(retry_after_s(answer) or 1.0, 5.0)
        return Job(answer.json(), self), pause_s

    def events(self, job_id: str, *, after: int | None = None) -> Iterator[Event]:
        """Yield the events of a job until its end; see `follow_events`."""
        return follow_events(self._transport, job_id, after=after)

    def logs(self, job_id: str, *, tail: int | None = None) -> str:
        """Return the log of a job, or its last `tail` lines."""
        params = {} if tail is None else {"tail": tail}
        headers = {"Accept": "text/plain"}
        path = f"{_path(job_id)}/logs"
        return self._transport.request("GET", path, params=params, headers=headers).text

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; a finished one is returned as it is."""
        return Job(self._transport.request("POST", f"{_path(job_id)}/cancel").json(), self)

    def retry(self, job_id: str) -> Job:
        """Run a failed or canceled job on."""
        return Job(self._transport.request("POST", f"{_path(job_id)}/retry").json(), self)

    def delete(self, job_id: str) -> None:
        """Remove a finished job and its files."""
        self._transport.request("DELETE", _path(job_id))

    def report(self, job_id: str) -> dict[str, Any]:
        """Return the report of a job that has succeeded."""
        headers = {"Accept": "application/json"}
        path = f"{_path(job_id)}/report"
        return dict(self._transport.request("GET", path, headers=headers).json())

    def files(self, job_id: str) -> Sequence[dict[str, Any]]:
        """Return what files a job has, with sizes and digests."""
        return self._transport.request("GET", f"{_path(job_id)}/files").json()["data"]

    def download(
        self, job_id: str, target: Path, *, on_progress: OnProgress = ignore_progress
    ) -> Path:
        """Bring the bundle file of a job to `target`; see `fetch`."""
        return fetch(self._transport, f"{_path(job_id)}/bundle", target, on_progress=on_progress)

    def download_file(
        self, job_id: str, name: str, target: Path, *, on_progress: OnProgress = ignore_progress
    ) -> Path:
        """Bring one file of `files` to `target`; see `fetch`."""
        path = f"{_path(job_id)}/files/{quote(name)}"
        return fetch(self._transport, path, target, on_progress=on_progress)


def _path(job_id: str) -> str:
    """Return the path of a job; a name with a slash in it stays one name."""
    return f"/jobs/{quote(job_id, safe='')}"
