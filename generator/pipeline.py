"""The pipeline: every stage of a job in order, in a folder that can be left and taken up again.

A job folder holds `job.json` (request, resolved configuration, decisions), `stages/` and, at the
end, `bundle/`. Stages that other jobs can use lie in the cache. Running the same job again goes
on after the last complete stage, and inside a stage from its last checkpoint.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from distillery.data.dataset import Dataset
from distillery.errors import JobError
from distillery.files import digest_json, read_json, write_json
from distillery.machine import use_device, use_threads
from distillery.progress import OnProgress
from generator.config import DistillConfig, from_dict, to_dict
from generator.entries import RECORD, note_use, record_of
from generator.notes import note_stage
from generator.planned import Plan
from generator.same_job import differences, tell
from generator.stage import Finished, Stage, run_stage, stage_key
from generator.stages import (
    base,
    bundle,
    encode,
    evaluate,
    finetune,
    generate,
    label,
    prepare,
    refine,
    score,
)

STAGES: tuple[Stage, ...] = (
    prepare.STAGE, base.STAGE, encode.STAGE, finetune.STAGE, generate.STAGE, score.STAGE,
    refine.STAGE, label.STAGE, evaluate.STAGE, bundle.STAGE,
)  # fmt: skip
JOB_FILE = "job.json"
JOB_SCHEMA = "distillery-job/1"


@dataclass(frozen=True, slots=True)
class JobResult:
    """A finished job."""

    folder: Path
    bundle: Path
    """Folder of the bundle."""
    content_digest: str
    stages: tuple[Finished, ...]


def request_digest(request: Mapping[str, Any]) -> str:
    """Return the identity of what a user asked for."""
    return digest_json(dict(request))


def stored_job(
    folder: Path, request: Mapping[str, Any], *, may_replace: bool = False
) -> dict[str, Any] | None:
    """Return the job that a folder holds, None for a new folder.

    Args:
        folder: Of the job.
        request: What the user asked for; other words for the same job are the same job.
        may_replace: Also None for another job that has done nothing of its own yet.

    Raises:
        ConfigError: If the request is not the job's own and cannot be read.
        JobError: If the folder holds another job, or files that are not ours.
    """
    path = folder / JOB_FILE
    if folder.exists() and not folder.is_dir():
        raise JobError(f"{folder} is a file: name a new folder with --out, nothing was changed")
    if not path.exists():
        if folder.exists() and any(not p.name.startswith(".") for p in folder.iterdir()):
            raise JobError(
                f"{folder} exists and holds no job: name a new folder with --out, nothing was "
                "changed"
            )
        return None
    try:
        job = read_json(path)
        parts = (job["config"], job["request"])
        known = job["schema"] == JOB_SCHEMA and all(isinstance(part, dict) for part in parts)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise JobError(
            f"{path} is not the record of a job of this version: name a new folder with --out, "
            "nothing was changed"
        )
    if job["request_digest"] == request_digest(request):
        return job
    found = differences(job, request)
    if found and may_replace and not _has_begun(folder):
        return None
    if found:
        raise JobError(
            f"{folder} holds another job ({_describe(job['request'])}), with {tell(found)}: name a "
            "new folder with --out, or repeat that job's options to continue it"
        )
    return job


def _has_begun(folder: Path) -> bool:
    """Say whether a job has a complete stage of its own, a bundle, or a process at work."""
    if (folder / "bundle").exists() or any((folder / "stages").glob(f"*/{RECORD}")):
        return True
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _describe(request: Mapping[str, Any]) -> str:
    """Return a request in a few words."""
    dataset = request.get("data", {}).get("dataset", "digits")
    return f"dataset {dataset}, ipc {request.get('images_per_class', 10)}"


def start_job(folder: Path, request: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Write a new job's `job.json` and return it."""
    job = {
        "schema": JOB_SCHEMA,
        "request": dict(request),
        "request_digest": request_digest(request),
        "config": to_dict(plan.config),
        "decisions": [dataclasses.asdict(decision) for decision in plan.decisions],
        "warnings": list(plan.warnings),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JOB_FILE, job)
    return job


def run_job(
    folder: Path,
    job: Mapping[str, Any],
    *,
    cache: Path,
    on_progress: OnProgress,
    on_stage: Callable[[Finished], None] = lambda _: None,
    checkpoint_interval_s: float = 10.0,
) -> JobResult:
    """Run or finish a job.

    Args:
        folder: Of the job, with its `job.json`.
        job: Content of that file.
        cache: Folder of shared stages.
        on_progress: Told of all work; may raise `Cancelled`.
        on_stage: Told of each stage when it is complete.
        checkpoint_interval_s: Seconds between two checkpoints.

    Raises:
        JobError: If another process is running this job.
        DistilleryError: What a stage could not do.
    """
    set_up(job)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise JobError(f"another process is running the job in {folder}: wait for it") from error
    try:
        done = walk(
            folder, job, cache=cache, on_progress=on_progress, on_stage=on_stage,
            checkpoint_interval_s=checkpoint_interval_s,
        )  # fmt: skip
    finally:
        lock.release()
    digest = done["bundle"].record["facts"]["content_digest"]
    stages = tuple(dataclasses.replace(stage, hold=None) for stage in done.values())
    return JobResult(folder, folder / "bundle", digest, stages)


def set_up(job: Mapping[str, Any]) -> None:
    """Give this process the threads and the device that a job computes with."""
    compute_as(from_dict(job["config"]))


def compute_as(config: DistillConfig) -> None:
    """Give this process the threads and the device of a complete configuration."""
    assert config.num_threads is not None  # the plan filled it in
    use_threads(config.num_threads)
    use_device(config.device or "cpu")


def walk(
    folder: Path,
    job: Mapping[str, Any],
    *,
    cache: Path,
    on_progress: OnProgress,
    until: str = "bundle",
    on_stage: Callable[[Finished], None] = lambda _: None,
    checkpoint_interval_s: float = 10.0,
    is_noted: bool = True,
) -> dict[str, Finished]:
    """Return the complete stages of a job up to one of them, doing those that are not.

    Args:
        folder: Of the job.
        job: Content of its `job.json`.
        cache: Folder of shared stages.
        on_progress: Told of all work; may raise `Cancelled`.
        until: The last stage; `bundle` also gives the bundle its place in the folder.
        on_stage: Told of each stage when it is complete.
        checkpoint_interval_s: Seconds between two checkpoints.
        is_noted: Whether the folder takes note of the stages; then the caller holds its lock.
    """
    config: DistillConfig = from_dict(job["config"])
    done: dict[str, Finished] = {}
    rows: list[dict[str, Any]] = []
    for stage in STAGES[: _position(until) + 1]:
        facts = {"decisions": job["decisions"], "warnings": job["warnings"], "stages": [*rows]}
        finished = done[stage.name] = run_stage(
            stage, config, done, root=stage_root(stage, folder, cache), on_progress=on_progress,
            job=facts, checkpoint_interval_s=checkpoint_interval_s, used_by=folder.name,
        )  # fmt: skip
        if is_noted:
            rows.append(_row(note_stage(folder, finished)))
        on_stage(finished)
        if stage.name == "prepare":
            _check_size(finished, config)
    if "bundle" in done:
        _publish(done["bundle"].folder / bundle.FOLDER, folder / "bundle")
    return done


def _row(note: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report tells of a stage."""
    return {key: note[key] for key in ("name", "seconds", "cached", "summary")}


def _position(name: str) -> int:
    """Return where a stage stands in the order."""
    names = [stage.name for stage in STAGES]
    if name not in names:
        raise ValueError(f"stage must be one of {', '.join(names)}, got {name!r}")
    return names.index(name)


def stage_root(stage: Stage, folder: Path, cache: Path) -> Path:
    """Return the folder that holds a stage's own."""
    return cache if stage.is_shared else folder / "stages"


def complete_stages(config: DistillConfig, cache: Path, folder: Path | None) -> dict[str, Finished]:
    """Return the stages of a job that are complete already, in the cache or its own folder."""
    done: dict[str, Finished] = {}
    for stage in STAGES:
        root = cache if stage.is_shared else folder and folder / "stages"
        if root is None or any(name not in done for name in stage.reads):
            continue
        place = root / f"{stage.name}-{stage_key(stage, config, done)[:16]}"
        record = record_of(place)
        if record is not None:
            done[stage.name] = Finished(stage.name, place, record, True)
    return done


def note_uses(folder: Path, config: DistillConfig, *, cache: Path) -> None:
    """Note in the cache which of its entries a job that is planned will use."""
    for finished in complete_stages(config, cache, None).values():
        note_use(finished.folder, folder.name)


def _check_size(prepared: Finished, config: DistillConfig) -> None:
    """Refuse more images per class than the smallest class has."""
    dataset = Dataset.load(prepared.folder)
    prepare.check_images_per_class(
        dataset.facts["counts"]["train"], list(dataset.class_names), config.images_per_class
    )


def _publish(source: Path, target: Path) -> Path:
    """Give the bundle its place in the job folder, as links to the stage's files where it can."""
    sums = _sums(source)
    if is_whole(target) and _sums(target) == sums:
        return target
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, copy_function=os.link)
    except OSError:  # a file system without hard links
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
    if target.exists():  # of an earlier version of a stage
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
        os.rename(partial, target)
        shutil.rmtree(old)
    else:
        os.rename(partial, target)
    return target


def is_whole(folder: Path) -> bool:
    """Say whether every file that a bundle folder's checksums name is there."""
    rows = [row.split("  ", 1) for row in _sums(folder).decode().splitlines()]
    return bool(rows) and all((folder / name).is_file() for _, name in rows)


def _sums(folder: Path) -> bytes:
    """Return the checksums that a bundle folder carries, nothing where there are none."""
    path = folder / "SHA256SUMS"
    return path.read_bytes() if path.exists() else b""
