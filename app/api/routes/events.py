"""`/jobs/{id}/events` and `/metrics`: what happened, as a stream or as a list; the curves."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.content import accepts
from app.api.context import Api, ApiDep, JobId
from app.api.head import IS_HEAD
from app.api.hub import Channel, sse
from app.api.openapi import documented
from app.api.problems import Problem
from app.api.schemas import EventList, MetricsOut
from app.api.series import series_of
from app.api.views import answer, event_json, job_json, json_bytes, list_json
from app.jobs.records import JobRecord

router = APIRouter(prefix="/jobs/{job_id}", tags=["events"])
STREAM = "text/event-stream"
PING_S = 15.0
CHECK_S = 10.0
"""A stream asks this often whether its key or session is still good."""
PAGE_EVENTS = 500
MAX_METRICS = 100_000
MAX_SEQ = 2**31 - 1
STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get(
    "/events", summary="Follow a job",
    **documented(
        {200: (EventList, "Events as a list, or as a stream of server-sent events.")},
        204, 404, 406, 422, 429, stream=True,
    ),
)  # fmt: skip
async def events(
    request: Request, api: ApiDep, job_id: JobId,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_SEQ, description="Only events after this number.")
    ] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=20)] = None,
) -> Response:  # fmt: skip
    """Send events as they happen for `Accept: text/event-stream`, else a list of them.

    A stream begins with a `snapshot` of the job, then sends what followed `Last-Event-ID` (or
    `after`), and ends with `done`; asked again after that it is 204, which ends an `EventSource`.
    """
    kind = accepts(request, "application/json", STREAM)
    job = await run_in_threadpool(api.job, job_id)
    if kind != STREAM:
        found = await run_in_threadpool(
            api.service.store.events, job_id, after=after or 0, limit=PAGE_EVENTS + 1
        )
        page = [event_json(event) for event in found[:PAGE_EVENTS]]
        cursor = str(found[PAGE_EVENTS - 1].seq) if len(found) > PAGE_EVENTS else None
        return answer(list_json(page, has_more=cursor is not None, after=cursor))
    seen = int(last_event_id) if last_event_id and _is_number(last_event_id) else after
    if job.is_terminal and seen is not None and seen >= job.revision:
        return Response(status_code=204)
    if getattr(request.state, IS_HEAD, False):
        return Response(headers=STREAM_HEADERS, media_type=f"{STREAM}; charset=utf-8")
    if api.hub.num_streams >= api.settings.max_streams:
        detail = f"{api.hub.num_streams} event streams are open: poll the job, or close some"
        raise Problem("too_many_streams", detail, retry_after_s=15)
    may_stay = getattr(request.state, "may_stay", lambda: True)
    return _Counted(
        api, _stream(api, job, seen, may_stay), headers=STREAM_HEADERS,
        media_type=f"{STREAM}; charset=utf-8",
    )  # fmt: skip


class _Counted(StreamingResponse):
    """A stream that counts from the moment it is allowed, not from its first byte."""

    def __init__(self, api: Api, content: AsyncIterator[bytes], **options: Any) -> None:
        super().__init__(content, **options)
        self._hub = api.hub
        self._hub.num_streams += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._hub.num_streams -= 1


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12


async def _stream(
    api: Api, job: JobRecord, seen: int | None, may_stay: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Yield the frames of a job's events until it, the service or the right to read ends."""
    async with api.hub.watch(job.id, job.revision) as channel:
        place = await run_in_threadpool(api.queue_position, job)
        at = job.revision if seen is None or seen > job.revision else seen
        snapshot = json_bytes(job_json(job, api.settings, queue_position=place))
        yield b"retry: 3000\n\n" + sse("snapshot", snapshot, at)
        if job.is_terminal and at >= job.revision:
            yield sse("done", json_bytes({"status": job.status}), at)
            return
        async for frame in _followed(api, channel, at, may_stay):
            yield frame


async def _followed(
    api: Api, channel: Channel, at: int, may_stay: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Yield what follows event `at`, with a ping where nothing does; ends after `done`."""
    checked = time.monotonic()
    while not api.hub.is_closing:
        if time.monotonic() >= checked + CHECK_S:
            if not await run_in_threadpool(may_stay):
                return
            checked = time.monotonic()
        changed = channel.changed
        frames = await api.hub.frames_after(channel, at)
        for number, frame in enumerate(frames):
            at = frame.seq
            yield frame.content
            if frame.kind == "done" and number == len(frames) - 1 and at >= channel.seen:
                return
        if frames and at < channel.seen:
            continue
        try:
            await asyncio.wait_for(changed.wait(), PING_S)
        except TimeoutError:
            if not await run_in_threadpool(api.service.store.get, channel.job_id):
                return  # deleted
            yield b": ping\n\n"


@router.get(
    "/metrics", summary="The curves of a job",
    **documented({200: (MetricsOut, "Curves by phase and name.")}, 404, 422),
)  # fmt: skip
def metrics(
    api: ApiDep,
    job_id: JobId,
    names: Annotated[
        str | None, Query(max_length=500, description="Only these, separated by commas.")
    ] = None,
    max_points: Annotated[int, Query(ge=2, le=10_000)] = 1000,
) -> Response:
    """Return losses and other figures over the steps; long curves keep their lows and highs."""
    api.job(job_id)
    found = api.service.store.events(job_id, kinds={"metric"}, limit=MAX_METRICS)
    wanted = {name.strip() for name in names.split(",")} if names else None
    series: list[dict[str, Any]] = series_of([event.data for event in found], wanted, max_points)
    return answer({"object": "metrics", "series": series})
