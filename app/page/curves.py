"""Loss curves as small SVG drawings, for readers without scripts and until the script takes over.

The points are those of `GET /jobs/{id}/metrics`, thinned alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.api.series import series_of

WIDTH, HEIGHT = 320.0, 132.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 8.0, 8.0, 22.0
MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """One drawn series."""

    phase: str
    group: int | None
    """Class group, from 0, of a phase that is done in parts."""
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


def draw(metrics: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """Return the drawings of all curves with at least two points that are not all zero.

    Args:
        metrics: Data of metric events, in order.
    """
    return [
        _draw(each, list(zip(each["steps"], each["values"], strict=True)))
        for each in series_of(metrics, None, MAX_POINTS)
        if len(each["steps"]) >= 2 and any(each["values"])
    ]


def _draw(curve: Mapping[str, Any], points: Sequence[tuple[float, float]]) -> Curve:
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
        curve["phase"],
        curve["group"],
        curve["name"],
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
