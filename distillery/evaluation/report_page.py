"""`report.html`: the report as one page without scripts and without anything from outside.

Texts of the report (class names, references, licences) are untrusted: the template escapes them,
and the page forbids itself to load or run anything. Only our own charts go in as they are.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from distillery.evaluation import plots, report_view
from distillery.evaluation.lanes import Lane


def report_html(report: dict[str, Any], *, preview_png: bytes) -> str:
    """Return the page of a report.

    Args:
        report: Content of `report.json`, schema "distillery-report/1"; parts may be missing.
        preview_png: Picture of the distilled images, see `bundle.preview`.

    Raises:
        ValueError: If `report` has another schema.
    """
    if report.get("schema") != "distillery-report/1":
        raise ValueError(f"report must be 'distillery-report/1', got {report.get('schema')!r}")
    results = report.get("results") or {}
    full_data = report.get("full_data")
    dataset = report.get("dataset") or {}
    hard, soft = results.get("hard") or [], results.get("soft") or []
    judged = hard or soft
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=_with_defaults(report),
            description=report_view.description(dataset),
            head=report_view.headline(report),
            repeats=report_view.repeats(dataset),
            images_are=report_view.images_are(report),
            start_notice=report_view.start_notice(report),
            effects=report_view.stage_effects(report),
            tables=[
                _table("Hard labels", hard, full_data),
                _table("Soft labels", soft, None),
            ],
            classes=_ranking("Accuracy of each class", *_class_lanes(judged, dataset)),
            groups=_ranking("Accuracy of each group", *report_view.group_lanes(judged)),
            curves=_curves(report.get("curves") or {}),
            preview=base64.b64encode(preview_png).decode("ascii"),
            config=json.dumps(report.get("config") or {}, indent=2, ensure_ascii=False),
        )
    )


def _environment() -> jinja2.Environment:
    """Return the template's surroundings: everything escaped, nothing undefined."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": report_view.percent,
        "mean_std": report_view.mean_std,
        "figure": report_view.figure,
        "duration": report_view.duration,
        "count": report_view.count,
    }
    return environment


def _with_defaults(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report with empty values for the parts that are missing."""
    empty: dict[str, Any] = {
        "title": "Distilled dataset",
        "dataset": {},
        "decisions": [],
        "warnings": [],
        "stages": [],
        "protocol": {},
        "fallback": None,
        "licences": [],
    }
    return empty | {key: value for key, value in report.items() if value is not None}


def _class_lanes(
    rows: Sequence[Mapping[str, Any]], dataset: Mapping[str, Any]
) -> tuple[list[Lane], int]:
    return report_view.class_lanes(rows, dataset.get("class_names") or [])


def _table(
    title: str, rows: Sequence[Mapping[str, Any]], full_data: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return chart and rows of one kind of label, or None where it was not measured."""
    if not rows:
        return None
    ours, others = report_view.split_rows(rows)
    ordered = ([ours] if ours else []) + others + ([full_data] if full_data else [])
    columns = [
        (key, name)
        for key, name in (
            ("cluster_min", "weakest group"),
            ("noise", "noise"),
            ("blur", "blur"),
            ("invert", "inverted"),
        )
        if any(key in row for row in ordered)
    ]
    return {
        "title": title,
        "chart": _both(report_view.accuracy_lanes(rows, full_data), title=f"{title}: accuracy"),
        "rows": ordered,
        "columns": columns,
    }


def _ranking(title: str, lanes: list[Lane], num_left_out: int) -> dict[str, Any] | None:
    """Return the chart of classes or groups, or None where there are none."""
    if not lanes:
        return None
    return {
        "chart": _both(lanes, title=title),
        "num_left_out": num_left_out,
        "has_reference": any(lane.reference is not None for lane in lanes),
    }


def _both(lanes: Sequence[Lane], *, title: str) -> Markup:
    """Return a chart in a wide and a narrow drawing; the page shows the one that fits."""
    wide = plots.lane_chart(lanes, title=title)
    narrow = plots.lane_chart(lanes, title=title, width_px=plots.NARROW_PX)
    # plots escapes every text it draws
    return Markup(f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>')


def _curves(curves: Mapping[str, Mapping[str, Any]]) -> list[Markup]:
    """Return one chart for each series that has numbers, in the order of the stages."""
    charts = []
    for stage, series in curves.items():
        for name, values in (series or {}).items():
            if name == "step" or not any(isinstance(v, int | float) for v in values or ()):
                continue
            title = f"{stage}: {name}".replace("_", " ")
            chart = plots.line_chart(values, series.get("step"), title=title)
            charts.append(Markup(chart))
    return charts
