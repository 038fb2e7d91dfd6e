"""The report: signs and verdicts of what each stage gained, and no path of the maker's machine."""

from pathlib import Path
from typing import Any

import pytest
from generator_helpers import SmokeJob

from distillery.bundle.read import read_bundle
from distillery.files import read_json, write_json
from distillery.progress import ignore_progress
from generator.config import DistillConfig, RefineConfig
from generator.controls import LABELS
from generator.effects import stage_effects
from generator.origin import fallback_of, image_origin, start_of
from generator.report import data_warnings
from generator.stage import Context
from generator.stages.evaluate import label_of


def row(name: str, *runs: float) -> dict:
    mean = sum(runs) / len(runs)
    std = (sum((r - mean) ** 2 for r in runs) / (len(runs) - 1)) ** 0.5 if len(runs) > 1 else 0.0
    figures = {"mean": mean, "std": std, "runs": list(runs)}
    return {"name": name, "label": LABELS[name], "accuracy": figures}


def test_a_gain_is_with_less_without() -> None:
    hard = [row("ours", 0.90, 0.90), row("selected", 0.80, 0.80), row("fine_tuned", 0.85, 0.85)]
    effects = {e["stage"]: e for e in stage_effects({"hard": hard, "soft": []})}
    assert set(effects) == {"selection", "refinement"}
    assert effects["refinement"]["gain"] == pytest.approx(0.10)
    assert effects["refinement"]["verdict"].startswith("+10.0 points")
    assert effects["refinement"]["verdict"].endswith("it helps")
    assert effects["selection"]["gain"] == pytest.approx(-0.05)
    assert effects["selection"]["verdict"].endswith("it hurts")
    assert effects["refinement"]["compared"] == ["selected", "ours"]


def test_the_error_is_that_of_a_difference_of_means_by_hand() -> None:
    hard = [row("ours", 0.8, 0.9), row("selected", 0.7, 0.9)]
    effect = stage_effects({"hard": hard, "soft": []})[0]
    # variances 0.005 and 0.02, two runs each
    assert effect["standard_error"] == pytest.approx((0.005 / 2 + 0.02 / 2) ** 0.5)
    assert effect["verdict"].endswith("not shown to help")


def test_one_student_proves_nothing() -> None:
    effect = stage_effects({"hard": [row("ours", 0.9), row("selected", 0.1)], "soft": []})[0]
    assert effect["verdict"] == "+80.0 points: one student says nothing of the noise"
    assert effect["num_students"] == 1
    sides = {"hard": [row("ours", 0.9), row("selected", 0.1, 0.2)], "soft": []}
    assert stage_effects(sides)[0]["num_students"] == 1


def test_soft_labels_are_held_against_hard_ones() -> None:
    results = {"hard": [row("ours", 0.8, 0.8)], "soft": [row("ours", 0.7, 0.7)]}
    effect = stage_effects(results)[0]
    assert effect["stage"] == "soft labels" and effect["gain"] == pytest.approx(-0.1)


def test_a_fallback_does_not_credit_the_generator() -> None:
    hard = [row(name, 0.8, 0.8) for name in ("ours", "selected", "fine_tuned", "real_refined")]
    named = {e["stage"] for e in stage_effects({"hard": hard, "soft": []}, is_fallback=True)}
    assert "selection" not in named and not any("generated" in stage for stage in named)
    assert "refinement" in named and len(named) == 3


def test_without_refinement_our_set_is_the_selection() -> None:
    hard = [row(name, 0.8, 0.8) for name in ("ours", "fine_tuned", "plain_dit")]
    told = {tuple(e["compared"]): e["stage"] for e in stage_effects({"hard": hard, "soft": []})}
    assert told == {
        ("plain_dit", "fine_tuned"): "fine-tuning", ("fine_tuned", "ours"): "selection",
    }  # fmt: skip
    fallback = stage_effects({"hard": hard, "soft": []}, is_fallback=True)
    assert "selected real images, against samples" in fallback[1]["stage"]


def test_a_real_start_is_held_against_the_generated_one_and_against_itself_unrefined() -> None:
    names = ("ours", "selected", "fine_tuned", "plain_dit", "k_medoids", "generated_refined")
    results = {"hard": [row(name, 0.8, 0.8) for name in names], "soft": []}
    told = {tuple(e["compared"]): e["stage"] for e in stage_effects(results, kept="real")}
    assert told == {
        ("plain_dit", "fine_tuned"): "fine-tuning",
        ("fine_tuned", "selected"): "selection",
        ("selected", "generated_refined"): "refinement of the generated start",
        ("k_medoids", "ours"): "refinement",
        ("generated_refined", "ours"): (
            "the real start, against the generated one with the same refinement"
        ),
    }


@pytest.mark.parametrize("packed", ["", ", 4 pictures in each image"])
def test_the_effects_say_where_a_controls_refinement_was_not_kept(packed: str) -> None:
    rows = [row("ours", 0.8, 0.8), row("real_refined", 0.8, 0.8)]
    rows[1]["label"] = f"k-medoids of real images, refinement not kept{packed}"
    (effect,) = stage_effects({"hard": rows, "soft": []})
    assert effect["stage"] == (
        "the generated start, against a real one whose refinement was not kept"
    )


def context_of(
    folder: Path, *, fallback: bool, kept: int, enabled: bool = True, start: str = "generated",
    floor: float = 0.9,
) -> Context:  # fmt: skip
    """A finished job, as far as its images' origin goes."""
    facts: dict[str, Any] = {
        "score": {"fallback": fallback},
        "refine": {
            "start": start,
            "kept": kept,
            "starts": {
                "generated": {"kept": 1, "set_scores": [1.2, 0.9]},
                "real": {"kept": kept, "set_scores": [0.8, 0.7, 0.6]},
            },
            "gain": {"value": 0.3, "error": 0.1},
        },
        "generate": {"fidelity": 0.5, "floor": floor},
    }
    for name, values in facts.items():
        (folder / name).mkdir()
        write_json(folder / name / "stage.json", {"facts": values})
    config = DistillConfig(refine=RefineConfig(enabled=enabled))
    return Context(config, folder, {name: folder / name for name in facts}, ignore_progress)


@pytest.mark.parametrize(
    ("fallback", "kept", "enabled", "origin", "reason"),
    [
        (False, 0, True, "generated", None),
        (False, 2, True, "generated", None),
        (True, 2, True, "refined", "of 90 %; real images were chosen and refined instead"),
        (True, 0, True, "real", "chosen instead, and are as they were: no refinement was better"),
        (True, 0, False, "real", "instead, and are as they were: refinement is switched off"),
    ],
)
def test_real_images_are_called_refined_only_where_they_are(
    tmp_path: Path, fallback: bool, kept: int, enabled: bool, origin: str, reason: str | None
) -> None:
    context = context_of(tmp_path, fallback=fallback, kept=kept, enabled=enabled)
    assert image_origin(context) == origin
    found = fallback_of(context)
    assert (found is None) == (reason is None)
    if reason is not None and found is not None:
        assert reason in found["reason"] and found["origin"] == origin


@pytest.mark.parametrize(("kept", "origin", "score"), [(2, "refined", 0.6), (0, "real", 0.8)])
def test_real_images_that_validation_preferred_are_no_fallback(
    tmp_path: Path, kept: int, origin: str, score: float
) -> None:
    context = context_of(tmp_path, fallback=False, kept=kept, start="real")
    assert image_origin(context) == origin and fallback_of(context) is None
    start = start_of(context)
    assert (start["word"], start["origin"]) == ("real_by_validation", origin)
    told = f"{score:.3f} from k-medoids of real images, 0.900 from generated ones, refined alike"
    assert start["reason"] is not None and told in start["reason"]
    assert start["reason"].endswith("the generator's samples passed their check")


def test_samples_that_nobody_checked_are_not_said_to_have_passed(tmp_path: Path) -> None:
    start = start_of(context_of(tmp_path, fallback=False, kept=1, start="real", floor=0.0))
    assert start["reason"] is not None
    assert start["reason"].endswith("no check of the generator's samples was asked for")
    assert "a standard error of 0.100" in start["reason"]


def test_images_that_nothing_replaced_need_no_reason(tmp_path: Path) -> None:
    start = start_of(context_of(tmp_path, fallback=False, kept=1))
    assert start == {
        "kept": "generated", "word": "generated", "origin": "generated", "reason": None,
    }  # fmt: skip


def test_leaked_and_repeated_images_and_notes_are_warnings() -> None:
    def finding(count: int, other_label: int = 0) -> dict[str, Any]:
        return {"count": count, "other_label": other_label, "names": []}

    facts = {
        "duplicates": finding(1),
        "leakage": {"validation": finding(0), "test": finding(3, other_label=2)},
        "notes": ["the class folder 'empty' holds no images and was left out"],
        "bad_files": [{"name": "a/1.png", "reason": "cut"}, {"name": "a/2.png", "reason": "cut"}],
    }
    (note,) = facts["notes"]
    assert note not in data_warnings(facts, planned=[note]) != []
    assert data_warnings(facts, planned=[]) == [
        "2 images could not be read and were left out",
        "3 images of the test split are also in the train split (2 with another label), which "
        "makes accuracies look better than they are",
        "1 image of the train split repeats another one",
        "the class folder 'empty' holds no images and was left out",
    ]
    clean = {"validation": finding(0), "test": finding(0)}
    empty = {"duplicates": finding(0), "leakage": clean, "notes": [], "bad_files": []}
    assert data_warnings(empty, planned=[]) == []
    twice = {"validation": finding(1), "test": finding(2, other_label=1)}
    assert data_warnings({**empty, "test_repeats": clean}, planned=[]) == []
    assert data_warnings({**empty, "test_repeats": twice}, planned=[]) == [
        "1 image of the test split is also in the validation split, so choices between results "
        "have seen what is tested",
        "2 images of the test split repeat another one (1 with another label), which counts it "
        "more than once",
    ]


def test_a_fallback_without_fine_tuning_does_not_credit_the_selection_of_samples() -> None:
    hard = [row(name, 0.8, 0.8) for name in ("ours", "selected", "plain_dit")]
    results = {"hard": hard, "soft": []}
    (first, _), (fallback, _) = stage_effects(results), stage_effects(results, is_fallback=True)
    assert first["stage"] == "selection, without fine-tuning"
    assert fallback["stage"] == "selected real images, against plain samples of the base"


def test_the_report_of_a_job_tells_everything_it_promises(smoke: SmokeJob) -> None:
    report = read_json(smoke.result.bundle / "report.json")
    assert [stage["name"] for stage in report["stages"]] == [
        "prepare", "base", "encode", "finetune", "generate", "score", "refine", "label", "evaluate",
    ]  # fmt: skip
    names = [found["name"] for found in report["results"]["hard"]]
    assert names == [
        "ours", "selected", "fine_tuned", "plain_dit", "random_real", "herding", "k_medoids",
        "real_refined",
    ]  # fmt: skip
    (soft,), hard = report["results"]["soft"], report["results"]["hard"][0]
    assert soft["name"] == "ours" and soft["per_class"] != hard["per_class"]  # other students
    assert len(report["stage_effects"]) == 7
    assert report["fallback"] is None and report["start"]["word"] == "generated"
    assert report["dataset"]["images_per_split"] == {"train": 997, "validation": 200, "test": 600}
    assert report["curves"]["refine"]["loss"] and report["curves"]["finetune"]
    assert (
        read_bundle(smoke.result.bundle / "distilled.safetensors").metadata["start"] == "generated"
    )


def test_nothing_in_a_bundle_tells_where_it_was_made(smoke: SmokeJob) -> None:
    for path in smoke.result.bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(smoke.cache.parent).encode() not in content, path
            assert b"/home/" not in content and b"/tmp/" not in content, path


@pytest.mark.parametrize(
    ("kept", "label"),
    [
        (0, "k-medoids of real images, refinement not kept"),
        (1, "k-medoids of real images, refined"),
    ],
)
def test_a_row_says_where_its_refinement_was_not_kept(
    tmp_path: Path, kept: int, label: str
) -> None:
    context = context_of(tmp_path, fallback=False, kept=kept)
    assert label_of(context, "real_refined") == label
    assert label_of(context, "generated_refined") == "generated images, refined"
    assert label_of(context, "ours") == "Distillery"
