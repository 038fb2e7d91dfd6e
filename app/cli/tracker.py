"""Where a job stands as a whole: share done and time left, from reports of its stages.

Stages weigh as the estimate says; the pace of what is finished corrects it. Inside a stage a
report counts from where its own counting began, so a resumed stage does not look fast.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from distillery.progress import Progress

MIN_SECONDS = 0.05
"""Least weight of a stage, so that shares are never 0 / 0."""
SETTLED_S = 1.0
"""Seconds of a phase before its own speed is believed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A moment of a job."""

    phase: str
    message: str
    share: float
    """Of the phase, 0 to 1."""
    phase_left_s: float | None
    """None until it can be said."""
    overall: float
    """Of the job, 0 to 1; never falls."""
    left_s: float | None


class Tracker:
    """Takes reports, tells the standing."""

    def __init__(
        self,
        stages: Sequence[str],
        expected_s: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._weight = {name: max(expected_s.get(name, 1.0), MIN_SECONDS) for name in stages}
        self._clock = clock
        self._finished: dict[str, float] = {}
        self._phase, self._part = "", ("", 0)
        self._part_since, self._part_first = 0.0, 0
        self._share, self._overall = 0.0, 0.0
        self._paced = [0.0, 0.0]  # seconds taken, seconds expected

    def update(self, progress: Progress) -> Standing:
        """Take a report of a stage's work."""
        now = self._clock()
        part = (progress.phase, progress.total)
        if progress.phase != self._phase:
            self._phase, self._share = progress.phase, 0.0
        if part != self._part:
            self._part, self._part_since, self._part_first = part, now, progress.step
        total = max(progress.total, 1)
        share = min(progress.step / total, 1.0)
        self._share = max(self._share, share)
        phase_left = None
        done, elapsed = progress.step - self._part_first, now - self._part_since
        if done > 0 and elapsed >= SETTLED_S:
            phase_left = (total - progress.step) * elapsed / done
        return self._standing(progress.message, share, phase_left)

    def finish(self, name: str, seconds: float, *, was_cached: bool) -> Standing:
        """Take note of a complete stage."""
        if not was_cached:
            self._paced[0] += seconds
            self._paced[1] += self._weight.get(name, 0.0)
        self._finished[name] = seconds
        self._phase, self._part, self._share = "", ("", 0), 0.0
        return self._standing("", 0.0, None)

    def _standing(self, message: str, share: float, phase_left: float | None) -> Standing:
        whole = sum(self._weight.values())
        done = sum(self._weight[name] for name in self._finished if name in self._weight)
        done += self._weight.get(self._phase, 0.0) * self._share
        self._overall = max(self._overall, min(done / whole, 1.0))
        taken, expected = self._paced
        pace = min(max(taken / expected, 0.2), 5.0) if expected > 1.0 else 1.0
        open_ = [n for n in self._weight if n not in self._finished and n != self._phase]
        left: float | None = pace * sum(self._weight[name] for name in open_)
        if self._phase and left is not None:
            own = pace * self._weight.get(self._phase, 0.0) * (1 - self._share)
            left += own if phase_left is None else phase_left
        return Standing(self._phase, message, share, phase_left, self._overall, left)
