"""One stage of a stored job, or one part of it, on its own: what a worker runs in a process.

The stages before it are taken as they lie in the cache and in the job's folder; one that is
missing, because someone has cleaned the cache, is done again first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillery.data.dataset import Dataset
from distillery.progress import OnProgress, ignore_progress
from generator.config import from_dict
from generator.pipeline import STAGES, set_up, stage_root, walk
from generator.stage import Context, Finished, Stage, locked, part_context

IN_USE = "another process is still at work on this job: waiting"


def run_one_stage(
    folder: Path,
    job: Mapping[str, Any],
    name: str,
    *,
    cache: Path,
    on_progress: OnProgress,
    checkpoint_interval_s: float = 10.0,
) -> dict[str, Finished]:
    """Finish a job up to the stage of a name; returns its stages so far, in order.

    The last stage also gives the bundle its place in the job's folder.

    Args:
        folder: Of the job; another process that is at work in it is waited for.
        job: Content of its `job.json`.
        name: Of the stage.
        cache: Folder of shared stages.
        on_progress: Told of all work and of waiting; may raise `Cancelled`.
        checkpoint_interval_s: Seconds between two checkpoints.
    """
    set_up(job)
    with locked(folder / ".lock", name, on_progress, IN_USE):
        return walk(
            folder, job, cache=cache, until=name, on_progress=on_progress,
            checkpoint_interval_s=checkpoint_interval_s,
        )  # fmt: skip


def run_one_part(
    folder: Path,
    job: Mapping[str, Any],
    name: str,
    number: int,
    *,
    cache: Path,
    on_progress: OnProgress,
    checkpoint_interval_s: float = 10.0,
) -> None:
    """Finish one part of a stage ahead of the stage; parts run beside one another.

    Raises:
        ValueError: If the stage has no part of this number.
    """
    stage, context = _context(
        folder, job, name, cache=cache, on_progress=on_progress,
        checkpoint_interval_s=checkpoint_interval_s,
    )  # fmt: skip
    count = stage.parts.count(context) if stage.parts is not None else 0
    if stage.parts is None or not 0 <= number < count:
        raise ValueError(f"stage {name} has {count} parts, got number {number}")
    stage.parts.run(context, number)


def count_parts(folder: Path, job: Mapping[str, Any], name: str, *, cache: Path) -> int:
    """Return the parts that are worth a process each: 0 where one process does the whole stage.

    Those of a job with one group of classes are not.
    """
    groups, context = _context(folder, job, "finetune", cache=cache)
    if groups.parts is None or groups.parts.count(context) < 2:
        return 0
    stage, context = _context(folder, job, name, cache=cache)
    return stage.parts.count(context) if stage.parts is not None else 0


def class_names(folder: Path, job: Mapping[str, Any], *, cache: Path) -> tuple[str, ...]:
    """Return the names of a job's classes once its data is prepared."""
    done = walk(
        folder, job, cache=cache, until="prepare", on_progress=ignore_progress, is_noted=False
    )
    return Dataset.load(done["prepare"].folder).class_names


def work_folder(
    folder: Path, job: Mapping[str, Any], name: str, *, cache: Path, on_progress: OnProgress
) -> Path:
    """Return where a stage writes; its parts lie beside it. Missing inputs are done first."""
    if name == STAGES[0].name:
        stage = STAGES[0]
        return part_context(
            stage, from_dict(job["config"]), {}, root=stage_root(stage, folder, cache),
            on_progress=on_progress, used_by=folder.name,
        ).folder  # fmt: skip
    return _context(folder, job, name, cache=cache, on_progress=on_progress)[1].folder


def _context(
    folder: Path, job: Mapping[str, Any], name: str, *, cache: Path,
    on_progress: OnProgress = ignore_progress, checkpoint_interval_s: float = 10.0,
) -> tuple[Stage, Context]:  # fmt: skip
    """Return a stage whose inputs are complete, and the context of its parts."""
    set_up(job)  # before an input that someone has cleaned away is made again
    number = next(n for n, stage in enumerate(STAGES) if stage.name == name)
    done = walk(
        folder, job, cache=cache, until=STAGES[number - 1].name, on_progress=on_progress,
        checkpoint_interval_s=checkpoint_interval_s, is_noted=False,
    )  # fmt: skip
    stage = STAGES[number]
    context = part_context(
        stage, from_dict(job["config"]), done, root=stage_root(stage, folder, cache),
        on_progress=on_progress, checkpoint_interval_s=checkpoint_interval_s,
        used_by=folder.name,
    )  # fmt: skip
    return stage, context
