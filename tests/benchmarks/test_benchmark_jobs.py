"""One table out of several runs, whichever start each of them kept."""

from typing import Any

import pytest

from benchmarks.jobs import FIGURES, pooled


def report(kept: str, **means: float) -> dict[str, Any]:
    rows = [
        {"name": name, "label": f"label of {name}"}
        | {figure: {"mean": mean, "runs": [mean]} for figure in FIGURES}
        for name, mean in means.items()
    ]
    return {"results": {"hard": rows, "soft": rows[:1]}, "start": {"kept": kept}}


def test_the_refined_set_of_the_start_that_was_kept_is_ours() -> None:
    reports = [
        report("generated", ours=0.8, k_medoids=0.5, real_refined=0.6),
        report("real", ours=0.9, k_medoids=0.5, generated_refined=0.7),
    ]
    means = {row["name"]: row["accuracy"]["mean"] for row in pooled(reports, "hard")}
    expected = {"ours": 0.85, "k_medoids": 0.5, "real_refined": 0.75, "generated_refined": 0.75}
    assert means == pytest.approx(expected)
    labels = {row["name"]: row["label"] for row in pooled(reports, "hard")}
    assert labels["real_refined"] == "label of real_refined"
    assert [row["name"] for row in pooled(reports, "soft")] == ["ours"]
