"""Curves from metric events, thinned so that no spike is lost."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Point = tuple[float, float]


def series_of(
    metrics: Iterable[Mapping[str, Any]],
    names: Collection[str] | None = None,
    max_points: int = 1000,
) -> list[dict[str, Any]]:
    """Return `{"phase", "group", "name", "steps", "values"}` of each curve, as they appeared.

    Class groups that train side by side have curves of their own; `group` is None where a stage
    was not divided.

    Args:
        metrics: Data of metric events, in order.
        names: Only these; None: all.
        max_points: At most so many a curve, 2 or more.
    """
    curves: dict[tuple[str, int | None, str], list[Point]] = {}
    for data in metrics:
        phase, step, group = str(data.get("phase")), data.get("step"), data.get("group")
        if not isinstance(step, (int, float)):
            continue
        for name, value in (data.get("values") or {}).items():
            is_number = isinstance(value, (int, float)) and math.isfinite(value)
            if is_number and (names is None or name in names):
                curves.setdefault((phase, group, name), []).append((float(step), float(value)))
    shown = []
    for (phase, group, name), points in curves.items():
        kept = thin(points, max_points)
        steps, values = [p[0] for p in kept], [p[1] for p in kept]
        place = {"phase": phase, "group": group, "name": name}
        shown.append(place | {"steps": steps, "values": values})
    return shown


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """Return at most `limit` points: the lowest and the highest of each stretch, in order."""
    if len(points) <= limit:
        return list(points)
    num_stretches = max(1, limit // 2)
    kept: list[Point] = []
    for number in range(num_stretches):
        start = number * len(points) // num_stretches
        stretch = points[start : (number + 1) * len(points) // num_stretches]
        low = min(stretch, key=lambda point: point[1])
        high = max(stretch, key=lambda point: point[1])
        kept += sorted({low, high})
    return kept
