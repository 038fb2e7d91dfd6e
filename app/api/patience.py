"""`Prefer: wait`: holding a request until its job changes. Source: RFC 7240, section 4.3."""

import asyncio
import re

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from app.api.context import Api
from app.api.problems import Problem
from app.api.views import job_etag, matches
from app.jobs.records import JobRecord

PREFERENCE = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,4})")
MAX_WAIT_S = 60
STEP_S, CHECK_S = 5.0, 4.0
"""A request that waits asks after this long whether its key or session is still good, at
the next step."""


async def wait_for_change(
    request: Request, api: Api, job_id: str, known_etag: str | None, wait: re.Match[str] | None
) -> tuple[JobRecord, int | None]:
    """Return a job and its place in the queue, at once or when it has changed.

    Args:
        request: To notice when the client has gone.
        api: The parts of the API.
        job_id: Of the job.
        known_etag: The caller's `If-None-Match`; without it a change of the status is waited for.
        wait: The preference, None: answer at once.

    Raises:
        Problem: If there is no such job, or the right to read it has ended meanwhile.
    """
    job, place = await run_in_threadpool(api.job_placed, job_id)
    if wait is None or job.is_terminal:
        return job, place
    first, may_stay = job.status, getattr(request.state, "may_stay", lambda: True)
    clock = asyncio.get_running_loop().time
    checked = clock()
    until = checked + min(int(wait[1]), MAX_WAIT_S)
    async with api.hub.watch(job_id, job.revision) as channel:
        while not api.hub.is_closing and not job.is_terminal:
            is_same = matches(known_etag, job_etag(job, place)) if known_etag else (
                job.status == first
            )  # fmt: skip
            left = until - clock()
            if clock() >= checked + CHECK_S:
                checked = clock()
                if not await run_in_threadpool(may_stay):
                    raise Problem("unauthorized", "the key or the session has ended meanwhile")
            if not is_same or left <= 0 or await request.is_disconnected():
                break
            changed = channel.changed
            if channel.seen <= job.revision:
                try:
                    await asyncio.wait_for(changed.wait(), min(left, STEP_S))
                except TimeoutError:
                    if left > STEP_S and job.status != "queued":
                        continue
            job, place = await run_in_threadpool(api.job_placed, job_id)
    return job, place
