"""Ctrl-C and SIGTERM: asked once, the work stops at the next safe point and keeps what it did.

Stages report their progress where stopping is safe, so that is where `Cancelled` is raised.
"""

import signal
from types import FrameType, TracebackType
from typing import Any

from distillery.errors import Cancelled

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While entered, a signal asks for a stop; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise `Cancelled` where a stop was asked for."""
        if self.asked:
            raise Cancelled("stopped")
