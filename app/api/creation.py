"""Making a job: checked, stored once for an idempotency key, handed to the queue.

Source: draft-ietf-httpapi-idempotency-key-header, with the stored answer given again.
"""

import logging
from typing import Any

from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from app.api.context import Api
from app.api.problems import Problem
from app.api.requests import distill_request
from app.api.views import answer, job_json
from app.jobs.records import ACKNOWLEDGED, AnswerRecord, Idempotency, JobRecord
from distillery.files import digest_json

LOG = logging.getLogger(__name__)
REPLAYED = {"Idempotency-Replayed": "true"}


def create_job(api: Api, body: Any, key: str | None, client_id: str) -> Response:
    """Return the answer to `POST /jobs`, the first one where the key was here before.

    Raises:
        Problem: Why no job is made.
    """
    identity = _identity(body, key, client_id)
    if identity is not None:
        known = api.service.answers.find(identity.key, identity.scope)
        if known is not None:
            return _replay(api, known, identity)
    request = distill_request(body, api.service)
    if body.acknowledge_licence:
        request[ACKNOWLEDGED] = True
    api.check_disk()
    api.check_queue()
    try:
        job = api.service.store.create(
            request, name=body.name, metadata=body.metadata, priority=body.priority,
            idempotency=identity,
        )  # fmt: skip
    except IntegrityError:
        if identity is None:
            raise
        known = api.service.answers.find(identity.key, identity.scope)
        if known is None:  # its job was deleted in this moment
            raise _in_progress() from None
        return _replay(api, known, identity)
    _submit(api, job)
    response = _accepted(api, job)
    if identity is not None:
        headers = {"Location": response.headers["Location"]}
        text = bytes(response.body).decode()
        api.service.answers.finish(
            identity.key, identity.scope, status=202, headers=headers, body=text
        )
    return response


def _identity(body: Any, key: str | None, client_id: str) -> Idempotency | None:
    """Return what makes this request the same as an earlier one."""
    if key is None:
        return None
    digest = digest_json(body.model_dump(exclude_unset=True))  # in whatever order it was written
    return Idempotency(key=key, scope=f"{client_id[:100]} POST /jobs", body_digest=digest)


def _submit(api: Api, job: JobRecord) -> None:
    """Hand a stored job to the queue; where that fails, `reconcile` does it later."""
    try:
        api.service.engine.submit(job)
    except Exception:
        LOG.exception("the queue did not take the job yet", extra={"job_id": job.id})


def _accepted(api: Api, job: JobRecord) -> Response:
    place = api.service.store.place_of(job) if job.status == "queued" else None
    shown = job_json(job, api.settings, queue_position=place)
    headers = {"Location": f"/jobs/{job.id}", "Retry-After": "2"}
    return answer(shown, 202, headers)


def _replay(api: Api, known: AnswerRecord, identity: Idempotency) -> Response:
    """Return the first answer again.

    Raises:
        Problem: If the body was another one, or the first request is still at work.
    """
    if known.body_digest != identity.body_digest:
        raise Problem(
            "idempotency_key_reused", "this Idempotency-Key came with another body before: use a "
            "new key for a new request",
        )  # fmt: skip
    if known.status is not None:
        headers = {"Cache-Control": "no-store", "Retry-After": "2", **known.headers, **REPLAYED}
        return Response(known.body, known.status, headers, "application/json")
    job = api.service.store.get(known.job_id) if known.job_id else None
    if job is None:
        raise _in_progress()
    response = _accepted(api, job)  # the process died between the job and its answer
    response.headers.update(REPLAYED)
    return response


def _in_progress() -> Problem:
    return Problem("idempotency_in_progress", "ask again in a moment", retry_after_s=1)
