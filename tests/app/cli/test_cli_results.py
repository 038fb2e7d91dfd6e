"""The end of a job on a terminal: what a person must know beside the figures."""

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from app.cli.results import result_table, show_result


def figure(mean: float, runs: int = 2) -> dict[str, Any]:
    return {"mean": mean, "std": 0.01 if runs > 1 else 0.0, "runs": [mean] * runs}


def row(name: str, **fields: Any) -> dict[str, Any]:
    values = {"name": name, "label": name, "is_ours": name == "ours", "accuracy": figure(0.9)}
    return {**values, **fields}


def report(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "title": "photos, 2 images per class",
        "protocol": {"student": "convnet", "epochs_or_steps": "9 steps", "num_seeds": 2},
        "dataset": {"images_per_split": {"test": 40}},
        "results": {"hard": [row("ours"), row("random")], "soft": []},
        "stage_effects": [],
        "fallback": None,
        "warnings": [],
    }
    return {**values, **changes}


def printed(value: Any) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    if isinstance(value, dict):
        show_result(console, Path("bundle"), value)
    else:
        console.print(value)
    return console.export_text()


def test_warnings_of_the_report_are_printed() -> None:
    text = printed(report(warnings=["3 images of the test split are also in the train split"]))
    assert "! 3 images of the test split are also in the train split" in text
    assert "!" not in printed(report())


def test_real_images_that_were_preferred_are_said_to_be_real() -> None:
    start = {"word": "real_by_validation", "origin": "refined", "reason": "they did better"}
    assert "Real images were kept: they did better" in printed(report(start=start))
    assert "Real images" not in printed(report(start={**start, "reason": None}))


def test_a_weakest_group_without_enough_data_says_so() -> None:
    rows = [row("ours", cluster_min=None), row("random", cluster_min=None)]
    text = printed(report(results={"hard": rows, "soft": rows}))
    assert text.count("worst group: not enough data") == 2 and "  -" not in text
    measured = [row("ours", cluster_min=figure(0.5))]
    assert "50.0 ± 1.0" in printed(result_table(measured, "t"))
    assert "not enough" not in printed(report())  # not asked for
