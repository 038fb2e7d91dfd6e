"""`/jobs`: create, list, look at, cancel, retry, delete."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from app.api.bodies import EXAMPLE, JobBody
from app.api.content import JsonOnly
from app.api.context import Api, ApiDep, JobId
from app.api.creation import create_job
from app.api.names import check_still_there, file_names
from app.api.openapi import documented
from app.api.patience import PREFERENCE, wait_for_change
from app.api.problems import Problem
from app.api.schemas import JobList, JobOut
from app.api.views import answer, is_current, job_etag, job_json, list_json, matches
from app.jobs.housekeeping import delete_job
from app.jobs.records import JobRecord, Status
from distillery.errors import JobError

router = APIRouter(prefix="/jobs", tags=["jobs"])
LABEL = re.compile(r"metadata\[(.{1,64})\]")
POLL_S = {"queued": 2, "running": 2, "canceling": 1}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key", min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$",
        description="Makes a repeated request safe: the first answer is given again for 72 hours.",
    ),
]  # fmt: skip
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", max_length=1000)]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match", max_length=1000,
        description="Only where this is the job's `ETag` still; `*` is any.",
    ),
]  # fmt: skip
Prefer = Annotated[
    str | None,
    Header(
        max_length=200,
        description="`wait=60`: answer when the job changes (against `If-None-Match`, else when "
        "its status does), or after so many seconds, at most 60.",
    ),
]


@router.post(
    "", status_code=202, dependencies=[JsonOnly], summary="Start a job",
    **documented(
        {202: (JobOut, "The job is queued.")}, 400, 409, 413, 415, 422, 507,
        headers={202: ("Location", "Retry-After", "Idempotency-Replayed")}, example=EXAMPLE,
    ),
)  # fmt: skip
def create(
    request: Request, api: ApiDep, body: JobBody, idempotency_key: IdempotencyKey = None
) -> Response:
    """Check a request, store it and put it into the queue; `{}` distils the digits."""
    return create_job(api, body, idempotency_key, request.state.client_id)


@router.get(
    "", summary="List jobs, newest first",
    **documented({200: (JobList, "One page.")}, 422),
)  # fmt: skip
def list_jobs(
    request: Request,
    api: ApiDep,
    status: Annotated[list[Status], Query(description="Only of these.")] = [],  # noqa: B006
    dataset: Annotated[str | None, Query(max_length=300)] = None,
    after: Annotated[str | None, Query(max_length=60, pattern=r"^job_[0-9a-z]{26}$")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Return jobs; `metadata[key]=value` filters too, and `after` takes `next` of the last page."""
    jobs, has_more = api.service.store.list(
        status=status or None, dataset=dataset, files=file_names(dataset or ""),
        metadata=_labels(request), after=after, limit=limit,
    )  # fmt: skip
    data = [_shown(api, job, brief=True) for job in jobs]
    return answer(list_json(data, has_more=has_more, after=jobs[-1].id if jobs else None))


def _shown(api: Api, job: JobRecord, *, brief: bool = False) -> dict[str, Any]:
    place = api.queue_position(job)
    return job_json(job, api.settings, queue_position=place, brief=brief)


def _labels(request: Request) -> dict[str, str]:
    """Return the filters by metadata.

    Raises:
        Problem: If one is none that a job can have, or there are more than it can have.
    """
    pairs = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith("metadata"):
            continue
        match = LABEL.fullmatch(name)
        if match is None or len(value) > 512 or "\x00" in match[1] + value:
            raise Problem(
                "validation_failed",
                "a metadata filter is metadata[KEY]=VALUE, with a key of 1 to 64 characters and a "
                f"value of up to 512, got {name[:80]!r}",
            )
        pairs[match[1]] = value
    if len(pairs) > 16:
        raise Problem("validation_failed", "at most 16 metadata filters can be given")
    return pairs


@router.get(
    "/{job_id}", summary="Look at a job",
    **documented(
        {200: (JobOut, "The job.")}, 304, 404, 422,
        headers={200: ("ETag", "Retry-After", "Preference-Applied")},
    ),
)  # fmt: skip
async def look(
    request: Request, api: ApiDep, job_id: JobId,
    if_none_match: IfNoneMatch = None, prefer: Prefer = None,
) -> Response:  # fmt: skip
    """Return a job; its `ETag` changes with it, so that polling costs nothing."""
    wait = PREFERENCE.search(prefer or "")
    job, place = await wait_for_change(request, api, job_id, if_none_match, wait)
    etag = job_etag(job, place)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if not job.is_terminal:
        headers["Retry-After"] = str(POLL_S[job.status])
    if wait:
        headers["Preference-Applied"] = f"wait={min(int(wait[1]), 60)}"
    if matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return answer(job_json(job, api.settings, queue_position=place), headers=headers)


@router.post(
    "/{job_id}/cancel", summary="Cancel a job",
    **documented({200: (JobOut, "The job as it is now.")}, 404, 422),
)  # fmt: skip
def cancel(api: ApiDep, job_id: JobId) -> Response:
    """Stop a job: at once where it waits, at its next checkpoint where it runs.

    One that has ended stays as it is; asking twice does no harm.
    """
    api.job(job_id)
    try:
        return answer(_shown(api, api.service.engine.cancel(job_id)))
    except JobError:
        api.job(job_id)  # deleted meanwhile
        raise


@router.post(
    "/{job_id}/retry", status_code=202, summary="Run a job again",
    **documented({202: (JobOut, "It is queued again.")}, 404, 409, 422, 507),
)  # fmt: skip
def retry(api: ApiDep, job_id: JobId) -> Response:
    """Run a failed or canceled job again, from its last complete stage and checkpoint."""
    job = api.job(job_id)
    if job.status == "succeeded":
        raise Problem("job_not_retryable", "the job has succeeded: there is nothing left to do")
    if not job.is_terminal:
        raise Problem("job_not_terminal", f"the job is {job.status}: cancel it first, or wait")
    check_still_there(job.dataset, api.settings)
    api.check_disk()
    api.check_queue()
    try:
        return answer(_shown(api, api.service.engine.retry(job_id)), 202)
    except JobError as error:
        api.job(job_id)
        raise Problem("job_not_terminal", str(error)) from None


@router.delete(
    "/{job_id}", status_code=204, summary="Delete a job",
    **documented({204: (None, "It is gone.")}, 404, 409, 412, 422),
)  # fmt: skip
def delete(api: ApiDep, job_id: JobId, if_match: IfMatch = None) -> Response:
    """Remove a finished job, its files and its events; shared stages in the cache stay."""
    etag = job_etag(*api.job_placed(job_id))
    if if_match is not None and not is_current(if_match, etag):
        raise Problem("precondition_failed", f"the job's ETag is {etag} now: look at it again")
    try:
        delete_job(api.service, job_id)
    except JobError as error:
        api.job(job_id)  # deleted by another request meanwhile
        raise Problem("job_not_terminal", str(error)) from None
    return Response(status_code=204)
