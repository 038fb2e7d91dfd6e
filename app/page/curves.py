"""Loss curves as small SVG drawings, for readers without scripts and until the script takes over.

Long runs are thinned to the extremes of short stretches, so that a spike is never lost.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 320.0, 132.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 8.0, 22.0
MAX_POINTS = 400
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One drawn series."""

    phase: str
    name: str
    path: str
    """Points of a polyline in a drawing of 320 x 132."""
    ticks: tuple[tuple[float, str], ...]
    """(height, text) of the marks at the left."""
    first: str
    last: str
    """Step at both ends."""
    value: str
    """The last value."""


def series_of(metrics: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], list[Point]]:
    """Return (step, value) points by (phase, name) from the data of metric events, in order."""
    series: dict[tuple[str, str], list[Point]] = {}
    for data in metrics:
        for name, value in (data.get("values") or {}).items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                series.setdefault((str(data.get("phase")), name), []).append(
                    (float(data.get("step") or 0), float(value))
                )
    return series


def draw(series: Mapping[tuple[str, str], Sequence[Point]]) -> list[Curve]:
    """Return the drawings of all series with at least two points that are not all zero."""
    return [
        _draw(phase, name, thin(points))
        for (phase, name), points in series.items()
        if len(points) >= 2 and any(value for _, value in points)
    ]


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """Return at most `limit` points: of each stretch the lowest and the highest, in order."""
    if len(points) <= limit:
        return list(points)
    kept: list[Point] = []
    num_stretches = limit // 2
    for number in range(num_stretches):
        start = number * len(points) // num_stretches
        stretch = points[start : (number + 1) * len(points) // num_stretches]
        ends = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def _draw(phase: str, name: str, points: Sequence[Point]) -> Curve:
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    low, high = min(values), max(values)
    if high - low < 1e-12:
        low, high = low - 0.5 * max(abs(low), 1e-3), high + 0.5 * max(abs(high), 1e-3)
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def place(step: float, value: float) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / (last - first)
        return f"{x:.1f},{_height(value, low, high):.1f}"

    marks = (low, (low + high) / 2, high)
    return Curve(
        phase,
        name,
        " ".join(place(step, value) for step, value in points),
        tuple((round(_height(mark, low, high), 1), figure(mark)) for mark in marks),
        f"{first:.0f}",
        f"{steps[-1]:.0f}",
        figure(values[-1]),
    )


def _height(value: float, low: float, high: float) -> float:
    """Return the place of a value, from the top."""
    return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)


def figure(value: float) -> str:
    """Return a number in three digits."""
    return f"{value:.3g}"
