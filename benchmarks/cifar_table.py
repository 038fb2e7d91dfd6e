"""From cells to a table: mean and spread of each row, beside the published order.

The published figures are those of IID's tables (CIFAR-10, 10 images per class; `idm` as it
reproduced it). Cells that are missing stay empty.
"""

from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.cifar_rows import ROWS

FIGURES = ("accuracy", "cluster_min", "noise", "blur", "invert")
COSTS = ("seconds", "iterations", "peak_mib", "wall_seconds")
PUBLISHED = {
    "random": 26.0, "herding": 31.6, "k_center": 14.7, "dc": 44.9, "dsa": 52.1, "dm": 48.5,
    "dm+cc": 52.2, "dm+cm": 51.6, "dm+both": 55.1, "idm": 57.3, "idm+both": 59.9,
}  # fmt: skip
EXPECTED = (("random", "herding"), ("herding", "dm"), ("dm", "dm+both"), ("dm", "idm"))
"""Worse and better: what a family must show at any budget."""


def summary(cells: list[dict[str, Any]], setting: dict[str, Any]) -> dict[str, Any]:
    """Return rows, orders and the comparison with ours; print the table."""
    rows = {row.name: _row(row.label, [c for c in cells if c["row"] == row.name]) for row in ROWS}
    reached = {name: row["accuracy"]["mean"] for name, row in rows.items() if row["accuracy"]}
    result = {
        "setting": setting,
        "rows": rows,
        "expected_order": [_order(pair, reached) for pair in EXPECTED],
        "published_order": [
            _order(pair if PUBLISHED[pair[0]] < PUBLISHED[pair[1]] else pair[::-1], reached)
            for pair in combinations(PUBLISHED, 2)
        ],
        "ours_ahead": _ahead(rows),
    }
    _print(rows)
    for one in result["expected_order"]:
        print(f"{one['worse']} < {one['better']}: {one['holds']}")
    disagree = [one for one in result["published_order"] if one["holds"] is False]
    print(f"published pairs in another order here: {[tuple(one.values())[:2] for one in disagree]}")
    return result


def _row(label: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return mean, spread and standard error over the seeds that are there."""
    row: dict[str, Any] = {"label": label, "seeds": len(cells)}
    for figure in FIGURES:
        values = [cell[figure] for cell in cells if cell[figure] is not None]
        row[figure] = _spread(values) if values else None
    for cost in COSTS:
        row[cost] = float(np.mean([cell[cost] for cell in cells])) if cells else None
    published = cells[0]["published_iterations"] if cells else None
    row["share_of_schedule"] = row["iterations"] / published if published else None
    return row


def _spread(values: list[float]) -> dict[str, Any]:
    several = len(values) > 1
    std = float(np.std(values, ddof=1)) if several else None
    error = None if std is None else std / len(values) ** 0.5
    return {"mean": float(np.mean(values)), "std": std, "standard_error": error, "runs": values}


def _order(pair: tuple[str, str], reached: dict[str, float]) -> dict[str, Any]:
    """Return whether the second row of a pair is ahead here; None where a cell is missing."""
    worse, better = pair
    there = worse in reached and better in reached
    holds = reached[worse] < reached[better] if there else None
    gap = reached[better] - reached[worse] if there else None
    return {"worse": worse, "better": better, "holds": holds, "difference": gap}


def _ahead(rows: dict[str, Any]) -> dict[str, Any] | None:
    """Return how far ours is ahead of the best published form, and the error of the difference."""
    forms = {n: r for n, r in rows.items() if n in PUBLISHED and r["accuracy"]}
    mine = rows["ours"]["accuracy"]
    if mine is None or not forms:
        return None
    best = max(forms, key=lambda name: forms[name]["accuracy"]["mean"])
    other = forms[best]["accuracy"]
    errors = (mine["standard_error"], other["standard_error"])
    both = None if None in errors else float(np.hypot(*errors))
    return {"best": best, "ahead": mine["mean"] - other["mean"], "standard_error": both}


def _print(rows: dict[str, Any]) -> None:
    """Print the rows that have a cell, in per cent."""
    print(f"{'':26s}" + "".join(f"{f:>14s}" for f in FIGURES) + "  seconds iterations schedule")
    for row in rows.values():
        if not row["seeds"]:
            print(f"{row['label']:26s}{'-':>14s}")
            continue
        cells = [_cell(row[figure]) for figure in FIGURES]
        share = row["share_of_schedule"]
        print(
            f"{row['label']:26s}" + "".join(f"{cell:>14s}" for cell in cells)
            + f"{row['seconds']:9.0f}{row['iterations']:11.0f}"
            + (f"{100 * share:8.2f}%" if share is not None else "")
        )  # fmt: skip


def _cell(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    spread = "" if figure["std"] is None else f" +- {100 * figure['std']:.1f}"
    return f"{100 * figure['mean']:.1f}{spread}"
