"""What the report says, worked out from `report.json`: verdicts, comparisons, rows for charts.

The template only places what this file returns, so that every claim of the page is a function
that a test can call. Shares are in [0, 1]; texts show percent with one decimal.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distillery.evaluation.lanes import Lane

MAX_LANES = 30
Row = Mapping[str, Any]


def percent(share: float | None) -> str:
    """Return a share as percent with one decimal, or a dash."""
    return "\N{EN DASH}" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def mean_std(statistic: Row | None) -> str:
    """Return mean and standard deviation in percent (the sign left out), or a dash."""
    if statistic is None or statistic.get("mean") is None:
        return "\N{EN DASH}"
    std = spread_of(statistic)
    spread = "" if std is None else f" \N{PLUS-MINUS SIGN} {100 * std:.1f}"
    return f"{100 * statistic['mean']:.1f}{spread}"


def spread_of(statistic: Row) -> float | None:
    """Return the standard deviation, None of a single run: one has no spread."""
    runs = statistic.get("runs")
    return None if runs is not None and len(runs) < 2 else statistic.get("std")


def figure(row: Row, key: str) -> str:
    """Return a figure of a row as `mean_std` does; one without enough test images says so."""
    return "not enough data" if key in row and row[key] is None else mean_std(row.get(key))


def points(difference: float) -> str:
    """Return a difference of two shares in percentage points, always with its sign."""
    value = round(100 * difference, 1)
    sign = "+" if value > 0 else "\N{MINUS SIGN}" if value < 0 else "\N{PLUS-MINUS SIGN}"
    return f"{sign}{abs(value):.1f}"


def standard_error(*statistics: Row) -> float:
    """Return the standard error of a difference of independent means, from std and runs."""
    variances = (
        (statistic.get("std") or 0.0) ** 2 / max(1, len(statistic.get("runs") or ()))
        for statistic in statistics
    )
    return math.sqrt(sum(variances))


def tone(difference: float, error: float) -> str:
    """Say whether a difference is `good`, `bad` or, within two standard errors, `flat`."""
    if abs(difference) <= max(2 * error, 5e-4):
        return "flat"
    return "good" if difference > 0 else "bad"


def split_rows(rows: Sequence[Row]) -> tuple[Row | None, list[Row]]:
    """Return (our row, the other rows, best first)."""
    ours = next((row for row in rows if row.get("is_ours")), None)
    others = [row for row in rows if row is not ours]
    return ours, sorted(others, key=lambda row: -row["accuracy"]["mean"])


def headline(report: Row) -> dict[str, Any] | None:
    """Return the answer to "how good is it, against what", or None where nothing was measured.

    Hard labels are the headline; soft-label numbers stand in only where there are no others.
    """
    results = report.get("results") or {}
    kind = "hard" if results.get("hard") else "soft"
    ours, others = split_rows(results.get(kind) or [])
    if ours is None:
        return None
    accuracy = ours["accuracy"]
    comparisons = [_comparison("best control", accuracy, row) for row in others[:1]]
    random_real = next((row for row in others[1:] if row["name"].startswith("random")), None)
    if random_real is not None:
        comparisons.append(_comparison("random choice", accuracy, random_real))
    full = report.get("full_data")
    share_of_full = None
    if full and kind == "hard" and full["accuracy"]["mean"] > 0:
        share_of_full = accuracy["mean"] / full["accuracy"]["mean"]
    dataset = report.get("dataset") or {}
    num_images = (ours.get("images_per_class") or 0) * (dataset.get("num_classes") or 0)
    return {
        "kind": kind,
        "mean": percent(accuracy["mean"]),
        "std": None if spread_of(accuracy) is None else f"{100 * accuracy['std']:.1f}",
        "num_runs": len(accuracy.get("runs") or ()),
        "num_images": num_images,
        "images_per_class": ours.get("images_per_class"),
        "comparisons": comparisons,
        "full": percent(full["accuracy"]["mean"]) if full and kind == "hard" else None,
        "share_of_full": share_of_full and percent(share_of_full),
        "num_train": (dataset.get("images_per_split") or {}).get("train"),
    }


def description(dataset: Row) -> list[str]:
    """Return the facts of the data for the line under the title."""
    facts = []
    if dataset.get("num_classes"):
        facts.append(count(dataset["num_classes"], "class"))
    if dataset.get("image_size"):
        colour = {1: ", grey", 3: ", colour"}.get(dataset.get("channels") or 0, "")
        side = dataset["image_size"]
        facts.append(f"{side} \N{MULTIPLICATION SIGN} {side} pixels{colour}")
    num_train = (dataset.get("images_per_split") or {}).get("train")
    if num_train:
        facts.append(count(num_train, "training image"))
    return facts


def images_are(report: Row) -> str:
    """Return one sentence on where the images come from."""
    return {
        "refined": "The images are real training images, moved by refinement.",
        "real": "The images are real training images.",
    }.get(origin_of(report), "The images are synthetic.")


def origin_of(report: Row) -> str:
    """Return `generated`, `refined` or `real`; older reports tell it by their fallback alone."""
    told = report.get("start") or report.get("fallback") or {}
    return str(told.get("origin", "generated"))


def start_notice(report: Row) -> str | None:
    """Return why real images were kept though no sample failed, None where they were not."""
    reason = (report.get("start") or {}).get("reason")
    return None if reason is None else str(reason)


def repeats(dataset: Row) -> list[tuple[str, str]]:
    """Return (what, how many) of images that occur more than once (`data.inspection`)."""
    rows = []
    if dataset.get("duplicates"):
        rows.append(("exact duplicates", _found(dataset["duplicates"])))
    leakage = dataset.get("leakage") or {}
    if leakage:
        parts = [f"{split} {_found(finding, none='0')}" for split, finding in leakage.items()]
        is_clean = not any(finding["count"] for finding in leakage.values())
        rows.append(("train images in other splits", "none" if is_clean else ", ".join(parts)))
    test = dataset.get("test_repeats") or {}
    if test:
        rows.append(("test images in validation", _found(test["validation"])))
        rows.append(("exact duplicates in test", _found(test["test"])))
    return rows


def _found(finding: Row, *, none: str = "none") -> str:
    """Return the number of images in a finding, and how many of them have another label."""
    if not finding["count"]:
        return none
    other = finding.get("other_label")
    return f"{finding['count']:,}" + (f" ({other:,} with another label)" if other else "")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, thousands apart."""
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural}"


def _comparison(what: str, ours: Row, row: Row) -> dict[str, str]:
    difference = ours["mean"] - row["accuracy"]["mean"]
    if min(len(side.get("runs") or ()) for side in (ours, row["accuracy"])) < 2:
        mood, words = "flat", "one student, against"  # says nothing of the noise
    else:
        mood = tone(difference, standard_error(ours, row["accuracy"]))
        words = {"good": "above", "bad": "below", "flat": "no clear difference to"}[mood]
    return {
        "what": what,
        "label": row.get("label") or row["name"],
        "accuracy": f"{mean_std(row['accuracy'])}\N{NO-BREAK SPACE}%",
        "points": points(difference),
        "tone": mood,
        "words": words,
    }


def stage_effects(report: Row) -> dict[str, Any]:
    """Return the stages with what each was worth, and one sentence on those worth nothing."""
    rows = []
    for effect in report.get("stage_effects") or []:
        is_single = effect.get("num_students", 2) < 2
        error = effect.get("standard_error") or 0.0
        mood = "flat" if is_single else tone(effect["gain"], error)
        word = {"good": "helped", "bad": "hurt", "flat": "no clear effect"}[mood]
        rows.append(
            {
                **effect,
                "points": points(effect["gain"]),
                "error": None if is_single else f"{100 * error:.1f}",
                "tone": mood,
                "word": "one student" if is_single else word,
            }
        )
    single = [str(row["stage"]) for row in rows if row["word"] == "one student"]
    useless = [str(row["stage"]) for row in rows if row["word"] == "no clear effect"]
    harmful = [str(row["stage"]) for row in rows if row["tone"] == "bad"]
    sentences = []
    if harmful:
        sentences.append(f"Made it worse: {', '.join(harmful)}.")
    if useless:
        sentences.append(f"No measurable gain: {', '.join(useless)}.")
    if single:
        which = "" if len(single) == len(rows) else f": {', '.join(single)}"
        sentences.append(f"Not known, one student of a set says nothing of the noise{which}.")
    if rows and not sentences:
        every = "The one stage compared" if len(rows) == 1 else f"All {len(rows)} stages compared"
        sentences.append(f"{every} brought a measurable gain.")
    return {"rows": rows, "sentence": " ".join(sentences)}


def accuracy_lanes(rows: Sequence[Row], full_data: Row | None) -> list[Lane]:
    """Return a lane for each image set, ours first, then the controls from best to worst."""
    ours, others = split_rows(rows)
    lanes = [_lane(row, is_ours=row is ours) for row in ([ours] if ours else []) + others]
    if full_data is not None:
        lanes.append(_lane({**full_data, "label": full_data.get("label") or "full data"}))
    return lanes


def _lane(row: Row, *, is_ours: bool = False) -> Lane:
    accuracy = row["accuracy"]
    return Lane(
        label=str(row.get("label") or row["name"]),
        mean=accuracy["mean"],
        std=spread_of(accuracy),
        runs=tuple(accuracy.get("runs") or ()),
        is_ours=is_ours,
    )


def class_lanes(rows: Sequence[Row], class_names: Sequence[str]) -> tuple[list[Lane], int]:
    """Return (lanes of the classes of our set, worst first; how many were left out)."""
    ours, others = split_rows(rows)
    if ours is None or not ours.get("per_class"):
        return [], 0
    reference = (others[0].get("per_class") if others else None) or []
    lanes = [
        Lane(
            label=class_names[index] if index < len(class_names) else f"class {index}",
            mean=mean,
            is_ours=True,
            reference=reference[index] if index < len(reference) else None,
            note="not enough data",
        )
        for index, mean in enumerate(ours["per_class"])
    ]
    return _worst_first(lanes)


def group_lanes(rows: Sequence[Row]) -> tuple[list[Lane], int]:
    """Return (lanes of the test groups of our set, worst first; how many were left out).

    Groups with too few images have no number: they come last and say so.
    """
    ours, others = split_rows(rows)
    if ours is None:
        return [], 0
    reference = (
        {group["id"]: _mean(group) for group in (others[0].get("groups") or [])} if (others) else {}
    )
    lanes = [
        Lane(
            label=f"{group['id']} ({group['n_test']} images)",
            mean=_mean(group),
            is_ours=True,
            reference=None if _mean(group) is None else reference.get(group["id"]),
            note="not enough data",
        )
        for group in ours.get("groups") or []
    ]
    return _worst_first(lanes)


def _mean(group: Row) -> float | None:
    """Return a group's accuracy, which may be a number, a statistic or absent."""
    accuracy = group.get("accuracy")
    return accuracy.get("mean") if isinstance(accuracy, Mapping) else accuracy


def _worst_first(lanes: list[Lane]) -> tuple[list[Lane], int]:
    lanes = sorted(lanes, key=lambda lane: math.inf if lane.mean is None else lane.mean)
    return lanes[:MAX_LANES], max(0, len(lanes) - MAX_LANES)


def duration(seconds: float) -> str:
    """Return a time as a person would say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
