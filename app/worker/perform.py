"""One task in a child process: the plan, a stage, or one part of a stage; returns its facts.

Imports the whole torch stack, so only children import it.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from app.jobs.records import ACKNOWLEDGED
from app.worker.codes import DeviceLost, LicenceNotAccepted
from app.worker.tasks import PLAN, StageTask
from distillery.files import digest_file, read_json, write_json
from distillery.machine import Machine, probe
from distillery.models.config import forbids_commercial_use
from distillery.progress import OnProgress, Progress
from finetune.groups import class_groups
from generator.config import DistillConfig, from_dict
from generator.estimate import estimate
from generator.notes import read_notes
from generator.one_stage import run_one_part, run_one_stage, work_folder
from generator.pipeline import JOB_FILE, note_uses, start_job, stored_job
from generator.plan import look_at, make_plan
from generator.planned import Plan
from generator.stage import Finished
from generator.stages.generate import plain_per_class

ESTIMATE_FILE = "estimate.json"
"""Expected seconds of each stage, as `distillery run` keeps them too."""

OnWork = Callable[[Path], None]
"""Told the folder that a stage's checkpoints lie in or beside, before the work begins."""
OnDone = Callable[[Mapping[str, Finished]], None]
"""Told the job's complete stages when one has been added."""


def perform(
    task: StageTask, on_progress: OnProgress, on_work: OnWork, on_done: OnDone
) -> dict[str, Any]:
    """Do a task and return its facts.

    Raises:
        Cancelled: If `on_progress` asked to stop.
        DistilleryError: What could not be done.
    """
    if task.stage == PLAN:
        return plan(task, on_progress)
    job = read_json(task.folder / JOB_FILE)
    check_device(task, from_dict(job["config"]))
    on_work(work_folder(task.folder, job, task.stage, cache=task.cache, on_progress=on_progress))
    if task.group is not None:
        run_one_part(
            task.folder, job, task.stage, task.group, cache=task.cache, on_progress=on_progress
        )
        return {"name": task.stage, "group": task.group}
    done = run_one_stage(task.folder, job, task.stage, cache=task.cache, on_progress=on_progress)
    on_done(done)
    note = read_notes(task.folder)[task.stage]
    facts = {key: note[key] for key in ("name", "seconds", "summary", "cached")}
    if task.stage == "bundle":
        return facts | {"result": result_of(task.folder, done["bundle"])}
    return facts


def check_device(task: StageTask, config: DistillConfig) -> None:
    """Refuse a job that was planned for a GPU where this worker has none.

    Raises:
        DeviceLost: If the job was planned for a GPU and there is none.
    """
    has_gpu = task.device != "cpu" and torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise DeviceLost(
            "the job was planned for a GPU and this worker has none: run it on a worker with a "
            "GPU, or submit it again"
        )


def plan(task: StageTask, on_progress: OnProgress) -> dict[str, Any]:
    """Make the job's `job.json`, unless it is there.

    Raises:
        LicenceNotAccepted: If the base forbids commercial use and nobody has said that they know.
    """
    request = {name: value for name, value in task.request.items() if name != ACKNOWLEDGED}
    on_progress(Progress(PLAN, 0, 2, "looking at the dataset"))
    if (task.folder / JOB_FILE).exists():
        job = stored_job(task.folder, request)
        assert job is not None  # it is there
    else:
        machine = machine_of(task)
        made = make_plan(request, cache=task.cache, machine=machine, models=task.models)
        if not task.request.get(ACKNOWLEDGED):
            check_licence(made)
        on_progress(Progress(PLAN, 1, 2, "measuring this machine"))
        cost = estimate(made, machine, cache=task.cache, folder=task.folder)
        expected = {stage.name: round(stage.seconds, 3) for stage in cost.stages}
        write_json(task.folder / ESTIMATE_FILE, expected)
        made = replace(made, warnings=(*made.warnings, *cost.warnings))
        job = start_job(task.folder, request, made)
        note_uses(task.folder, made.config, cache=task.cache)
    on_progress(Progress(PLAN, 2, 2, "planned"))
    return {
        "config": job["config"],
        "decisions": job["decisions"],
        "warnings": [{"code": _warning_code(text), "message": text} for text in job["warnings"]],
        "num_parts": num_parts(from_dict(job["config"])),
    }


def check_licence(plan: Plan) -> None:
    """Refuse a base whose licence is more than the sender of the job has agreed to.

    Raises:
        LicenceNotAccepted: If it forbids commercial use.
    """
    base = plan.config.base.reference
    if forbids_commercial_use(base, plan.licence):
        raise LicenceNotAccepted(
            f"the licence of {base}, {plan.licence}, forbids commercial use and the result "
            "inherits it"
        )


def machine_of(task: StageTask) -> Machine:
    """Return this machine, without its GPU where the worker does not use it."""
    machine = probe()
    return machine if task.device != "cpu" else replace(machine, gpu=None, gpu_memory_bytes=0)


def num_parts(config: DistillConfig) -> dict[str, int]:
    """Return the parts of each stage that are worth a process each: none with one class group."""
    num_classes = len(look_at(config.data).class_names)
    groups = len(class_groups(num_classes, config.finetune.classes_per_group))
    if groups < 2:
        return {}
    samples = {"generate": groups + bool(plain_per_class(config))}
    return ({"finetune": groups} if config.finetune.enabled else {}) | samples


def _warning_code(text: str) -> str:
    """Return the code of a plan's warning."""
    if "licence" in text:
        return "base_model_licence"
    return "memory_short" if "of memory" in text else "note"


def result_of(folder: Path, bundle: Finished) -> dict[str, Any]:
    """Return the figures of a finished job, ours and the controls beside it.

    Of hard labels, unless the job was judged by a protocol of soft ones.
    """
    tensors = folder / "bundle" / "distilled.safetensors"
    report = read_json(folder / "bundle" / "report.json")
    results = report["results"]
    rows = [_figures(row) for row in results["hard"] or results["soft"]]
    ours = next(row for row in rows if row["name"] == "ours")
    return {
        "content_digest": bundle.record["facts"]["content_digest"],
        "bundle_sha256": digest_file(tensors),
        "bundle_size_bytes": tensors.stat().st_size,
        "accuracy": ours["accuracy"],
        "cluster_min": ours["cluster_min"],
        "controls": [row for row in rows if row is not ours],
    }


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the means that a job's record keeps of a row of the report."""
    means = {key: (row.get(key) or {}).get("mean") for key in ("accuracy", "cluster_min")}
    return {"name": row["name"], "label": row["label"]} | means
