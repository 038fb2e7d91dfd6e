"""Stage evaluate: students of our set and of every control, on the test split, once.

This stage and what it has done aside are all that reads the test split. Each student's figures are
kept as they come, so that a killed run goes on at the next student.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from distillery.evaluation.harness import ImageSet, summarise
from distillery.evaluation.pool import Figures
from distillery.evaluation.student import Teacher
from distillery.files import write_json
from distillery.tensorfile import read_tensors
from generator.aside import finished
from generator.config import DistillConfig
from generator.controls import LABELS
from generator.job_protocol import job_setting
from generator.judging import MakeSet, bench_of, judge_all, own_students, protocol_students
from generator.stage import Context, Stage, StageOutput
from generator.stages.common import Reals, open_reals
from generator.stages.generate import PLAIN, POOL
from generator.stages.label import LOGITS
from generator.stages.real_students import (
    REFINED_STAGE,
    always,
    known_figures,
    real_sets,
    refined_pictures,
    settings,
)
from generator.stages.real_students import STAGE as STUDENTS_STAGE
from generator.stages.refine import REFINED
from generator.stages.refine_real import is_aside, refined_file
from generator.stages.score import CHOSEN
from generator.stages.teacher import TEACHER
from generator.starts import REFINED_SUFFIX, STARTS, UNKEPT_SUFFIX

RESULTS = "results.json"
PACKED = ("ours", *(f"{start}_refined" for start in STARTS))
"""Sets that hold several pictures in each image where refinement packs them."""


def run(context: Context) -> StageOutput:
    """Judge every set with every seed and write the rows of the report."""
    reals, config = open_reals(context), context.config
    setting = job_setting(config, reals.num_classes)
    bench = bench_of(config, reals, setting)
    known = _known(context) if setting is None else {}
    every = {n: make for n, make in _every_set(context, reals, known) if n not in known}
    if setting is None:
        labelled = context.facts("label")["enabled"]
        soft = {"ours": _ours(context, reals, soft=True)} if labelled else {}
        sets = {"hard": every, "soft": soft}
        runs = judge_all(context, sets, own_students(config, bench))
        runs |= {("hard", name): figures for name, figures in known.items()}
    else:
        labels = setting.protocol.labels
        sets = {kind: every if kind == labels else {} for kind in ("hard", "soft")}
        teacher = _teacher(context, reals) if labels == "soft" else None
        runs = judge_all(context, sets, protocol_students(context, setting, bench, teacher))
    rows = {
        protocol: [
            _row(context, name, runs[protocol, name]) for name in LABELS if (protocol, name) in runs
        ]
        for protocol in sets
    }
    write_json(context.folder / RESULTS, rows)
    ours = (rows["hard"] or rows["soft"])[0]["accuracy"]
    count = config.evaluate.num_seeds
    spread = (
        f" +- {100 * ours['std']:.1f} % over {count} students" if count > 1 else " %, 1 student"
    )
    controls = len(every) + len(known) - 1
    return StageOutput(f"accuracy {100 * ours['mean']:.1f}{spread}, {controls} controls beside it")


def _known(context: Context) -> dict[str, list[Figures]]:
    """Return the figures of the students of sets that are made of real images alone, by set."""
    if not context.config.evaluate.controls:
        return {}
    known = known_figures(finished(context, STUDENTS_STAGE).folder)
    facts = context.facts("refine")
    if "real" not in facts["starts"] or not is_aside(context.config):
        return known
    refined = known_figures(finished(context, REFINED_STAGE).folder)["real_refined"]
    # the same images and the same seeds, whichever name the set has
    return known | {"ours" if facts["start"] == "real" else "real_refined": refined}


def _teacher(context: Context, reals: Reals) -> Teacher:
    """Return the teacher of the job's soft labels."""
    path = context.inputs["label"] / TEACHER
    return reals.load_classifier(path, context.config.proxy.network).requires_grad_(False)


def _ours(context: Context, reals: Reals, *, soft: bool) -> MakeSet:
    """Return our set, with the teacher's logits where soft labels are judged."""
    logits = None
    if soft:
        logits = read_tensors(context.inputs["label"] / LOGITS)[0]["logits"]
    path = context.inputs["refine"] / REFINED
    return always(refined_pictures(path, reals, context.config, logits))


def _stored(path_arrays: dict) -> MakeSet:
    """Return a set that an earlier stage wrote."""
    return always(ImageSet(path_arrays["images"], path_arrays["labels"]))


def _every_set(
    context: Context, reals: Reals, known: Mapping[str, object]
) -> Iterator[tuple[str, MakeSet]]:
    """Yield our set and the controls; those of real images are not chosen again where known."""
    config = context.config
    yield "ours", _ours(context, reals, soft=False)
    if not config.evaluate.controls:
        return
    if config.refine.enabled:
        chosen, _ = read_tensors(context.inputs["score"] / CHOSEN)
        yield "selected", always(_first_of(config, chosen))
    if config.finetune.enabled:
        yield "fine_tuned", always(_first_of_pool(context))
    yield "plain_dit", _stored(read_tensors(context.inputs["generate"] / PLAIN)[0])
    if not known:
        yield from real_sets(reals, context.inputs["score"], config)
    for name, file in _refined_beside_ours(context):
        yield name, always(refined_pictures(context.inputs["refine"] / file, reals, config))
    if config.evaluate.full_data:
        everything = ImageSet(*reals.dataset.split("train"))
        yield "full_data", lambda _: everything


def _first_of_pool(context: Context) -> ImageSet:
    """Return the first candidates of each class: no selection, the noise of the plain control."""
    return _first_of(context.config, read_tensors(context.inputs["generate"] / POOL)[0])


def _first_of(config: DistillConfig, arrays: dict) -> ImageSet:
    """Return the first images of each class, as many as the result stores."""
    labels = arrays["labels"]  # sorted
    first = np.arange(len(labels)) - np.searchsorted(labels, labels)
    keep = first < config.images_per_class
    return ImageSet(arrays["images"][keep], labels[keep])


def _refined_beside_ours(context: Context) -> list[tuple[str, str]]:
    """Return name and file of the refined starts that were not kept; the kept one is ours."""
    facts = context.facts("refine")
    others = [start for start in STARTS if start in facts["starts"] and start != facts["start"]]
    return [(f"{start}_refined", refined_file(start)) for start in others]


def _row(context: Context, name: str, runs: list[dict]) -> dict[str, Any]:
    """Return one row of the report: mean and spread over the students of a set."""
    row = {"name": name, "label": label_of(context, name), "is_ours": name == "ours"}
    count = context.config.images_per_class
    return row | {"images_per_class": count} | dict(summarise(runs))


def label_of(context: Context, name: str) -> str:
    """Return what people read as the name of a set of this job."""
    label, pictures = LABELS[name], context.config.refine.pictures_per_image
    if name == "selected" and context.facts("score")["fallback"]:
        label = "chosen real images, not refined"
    for start, told in context.facts("refine")["starts"].items():
        if name == f"{start}_refined" and told["kept"] == 0:  # the set is its start
            label = label.removesuffix(REFINED_SUFFIX) + UNKEPT_SUFFIX
    if name in PACKED and pictures > 1:
        label = f"{label}, {pictures} pictures in each image"
    return label


STAGE = Stage(
    "evaluate", 6, ("prepare", "base", "generate", "score", "refine", "label"), settings, run
)
