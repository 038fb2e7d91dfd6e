"""What has to be done now and then: reconcile, retention, leftovers of deleted jobs.

Safe to do from several processes at once, and at any moment.
"""

import shutil
import time
from datetime import timedelta
from pathlib import Path

from app.jobs.cache_use import prune_cache
from app.jobs.records import TERMINAL, JobRecord
from app.jobs.rows import now
from app.jobs.service import Service, job_folder
from app.jobs.thinning import thin_finished
from app.settings import Settings
from distillery.errors import JobError

DELETED = "deleted"
"""Name of the mark in the folder of a job that is being removed."""
UPLOAD_S = 24 * 3600.0
"""An upload that nothing was written to for so long, and that was not entered, is none."""


def tend(service: Service) -> None:
    """Bring store and engine together, and end cancels that no worker is left to answer."""
    service.engine.reconcile()
    settle_cancels(service)


def clean(service: Service) -> None:
    """Remove what is too old: finished jobs by the retention setting, answers, leftovers.

    Of finished jobs that stay, the events are thinned. The cache is brought to its size.
    """
    service.answers.purge()
    thin_finished(service.database)
    days = service.settings.retention_days
    if days is not None:
        remove_old_jobs(service, timedelta(days=days))
    sweep(service.settings, service)
    prune_cache(service.settings, service.store)


def delete_job(service: Service, job_id: str) -> None:
    """Remove a finished job: its record, its workflows and its folder.

    Shared cache entries stay, other jobs may use them.

    Raises:
        JobError: If there is no such job, or it has not ended.
    """
    job = service.store.get(job_id)
    if job is None:
        raise JobError(f"there is no job {job_id}")
    if not job.is_terminal:
        raise JobError(f"job {job_id} is {job.status}: cancel it first")
    folder = service.job_folder(job_id)
    if folder.is_dir():  # the mark first: a kill from here on leaves nothing that `sweep` misses
        (folder / DELETED).touch()
    try:
        service.store.delete(job_id)
    except ValueError as error:  # retried in this moment
        (folder / DELETED).unlink(missing_ok=True)
        raise JobError(str(error)) from error
    service.engine.forget([job_id])
    shutil.rmtree(folder, ignore_errors=True)


def remove_old_jobs(service: Service, age: timedelta) -> list[str]:
    """Delete the jobs that finished longer ago than `age`; return their ids."""
    removed: list[str] = []
    after: str | None = None
    has_more = True
    while has_more:
        jobs, has_more = service.store.list(status=TERMINAL, after=after, limit=200)
        for job in jobs:
            after = job.id
            if job.finished_at is not None and job.finished_at < now() - age:
                delete_job(service, job.id)
                removed.append(job.id)
    return removed


def sweep(settings: Settings, service: Service) -> None:
    """Remove what a kill has left behind: folders of deleted jobs, uploads without an end."""
    for mark in sorted(job_folder(settings, "x").parent.glob(f"job_*/{DELETED}")):
        _sweep_one(service, mark.parent)
    folders = sorted(path for path in (settings.data / "uploads").glob("*") if path.is_dir())
    entered = {Path(record.path).parent for record in service.datasets.list()}
    for folder in folders:
        if folder not in entered and time.time() - _last_change(folder) > UPLOAD_S:
            shutil.rmtree(folder, ignore_errors=True)


def _last_change(folder: Path) -> float:
    """Return when a folder, or a file in it, was last written to; now where it is just going."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:
        return time.time()


def _sweep_one(service: Service, folder: Path) -> None:
    """Remove one marked folder, or the mark where the job is still there."""
    if service.store.get(folder.name) is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        (folder / DELETED).unlink(missing_ok=True)


def settle_cancels(service: Service) -> list[str]:
    """End the jobs that wait for a cancel while no worker lives; return their ids."""
    limit_s = service.settings.dead_after_s
    canceling, _ = service.store.list(status="canceling", limit=10_000)
    if not canceling or any(
        worker.stopped_at is None and worker.age_s < limit_s for worker in service.workers.list()
    ):
        return []
    return [job.id for job in canceling if _settle(service, job)]


def _settle(service: Service, job: JobRecord) -> bool:
    """End one cancel for good."""
    settled = service.store.change(job.id, expect={"canceling"}, status="canceled", worker=None)
    if settled is not None:
        service.engine.stop(settled)
    return settled is not None
