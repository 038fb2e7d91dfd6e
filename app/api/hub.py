"""One poller for all event streams of this process: each asks it, none asks the database.

A channel is a job that somebody watches. The poller asks the store once for what is new in all
channels, keeps the last events as ready frames, and wakes the watchers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from app.api.views import json_bytes
from app.jobs.records import EventRecord
from app.jobs.store import JobStore

INTERVAL_S = 0.25
KEPT_EVENTS = 256
LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Frame:
    """An event, ready to be sent."""

    seq: int
    kind: str
    content: bytes


@dataclass(slots=True)
class Channel:
    """A job that somebody watches."""

    job_id: str
    seen: int
    """Last event that the poller knows of; later ones are in `frames` as they come."""
    frames: deque[Frame] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    watchers: int = 0
    start: int = 0
    """Everything after this event is in `frames`."""

    def add(self, events: list[EventRecord]) -> None:
        """Take new events and wake the watchers."""
        for event in events:
            if len(self.frames) == KEPT_EVENTS:
                self.start = self.frames[0].seq
            self.frames.append(frame_of(event))
            self.seen = event.seq
        self.wake()

    def wake(self) -> None:
        """Let every watcher look."""
        self.changed.set()
        self.changed = asyncio.Event()


def frame_of(event: EventRecord) -> Frame:
    """Return the server-sent event of a stored one."""
    return Frame(event.seq, event.kind, sse(event.kind, json_bytes(event.data), event.seq))


def sse(kind: str, data: bytes, seq: int | None) -> bytes:
    """Return a frame of a server-sent event (HTML standard, section 9.2.6); JSON has no newline."""
    identity = b"" if seq is None else b"id: %d\n" % seq
    return identity + b"event: %s\ndata: %s\n\n" % (kind.encode(), data)


class EventHub:
    """The channels of this process and the task that polls for them."""

    def __init__(self, store: JobStore, *, interval_s: float = INTERVAL_S) -> None:
        """Take the store; the task runs while somebody watches."""
        self.store, self.interval_s = store, interval_s
        self.channels: dict[str, Channel] = {}
        self.is_closing = False
        self.num_streams = 0
        """Open event streams, for the limit and the metrics."""
        self.num_polls = 0
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watch(self, job_id: str, revision: int) -> AsyncIterator[Channel]:
        """Hold the channel of a job, whose events up to `revision` are known to the caller."""
        channel = self.channels.get(job_id)
        if channel is None:
            channel = self.channels[job_id] = Channel(job_id, revision, start=revision)
        channel.watchers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        try:
            yield channel
        finally:
            channel.watchers -= 1
            if not channel.watchers:
                self.channels.pop(job_id, None)

    async def frames_after(self, channel: Channel, seq: int) -> list[Frame]:
        """Return what followed an event: from the channel, or from the store where it is older."""
        if seq >= channel.start:
            return [frame for frame in channel.frames if frame.seq > seq]
        events = await run_in_threadpool(self.store.events, channel.job_id, after=seq)
        return [frame_of(event) for event in events]

    async def _poll(self) -> None:
        """Ask for news of all channels until nobody watches."""
        while self.channels and not self.is_closing:
            seen = {job_id: channel.seen for job_id, channel in self.channels.items()}
            try:
                found = await run_in_threadpool(self.store.changed_since, seen)
                self.num_polls += 1
            except Exception:  # a busy database: the streams stay open and the next poll comes
                LOG.exception("the poll for events failed")
                found = {}
            for job_id, events in found.items():
                channel = self.channels.get(job_id)
                if channel is not None and channel.seen == seen[job_id]:
                    channel.add(events)
            await asyncio.sleep(self.interval_s)

    def close(self) -> None:
        """Let every stream end; safe to call from a signal handler's loop callback."""
        self.is_closing = True
        for channel in self.channels.values():
            channel.wake()
