"""What every route needs, made once when the application is built."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from app.api.auth import Auth
from app.api.children import Children
from app.api.files import Digests
from app.api.hub import EventHub
from app.api.limits import check_disk
from app.api.problems import Problem
from app.api.telemetry import Telemetry
from app.jobs.records import JobRecord
from app.jobs.service import Service
from app.settings import Settings

ID = re.compile(r"^job_[0-9a-z]{26}$")


@dataclass(frozen=True, slots=True)
class Api:
    """The parts of the API."""

    service: Service
    auth: Auth
    hub: EventHub
    children: Children
    telemetry: Telemetry
    digests: Digests

    @property
    def settings(self) -> Settings:
        """Of this process."""
        return self.service.settings

    def job(self, job_id: str) -> JobRecord:
        """Return a job.

        Raises:
            Problem: If there is none of this id.
        """
        return self.job_placed(job_id)[0]

    def job_placed(self, job_id: str) -> tuple[JobRecord, int | None]:
        """Return a job and its place in the queue, None where it does not wait.

        Raises:
            Problem: If there is none of this id.
        """
        store = self.service.store
        job, place = store.get_placed(job_id) if ID.fullmatch(job_id) else (None, None)
        if job is None:
            raise Problem("not_found", f"there is no job {job_id[:60]!r}")
        return job, place

    def check_queue(self) -> None:
        """Refuse a job where too many wait already.

        Raises:
            Problem: `queue_full`.
        """
        waiting, limit = self.service.store.num_queued(), self.settings.max_queued
        if waiting >= limit:
            detail = f"{waiting} jobs wait and {limit} may: try again when some have started"
            raise Problem("queue_full", detail, retry_after_s=30)

    def check_disk(self, coming_bytes: int = 0) -> None:
        """Refuse what would fill the disk below its floor.

        Raises:
            Problem: `storage_full`.
        """
        check_disk(self.settings.data, self.settings.disk_floor_bytes, coming_bytes)

    def queue_position(self, job: JobRecord) -> int | None:
        """Return the place of a job in the queue, None where it does not wait."""
        return self.service.store.queue_position(job.id) if job.status == "queued" else None


async def get_api(request: Request) -> Api:
    """Return the parts of the API that serves this request."""
    api: Api = request.app.state.api
    return api


ApiDep = Annotated[Api, Depends(get_api)]
JobId = Annotated[
    str, Path(description="Of the job.", json_schema_extra={"pattern": ID.pattern, "maxLength": 30})
]
