"""What a stage's reports become in its process: lines at a bearable rate, and a place to stop.

A cancel is a SIGTERM. Where the stage reports, stopping is safe and keeps its state; a stage that
is silent for longer than it was between its last reports is stopped where it is, as a kill would,
and goes on from its last checkpoint.
"""

import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from distillery.errors import Cancelled
from distillery.progress import Progress

PROGRESS_S = 0.5
METRICS_S = 1.0
PATIENCE_S, MOST_PATIENCE_S = 3.5, 20.0
"""Least and most seconds that a stage has to come to a report after it was asked to stop."""
INSIST_S = 0.5

Send = Callable[[str, Any], None]


class Reporter:
    """Takes a stage's reports; sends the newest ones, metrics among them once a second."""

    def __init__(self, send: Send, stop: "Stop", tick: Callable[[], None] = lambda: None) -> None:
        self._send, self._stop, self._tick = send, stop, tick
        self._held: Progress | None = None
        self._sent_at = self._metrics_at = -math.inf
        self._called_at: float | None = None

    def __call__(self, progress: Progress) -> None:
        """Take a report; raises `Cancelled` where a stop was asked for."""
        self._held, now = progress, time.monotonic()
        if self._called_at is not None:
            self._stop.expect(now - self._called_at)
        self._called_at = now
        if now - self._sent_at >= PROGRESS_S:
            self.flush()
        self._stop.check()
        self._tick()

    def flush(self) -> None:
        """Send the newest report, unless it was sent."""
        if self._held is None:
            return
        progress, now = self._held, time.monotonic()
        self._held, self._sent_at = None, now
        values: dict[str, float] = {}
        if now - self._metrics_at >= METRICS_S:
            # JSON has no NaN; the stage itself reports what is not finite as an error
            values = {k: float(v) for k, v in progress.metrics.items() if math.isfinite(v)}
            self._metrics_at = now if values else self._metrics_at
        self._send(
            "progress",
            {
                "phase": progress.phase, "step": progress.step, "total": progress.total,
                "message": progress.message, "metrics": values,
            },
        )  # fmt: skip


class Stop:
    """The wish to stop, as signals bring it; only the main thread may make one."""

    def __init__(self) -> None:
        self.is_asked = False
        self._is_open = False
        self._patience_s = PATIENCE_S
        signal.signal(signal.SIGTERM, self._ask)
        if hasattr(signal, "setitimer"):  # not on Windows, where a stage stops at reports alone
            signal.signal(signal.SIGALRM, self._insist)

    def __enter__(self) -> "Stop":
        self._is_open, self._patience_s = True, PATIENCE_S
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        self._set_timer(0)

    def expect(self, interval_s: float) -> None:
        """Take note of the time between two reports: the next one is as far away."""
        self._patience_s = min(max(PATIENCE_S, 1.5 * interval_s), MOST_PATIENCE_S)

    def check(self) -> None:
        """Raise `Cancelled` where a stop was asked for."""
        if self.is_asked:
            self._set_timer(0)  # a state that is being saved is not interrupted
            raise Cancelled("stopped")

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.is_asked:
            self.is_asked = True
            self._set_timer(self._patience_s)

    def _insist(self, number: int, frame: FrameType | None) -> None:
        if self._is_open:
            raise Cancelled("stopped without waiting for a report")

    @staticmethod
    def _set_timer(first_s: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, first_s, INSIST_S if first_s else 0)
