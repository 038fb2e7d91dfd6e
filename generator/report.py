"""The report of a job: what was asked and done, how good it is, and what each stage gained."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillery.data.dataset import Dataset
from distillery.files import read_json
from distillery.wording import counted, were
from generator.config import to_dict
from generator.effects import main_rows, stage_effects
from generator.job_protocol import job_setting
from generator.origin import fallback_of, start_of
from generator.planned import BAD_FILES_SEEN
from generator.public_names import public_config, public_name
from generator.stage import Context
from generator.stages.evaluate import RESULTS
from generator.stages.finetune import CURVES
from generator.stages.refine import CURVE
from generator.starts import Start

SCHEMA = "distillery-report/1"

UNSOUND: Mapping[Start, str] = {
    "generated": "the proxy was below its accuracy floor, so nothing was selected by it",
    "real": "the proxy was below its accuracy floor, so its medoids are little better than a draw",
}
"""Warning of a proxy that is not sound, by the start that was kept."""


def build_report(context: Context) -> dict[str, Any]:
    """Return the content of `report.json`."""
    config = context.config
    dataset = Dataset.load(context.inputs["prepare"])
    results = read_json(context.inputs["evaluate"] / RESULTS)
    name = public_name(config.data.dataset)
    score = context.facts("score")
    return {
        "schema": SCHEMA,
        "title": f"{name}, {counted(config.images_per_class, 'image')} per class",
        "dataset": _dataset(dataset, name),
        "config": public_config(to_dict(config)),
        "decisions": list(context.job.get("decisions", [])),
        "warnings": [*_planned_warnings(context), *_stage_warnings(context)],
        "stages": list(context.job.get("stages", [])),
        "stage_effects": stage_effects(
            results, kept=context.facts("refine")["start"], is_fallback=score["fallback"]
        ),
        "protocol": _protocol(context),
        "results": {
            "hard": [row for row in results["hard"] if row["name"] != "full_data"],
            "soft": [row for row in results["soft"] if row["name"] != "full_data"],
        },
        "full_data": next((row for row in main_rows(results) if row["name"] == "full_data"), None),
        "curves": _curves(context),
        "start": start_of(context),
        "fallback": fallback_of(context),
        "licences": _licences(context, dataset),
    }


def _dataset(dataset: Dataset, name: str) -> dict[str, Any]:
    """Return what the report tells of the data."""
    facts = dataset.facts
    kept = ("kind", "revision", "licence", "class_names", "image_size", "channels", "bad_files",
            "duplicates", "leakage", "test_repeats", "notes", "fingerprint")  # fmt: skip
    counts = {split: sum(values) for split, values in facts["counts"].items()}
    return {key: facts[key] for key in kept} | {
        "reference": name,
        "num_classes": len(facts["class_names"]),
        "images_per_split": counts,
    }


def _protocol(context: Context) -> dict[str, Any]:
    """Return how the students were trained."""
    evaluate = context.config.evaluate
    dataset = Dataset.load(context.inputs["prepare"])
    setting = job_setting(context.config, len(dataset.class_names))
    if setting is not None:
        (network, recipe), *_ = setting.recipes.items()
        changes = "; ".join(setting.deviations)
        return {
            "name": setting.protocol.name,
            "student": network,
            "epochs_or_steps": f"{recipe.num_epochs} epochs",
            "num_seeds": evaluate.num_seeds,
            "notes": f"{setting.protocol.source}; figures of the last epoch, on the test split"
            + (f"; not as published: {changes}" if changes else ""),
        }
    return {
        "name": "distillery",
        "student": evaluate.student.network,
        "epochs_or_steps": f"{evaluate.student.num_steps} steps",
        "num_seeds": evaluate.num_seeds,
        "notes": "figures of the last step, on the test split, which no other stage reads; mean "
        "and sample standard deviation over students",
    }


def _planned_warnings(context: Context) -> list[str]:
    """Return the plan's warnings, but for its first look at bad files: all are known by now."""
    return [text for text in context.job.get("warnings", []) if not text.endswith(BAD_FILES_SEEN)]


def _stage_warnings(context: Context) -> list[str]:
    """Return what went other than planned."""
    facts = Dataset.load(context.inputs["prepare"]).facts
    found = data_warnings(facts, planned=context.job.get("warnings", []))
    if not context.facts("score")["proxy_is_sound"]:
        found.append(UNSOUND[context.facts("refine")["start"]])
    if context.facts("score")["fallback"] and context.config.refine.start == "real":
        found.append(
            "the generator's samples failed their check; the result was to start from real images "
            "in any case (refine.start real)"
        )
    pictures = context.config.refine.pictures_per_image
    if pictures > 1:
        found.append(
            f"each image of the result holds {pictures} pictures, which students see one by one; "
            "every control has one picture in each image, but for those that are refined"
        )
    found += [
        f"fine-tuning was stopped by its guard: {why}"
        for why in context.facts("finetune").get("stopped", [])
    ]
    return found


def data_warnings(facts: Mapping[str, Any], *, planned: Sequence[str]) -> list[str]:
    """Return what a reader must know of the data: bad, leaked and repeated images, and its notes.

    Args:
        facts: Of the prepared dataset.
        planned: Warnings of the plan, which are not said again.
    """
    found = []
    if bad := len(facts["bad_files"]):
        found.append(f"{counted(bad, 'image')} could not be read and {were(bad)} left out")
    for split, finding in facts["leakage"].items():
        if finding["count"]:
            found.append(
                f"{_images(finding['count'], split)} also in the train split{_other(finding)}, "
                "which makes accuracies look better than they are"
            )
    found += _test_repeats(facts.get("test_repeats", {}))
    if facts["duplicates"]["count"]:
        number = facts["duplicates"]["count"]
        found.append(f"{_repeating(number, 'train')} another one{_other(facts['duplicates'])}")
    return [*found, *(note for note in facts["notes"] if note not in planned)]


def _test_repeats(findings: Mapping[str, Any]) -> list[str]:
    """Return what is to say of test images that are in the validation split or occur twice."""
    found = []
    for split, finding in findings.items():
        if not finding["count"]:
            continue
        if split == "validation":
            found.append(
                f"{_images(finding['count'], 'test')} also in the validation split"
                f"{_other(finding)}, so choices between results have seen what is tested"
            )
        else:
            found.append(
                f"{_repeating(finding['count'], 'test')} another one{_other(finding)}, which "
                "counts it more than once"
            )
    return found


def _images(number: int, split: str) -> str:
    return (
        f"1 image of the {split} split is"
        if number == 1
        else f"{number} images of the {split} split are"
    )


def _repeating(number: int, split: str) -> str:
    return (
        f"1 image of the {split} split repeats"
        if number == 1
        else f"{number} images of the {split} split repeat"
    )


def _other(finding: Mapping[str, Any]) -> str:
    """Return how many images of a finding have another label than what they repeat."""
    return f" ({finding['other_label']} with another label)" if finding["other_label"] else ""


def _curves(context: Context) -> dict[str, Any]:
    """Return the loss curves of fine-tuning (its first group) and refinement."""
    groups = read_json(context.inputs["finetune"] / CURVES)
    return {
        "finetune": groups[0] if groups else {},
        "refine": read_json(context.inputs["refine"] / CURVE),
    }


def _licences(context: Context, dataset: Dataset) -> list[dict[str, str]]:
    """Return the licences that the result carries along."""
    base = context.facts("base")
    return [
        {"what": "source images", "licence": dataset.facts["licence"] or "not stated"},
        {
            "what": "base model",
            "licence": base["licence"]
            or ("none attached: trained on the source images" if not base["folder"] else "unknown"),
        },
    ]
