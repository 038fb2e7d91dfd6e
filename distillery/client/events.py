"""The events of a job as they happen, over any number of broken connections.

Each event has the number under which the service stored it. After a break the stream goes on
behind the last number seen (`Last-Event-ID`), so nothing is missed and nothing comes twice.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from distillery.client.transport import RETRY_STATUSES, Transport, delay_of
from distillery.errors import ServiceError

log = logging.getLogger(__name__)

SILENCE_S = 45.0
"""The service writes something every 15 s; a stream silent for longer is dead."""
PATIENCE_S = 120.0
"""How long a service may stay away, as while it is restarted."""
MAX_EVENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    seq: int
    """Its number; numbers grow within a job."""
    kind: str
    """`snapshot` (the whole job), `status`, `progress`, `metric`, `stage`, `log`, `done`, ..."""
    data: dict[str, Any]
    """What it says."""


def follow_events(
    transport: Transport, job_id: str, *, after: int | None = None
) -> Iterator[Event]:
    """Yield the events of a job until it has ended.

    The first event of each connection is a `snapshot` of the whole job; then comes what happened
    behind number `after`: 0 for all that is stored, None for what happens from now on.

    Raises:
        ServiceError: If the job is unknown, or the service stays away for `PATIENCE_S`.
    """
    seen, failures, last_s = after, 0, time.monotonic()
    while True:
        kind = ""
        try:
            for event in _one_stream(transport, job_id, seen):
                failures, last_s, kind = 0, time.monotonic(), event.kind
                if seen is None or event.kind in ("snapshot", "done") or event.seq > seen:
                    seen = max(event.seq, seen or 0)
                    yield event
            if kind == "done":  # not any: a job that was run again has earlier ones
                return
        except _Ended:
            return
        except httpx2.TransportError as error:
            if time.monotonic() - last_s > PATIENCE_S:
                raise transport.unreachable(error) from error
            log.debug("the event stream of %s broke: %r", job_id, error)
        except ServiceError as error:
            if error.status not in RETRY_STATUSES or time.monotonic() - last_s > PATIENCE_S:
                raise
        transport.sleep(delay_of(failures))
        failures += 1


class _Ended(Exception):
    """The service has nothing more to say of a job."""


def _one_stream(transport: Transport, job_id: str, seen: int | None) -> Iterator[Event]:
    """Yield the events of one connection."""
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if seen is not None:
        headers["Last-Event-ID"] = str(seen)
    path = f"/jobs/{quote(job_id, safe='')}/events"
    with transport.stream(path, headers=headers, read_timeout_s=SILENCE_S) as response:
        if response.status_code == 204:
            raise _Ended
        for frame in httpx2.EventSource(response, max_event_size=MAX_EVENT_BYTES):
            if frame.data:
                yield _event(frame)


def _event(frame: httpx2.ServerSentEvent) -> Event:
    """Return one frame as an event."""
    try:
        data = json.loads(frame.data)
    except ValueError as error:
        raise ServiceError(
            f"the service sent an event that is not JSON ({error})", code="malformed_event"
        ) from error
    seq = int(frame.id) if frame.id.isascii() and frame.id.isdigit() else 0
    return Event(seq, frame.event, data if isinstance(data, dict) else {"value": data})
