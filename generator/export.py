"""Giving a job's fine-tuned base away: a plain model folder, the adapter folded in.

A latent base becomes a pipeline that stock diffusers loads and samples, `id2label` rewritten to the
job's classes; a pixel base becomes a folder that `--base` takes.
"""

from dataclasses import replace
from pathlib import Path

from distillery.data.dataset import Dataset
from distillery.errors import JobError, ModelError
from distillery.files import read_json
from distillery.models.export import export_pipeline
from distillery.progress import ignore_progress
from finetune.groups import class_groups
from generator.adapters import with_adapter
from generator.config import DistillConfig, from_dict
from generator.entries import RECORD, note_use
from generator.pipeline import JOB_FILE, STAGES
from generator.stage import Context, Finished, stage_key
from generator.stages.common import open_base

NEEDED = ("prepare", "base", "encode", "finetune")
"""The stages that an export reads, or that lead to one it reads."""


def export_finetuned(folder: Path, target: Path, *, cache: Path) -> list[Path]:
    """Write the fine-tuned base of a job and return the folders written.

    One folder, `target`; where the classes were fine-tuned in groups, one for each group inside
    it, because each group has weights of its own.

    Args:
        folder: Of a job that has been fine-tuned; it need not be finished.
        target: Must not exist.
        cache: Folder of shared stages, where base and adapters lie.

    Raises:
        JobError: If the folder holds no job, or one that has not come so far.
        ModelError: If `target` exists, or the base is no longer what it was.
    """
    if not (folder / JOB_FILE).exists():
        raise JobError(f"{folder} holds no job: name the folder of a `distillery run`")
    if target.exists():
        raise ModelError(f"{target} exists already: name a new folder to write the model to")
    config = from_dict(read_json(folder / JOB_FILE)["config"])
    done = _inputs(config, cache)
    inputs = {name: finished.folder for name, finished in done.items()}
    context = Context(replace(config, device="cpu"), target, inputs, ignore_progress)
    base, rows = open_base(context)
    names = Dataset.load(inputs["prepare"]).class_names
    if not config.finetune.enabled:
        export_pipeline(base, base.transformer, target, names, rows.tolist())
        return [target]
    written = []
    groups = class_groups(len(names), config.finetune.classes_per_group)
    for number, group in enumerate(groups):
        adapted = with_adapter(base, inputs["finetune"], number)
        place = target / f"classes-{group[0]:04d}-{group[-1]:04d}" if len(groups) > 1 else target
        own_names, own_rows = [names[label] for label in group], rows[list(group)].tolist()
        export_pipeline(base, adapted.transformer, place, own_names, own_rows)
        written.append(place)
    return written


def _inputs(config: DistillConfig, cache: Path) -> dict[str, Finished]:
    """Return the needed stages.

    Raises:
        JobError: If one of them is not complete.
    """
    done: dict[str, Finished] = {}
    for stage in STAGES:
        if stage.name not in NEEDED:
            continue
        path = cache / f"{stage.name}-{stage_key(stage, config, done)[:16]}"
        hold = note_use(path) if path.exists() else None  # first, so that it stays
        if not (path / RECORD).exists():
            raise JobError(
                f"stage {stage.name} of this job is not complete in {cache}, or its images or base "
                "have changed since: run the job again"
            )
        done[stage.name] = Finished(stage.name, path, read_json(path / RECORD), True, hold)
    return done
