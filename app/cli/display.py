"""Progress for people on a pipe, and for machines: plain lines, and one JSON object a line.

The bars of a terminal are in `bars`. All three take the same calls, see `Display`.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, Protocol

from app.cli.console import clean, time_text
from app.cli.tracker import Tracker
from distillery.progress import Progress

if TYPE_CHECKING:
    from generator.stage import Finished

LINE_EVERY_S = 10.0
LINE_EVERY_SHARE = 0.1
LINE_AT_MOST_EVERY_S = 1.0
EVENT_AT_MOST_EVERY_S = 0.5


class Display(Protocol):
    """Shows a running job."""

    def __enter__(self) -> "Display":
        """Begin."""
        ...

    def __exit__(self, *_: object) -> None:
        """End, whatever happened."""
        ...

    def on_progress(self, progress: Progress) -> None:
        """Take a report of a stage's work."""
        ...

    def on_stage(self, finished: "Finished") -> None:
        """Take note of a complete stage."""
        ...


def metrics_text(progress: Progress) -> str:
    """Return the figures of a report, `loss 0.312`."""
    return ", ".join(f"{name} {value:.3g}" for name, value in list(progress.metrics.items())[:2])


class Lines:
    """One line a stage, and one about every tenth of it or every ten seconds."""

    def __init__(self, tracker: Tracker, file: IO[str] | None = None) -> None:
        self._tracker, self._file = tracker, file or sys.stderr
        self._phase, self._last_s, self._last_share = "", time.monotonic(), 0.0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def on_progress(self, progress: Progress) -> None:
        """Write a line when one is due."""
        standing = self._tracker.update(progress)
        now = time.monotonic()
        if progress.phase != self._phase or standing.share < self._last_share:
            self._phase, self._last_share = progress.phase, 0.0
        waited = now - self._last_s
        stepped = standing.share - self._last_share >= LINE_EVERY_SHARE
        if waited < LINE_EVERY_S and not (stepped and waited >= LINE_AT_MOST_EVERY_S):
            return
        self._last_s, self._last_share = now, standing.share
        parts = [f"{progress.phase}: {progress.step}/{progress.total}"]
        if standing.phase_left_s is not None:
            parts.append(f"about {time_text(standing.phase_left_s)} left")
        parts += [text for text in (clean(progress.message), metrics_text(progress)) if text]
        self._write(f"{', '.join(parts)} (job {100 * standing.overall:.0f} %)")

    def on_stage(self, finished: "Finished") -> None:
        """Write the stage's own line."""
        record = finished.record
        self._tracker.finish(finished.name, record["seconds"], was_cached=finished.was_cached)
        took = "done before" if finished.was_cached else time_text(record["seconds"])
        self._write(f"{finished.name}: {took}; {clean(record['summary'])}")
        self._last_s = time.monotonic()

    def _write(self, text: str) -> None:
        self._file.write(text + "\n")
        self._file.flush()


class Events:
    """JSON objects, one a line, each with the field `event`."""

    def __init__(
        self, tracker: Tracker, file: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._tracker, self._file, self._clock = tracker, file or sys.stdout, clock
        self._part, self._last_s = ("", 0), 0.0

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def on_progress(self, progress: Progress) -> None:
        """Write a progress event: the first and last of a count, and every half second."""
        standing = self._tracker.update(progress)
        part, now = (progress.phase, progress.total), self._clock()
        is_edge = part != self._part or progress.step >= progress.total
        if not is_edge and now - self._last_s < EVENT_AT_MOST_EVERY_S:
            return
        self._part, self._last_s = part, now
        self.write(
            "progress", phase=progress.phase, step=progress.step, total=progress.total,
            message=progress.message, metrics=_finite(progress.metrics),
            phase_left_s=_rounded(standing.phase_left_s), overall=round(standing.overall, 4),
            left_s=_rounded(standing.left_s),
        )  # fmt: skip

    def on_stage(self, finished: "Finished") -> None:
        """Write a stage event."""
        record = finished.record
        standing = self._tracker.finish(
            finished.name, record["seconds"], was_cached=finished.was_cached
        )
        self.write(
            "stage", name=finished.name, seconds=record["seconds"], cached=finished.was_cached,
            summary=record["summary"], overall=round(standing.overall, 4),
        )  # fmt: skip

    def write(self, event: str, **fields: Any) -> None:
        """Write one event."""
        write_event(event, fields, self._file)


def write_event(event: str, fields: Mapping[str, Any], file: IO[str] | None = None) -> None:
    """Write one JSON object on a line of its own, in ASCII, and flush it."""
    file = file or sys.stdout
    file.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
    file.flush()


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _finite(metrics: Any) -> dict[str, float | None]:
    """Return figures that JSON can hold; what is not finite is None."""
    return {name: float(v) if v - v == 0 else None for name, v in metrics.items()}
