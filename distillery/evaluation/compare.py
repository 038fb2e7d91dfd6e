"""Two jobs side by side: where their settings differ, and where their results do.

A difference counts as one only beyond two standard errors of the two means; figures of different
test images or protocols are shown, but a note says that they do not compare.
"""

import json
from collections.abc import Mapping
from typing import Any

from distillery.evaluation.report_view import Row, points, spread_of, standard_error, tone

FIGURES = {"accuracy": "accuracy", "cluster_min": "worst group"}
"""What is compared, with its name for people."""


def config_diff(
    first: Mapping[str, Any] | None, second: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Return `{"key", "a", "b"}` for each setting that differs, with dots between nested names.

    A setting that one of them does not have is None there.
    """
    a, b = _flat(first or {}), _flat(second or {})
    return [
        {"key": key, "a": a.get(key), "b": b.get(key)}
        for key in sorted(a.keys() | b.keys())
        if a.get(key) != b.get(key)
    ]


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested values under their full names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {}
        found |= inner or {f"{before}{key}": value}
    return found


def report_diff(first: Row | None, second: Row | None) -> list[dict[str, Any]]:
    """Return each figure of the distilled images in both reports, hard and soft labels apart.

    Returns:
        `{"figure", "labels", "a", "b", "difference", "standard_error", "tone"}` each; `a` and `b`
        are `{"mean", "std", "runs"}`, None where it was not measured. The difference is b - a, and
        its tone `good`, `bad`, or `flat` within two standard errors.
    """
    rows = []
    for kind in ("hard", "soft"):
        ours = [_ours(report, kind) for report in (first, second)]
        for name in FIGURES:
            a, b = (_statistic(row.get(name)) for row in ours)
            if a is not None or b is not None:
                rows.append({"figure": name, "labels": kind, "a": a, "b": b, **_difference(a, b)})
    return rows


def _ours(report: Row | None, kind: str) -> Row:
    """Return the row of the distilled images."""
    rows = ((report or {}).get("results") or {}).get(kind) or []
    return next((row for row in rows if row.get("is_ours")), {})


def _statistic(value: Row | None) -> dict[str, Any] | None:
    """Return a figure with its spread, None where there is none."""
    if value is None or value.get("mean") is None:
        return None
    return {"mean": value["mean"], "std": spread_of(value), "runs": list(value.get("runs") or [])}


def _difference(a: Row | None, b: Row | None) -> dict[str, Any]:
    if a is None or b is None:
        return {"difference": None, "standard_error": None, "tone": "flat"}
    difference, error = b["mean"] - a["mean"], standard_error(a, b)
    return {
        "difference": difference, "standard_error": error, "tone": tone(difference, error),
    }  # fmt: skip


def difference_text(row: Row) -> str:
    """Return a row's difference in percentage points, and whether it is one."""
    if row["difference"] is None:
        return "\N{EN DASH}"
    within = " (within the spread)" if row["tone"] == "flat" else ""
    return f"{points(row['difference'])}{within}"


def value_text(value: Any) -> str:
    """Return a setting as a reader writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def figure_text(row: Row) -> str:
    """Return the name of a row's figure for people."""
    return f"{FIGURES[row['figure']]}, {row['labels']} labels"


def notes(first: Row | None, second: Row | None) -> list[str]:
    """Return what a reader of a comparison must know, a sentence each."""
    missing = [name for name, report in (("first", first), ("second", second)) if not report]
    if missing:
        return [f"The {' and the '.join(missing)} job has no report: only settings are compared."]
    said = []
    a, b = first or {}, second or {}
    if _of(a, "dataset", "fingerprint") != _of(b, "dataset", "fingerprint"):
        said.append("They were judged on different data: their figures do not compare.")
    elif any(_of(a, "protocol", key) != _of(b, "protocol", key) for key in ("name", "student")):
        said.append("They were judged by different protocols: their figures do not compare.")
    runs = [len(row[side]["runs"]) for row in report_diff(a, b) for side in "ab" if row[side]]
    if runs and min(runs) < 2:
        said.append("A single student has no spread: a difference may be chance.")
    return said


def _of(report: Row, part: str, key: str) -> Any:
    return (report.get(part) or {}).get(key)
