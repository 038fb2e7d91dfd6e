"""Two jobs side by side: settings by their full names, differences with their errors."""

import pytest

from distillery.evaluation.compare import config_diff, difference_text, notes, report_diff


def report(mean: float, std: float = 0.01, num_runs: int = 4, **parts: dict) -> dict:
    figure = {"mean": mean, "std": std, "runs": [mean] * num_runs}
    row = {"name": "ours", "is_ours": True, "accuracy": figure, "cluster_min": figure}
    other = {**row, "name": "herding", "is_ours": False}
    return {
        "results": {"hard": [other, row], "soft": []}, "dataset": {"fingerprint": "f"},
        "protocol": {"name": "distillery", "student": "convnet"}, **parts,
    }  # fmt: skip


def test_settings_that_differ_have_their_full_names() -> None:
    a = {"seed": 0, "base": {"reference": "pixel", "pretrain": {"num_steps": 10}}, "tags": {}}
    b = {"seed": 1, "base": {"reference": "pixel", "pretrain": {"num_steps": 20, "x": None}}}
    assert config_diff(a, b) == [
        {"key": "base.pretrain.num_steps", "a": 10, "b": 20},
        {"key": "seed", "a": 0, "b": 1}, {"key": "tags", "a": {}, "b": None},
    ]  # fmt: skip
    assert config_diff(a, a) == [] and config_diff(None, {"seed": 1})[0]["a"] is None


def test_a_difference_has_its_error_and_counts_beyond_two_of_them() -> None:
    accuracy, worst = report_diff(report(0.90), report(0.93))
    assert (accuracy["figure"], accuracy["labels"]) == ("accuracy", "hard")
    assert accuracy["difference"] == pytest.approx(0.03)
    # sqrt(0.01^2 / 4 + 0.01^2 / 4)
    assert accuracy["standard_error"] == pytest.approx(0.0070711, abs=1e-6)
    assert accuracy["tone"] == "good" and worst["figure"] == "cluster_min"
    assert difference_text(accuracy) == "+3.0"
    (lower, _), (same, _) = (
        report_diff(report(0.93), report(0.9)),
        report_diff(report(0.90), report(0.91)),
    )
    assert lower["tone"] == "bad" and same["tone"] == "flat"
    assert difference_text(same) == "+1.0 (within the spread)"


def test_a_figure_that_one_does_not_have_is_shown_without_a_difference() -> None:
    (accuracy, _) = report_diff(report(0.9), None)
    assert accuracy["b"] is None and accuracy["difference"] is None
    assert difference_text(accuracy) == "–" and report_diff({}, None) == []


def test_what_does_not_compare_is_said() -> None:
    assert notes(report(0.9), report(0.8)) == []
    (other_data,) = notes(report(0.9), report(0.9, dataset={"fingerprint": "g"}))
    assert "different data" in other_data
    (other,) = notes(report(0.9), report(0.9, protocol={"name": "dcbench"}))
    assert "different protocols" in other
    (single,) = notes(report(0.9, num_runs=1), report(0.9))
    assert "single student" in single
    assert "second job has no report" in notes(report(0.9), None)[0]
    assert "first and the second" in notes(None, None)[0]
