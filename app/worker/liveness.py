"""A worker's signs of life, and its end when it can no longer give them.

A worker that cannot write its beat for three quarters of the limit ends itself and its child with
it, before anyone may take it for dead: that order, and no clock of another machine, is what keeps
a stage from running twice at once.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app.jobs.workers import WorkerStore
from app.worker.identity import Identity

LOG = logging.getLogger(__name__)
GIVE_UP_SHARE = 0.75
MAX_INTERVAL_S = 10.0


class Liveness:
    """Beats in a thread of its own until it is stopped."""

    def __init__(
        self,
        workers: WorkerStore,
        identity: Identity,
        *,
        dead_after_s: float,
        facts: Callable[[], dict[str, Any]],
        give_up: Callable[[str], None],
    ) -> None:
        """Take what to tell, and what ends this process at once when it may not go on.

        Args:
            workers: Where the beats are stored.
            identity: Of this worker, which has entered itself already.
            dead_after_s: Seconds without a beat after which others take this worker for dead.
            facts: Returns what the worker tells of itself.
            give_up: Gets the reason; ends this process and its child.
        """
        self.workers, self.identity, self.facts, self.give_up = workers, identity, facts, give_up
        self.give_up_after_s = dead_after_s * GIVE_UP_SHARE
        self.interval_s = min(MAX_INTERVAL_S, dead_after_s / 8)
        self.last = time.monotonic()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._beat_on, name="beat", daemon=True),
            threading.Thread(target=self._watch, name="beat-watch", daemon=True),
        ]

    def start(self) -> None:
        """Begin to beat."""
        self.last = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stop.set()

    @property
    def is_fresh(self) -> bool:
        """Whether this worker may still act as a living one."""
        return time.monotonic() - self.last < self.give_up_after_s

    def beat(self) -> None:
        """Give one sign of life."""
        started = time.monotonic()  # the beat is no newer than this, however long it takes
        if not self.workers.beat(self.identity.executor_id, self.identity.boot, self.facts()):
            self.give_up("another process has taken this worker's id")
        elif self.is_fresh:
            self.last = started

    def _beat_on(self) -> None:
        """Beat until stopped; a database that does not answer is asked again."""
        while not self._stop.wait(self.interval_s):
            try:
                self.beat()
            except sa.exc.DBAPIError as error:
                LOG.warning("no sign of life could be written: %s", error.orig)

    def _watch(self) -> None:
        """End this process when its last sign of life is too old, whatever holds the beat up."""
        while not self._stop.wait(min(0.25, self.interval_s)):
            if not self.is_fresh:
                self.give_up(f"no sign of life could be written for {self.give_up_after_s:.0f} s")
