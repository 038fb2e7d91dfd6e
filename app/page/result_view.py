"""The result of a job as the page shows it: figures, comparisons and rankings of its report.

What is claimed comes from `distillery.evaluation.report_view`, the same functions that write
`report.html`; here are the places of dots and whiskers on a line, in per cent of its width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from distillery.evaluation import report_view
from distillery.evaluation.lanes import Lane

MARGIN = 2.0
"""Per cent of the line kept free at both ends, so that no dot is cut."""
EXTRA = (
    ("cluster_min", "worst group"), ("noise", "noise"), ("blur", "blur"), ("invert", "inverted")
)  # fmt: skip
"""Figures beside the accuracy, with their headings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of a lane chart; places are in per cent of the line's width."""

    label: str
    text: str
    """The figure, or why there is none."""
    is_ours: bool
    at: float | None
    low: float | None
    high: float | None
    runs: tuple[float, ...]
    reference: float | None
    reference_text: str
    extra: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Rows on one axis."""

    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, str], ...]
    """(place, text) of each mark of the axis."""
    columns: tuple[str, ...] = ()
    """Headings of the rows' extra figures."""
    num_left_out: int = 0


def result_view(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the result page says, from the content of `report.json`."""
    results = report.get("results") or {}
    hard, soft = results.get("hard") or [], results.get("soft") or []
    judged = hard or soft
    dataset = report.get("dataset") or {}
    class_names = [str(name) for name in dataset.get("class_names") or ()]
    return {
        "head": report_view.headline(report),
        "effects": report_view.stage_effects(report),
        "hard": _comparison(hard, report.get("full_data")),
        "soft": _comparison(soft, None),
        "groups": _ranking(*report_view.group_lanes(judged)),
        "classes": _ranking(*report_view.class_lanes(judged, class_names)),
        "per_class": _per_class(judged),
        "description": report_view.description(dataset),
        "protocol": report.get("protocol") or {},
        "licences": report.get("licences") or [],
        "warnings": report.get("warnings") or [],
        "fallback": report.get("fallback"),
        "images_are": report_view.images_are(report),
        "start_notice": report_view.start_notice(report),
        "is_generated": report_view.origin_of(report) == "generated",
        "dataset": dataset,
    }


def _per_class(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Return the accuracy of our set on each class."""
    ours, _ = report_view.split_rows(rows)
    return list((ours or {}).get("per_class") or ())


def _comparison(
    rows: Sequence[Mapping[str, Any]], full_data: Mapping[str, Any] | None
) -> Chart | None:
    """Return our set and its controls, best first, with the figures beside the accuracy."""
    if not rows:
        return None
    columns = [(key, name) for key, name in EXTRA if any(key in row for row in rows)]
    ours, others = report_view.split_rows(rows)
    ordered = ([ours] if ours else []) + others + ([full_data] if full_data else [])
    extras = [tuple(report_view.figure(row, key) for key, _ in columns) for row in ordered]
    return _chart(
        report_view.accuracy_lanes(rows, full_data), [name for _, name in columns], extras
    )


def _ranking(lanes: list[Lane], num_left_out: int) -> Chart | None:
    """Return classes or groups, worst first."""
    return _chart(lanes, num_left_out=num_left_out) if lanes else None


def _chart(
    lanes: Sequence[Lane],
    columns: Sequence[str] = (),
    extras: Sequence[tuple[str, ...]] | None = None,
    num_left_out: int = 0,
) -> Chart:
    """Return lanes with their places on an axis that spans them in round steps."""
    ends = [end for lane in lanes for end in _ends(lane)] or [0.0, 1.0]
    step = 0.1 if max(ends) - min(ends) > 0.12 else 0.02
    low = max(floor(min(ends) / step) * step, 0.0)
    high = min(ceil(max(ends) / step) * step, 1.0)
    high = high if high > low else low + step

    def place(share: float) -> float:
        inside = min(max(share, low), high)
        return round(MARGIN + (100 - 2 * MARGIN) * (inside - low) / (high - low), 2)

    rows = tuple(
        _row(lane, place, extra)
        for lane, extra in zip(lanes, extras or [()] * len(lanes), strict=True)
    )
    marks = [low + (high - low) * part / 4 for part in range(5)]
    ticks = tuple((place(mark), f"{100 * mark:.4g}") for mark in marks)
    return Chart(rows=rows, ticks=ticks, columns=tuple(columns), num_left_out=num_left_out)


def _ends(lane: Lane) -> list[float]:
    """Return every share that a lane marks."""
    marks = [*lane.runs] + ([] if lane.reference is None else [lane.reference])
    if lane.mean is not None:
        spread = lane.std or 0.0
        marks += [max(lane.mean - spread, 0.0), min(lane.mean + spread, 1.0)]
    return marks


def _row(lane: Lane, place: Any, extra: tuple[str, ...]) -> Row:
    """Return a lane with its places."""
    mean, std = lane.mean, lane.std
    has_whisker = mean is not None and bool(std)
    figure = {"mean": mean, "std": std if len(lane.runs) > 1 else None}
    return Row(
        label=lane.label,
        text=lane.note if mean is None else report_view.mean_std(figure),
        is_ours=lane.is_ours,
        at=None if mean is None else place(mean),
        low=place(mean - std) if has_whisker and mean is not None and std else None,
        high=place(mean + std) if has_whisker and mean is not None and std else None,
        runs=tuple(place(run) for run in lane.runs) if len(lane.runs) > 1 else (),
        reference=None if lane.reference is None else place(lane.reference),
        reference_text="" if lane.reference is None else report_view.percent(lane.reference),
        extra=extra,
    )
