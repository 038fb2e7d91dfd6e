"""A stage: a function that reads finished folders, writes one of its own, and says so last.

A stage's key is a digest of its name, version, settings and the digests of what it reads. Its
folder is `NAME-KEY`; it is written under `NAME-KEY.partial` and renamed when whole, so that its
presence means "complete", and a run that was killed goes on inside the partial folder. A process
that uses a shared stage keeps it from being removed (`generator.entries`).
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillery.checkpoint import Checkpoint
from distillery.files import digest_file, digest_json, read_json, sync_folder, write_json
from distillery.progress import OnProgress, Progress
from generator.config import DistillConfig
from generator.entries import PARTIAL, RECORD, Hold, lock_of, note_use, take_within

WAITING = "another process is doing this: waiting"


@dataclass(frozen=True, slots=True)
class StageOutput:
    """What a stage says of its work."""

    summary: str
    """One line for a person."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Figures that later stages and the report read; part of the stage's digest."""
    digest: str | None = None
    """Identity of the output where it is not that of its files and facts."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a running stage may use."""

    config: DistillConfig
    """The resolved configuration."""
    folder: Path
    """Where this stage writes."""
    inputs: Mapping[str, Path]
    """Folders of the stages it reads, by name."""
    on_progress: OnProgress
    """Told of each unit of work; may raise `Cancelled`."""
    job: Mapping[str, Any] = field(default_factory=dict)
    """What the report tells of the job: decisions, warnings, records of earlier stages."""
    checkpoint_interval_s: float = 10.0
    """Seconds between two checkpoints."""
    holds: tuple[Hold | None, ...] = ()
    """What keeps the entries that it uses from being removed."""

    def checkpoint(self, name: str = "state") -> Checkpoint:
        """Return this stage's resumable state of that name; gone when the stage is complete."""
        path = self.folder / f"checkpoint-{name}.safetensors"
        return Checkpoint(path, interval_s=self.checkpoint_interval_s)

    def facts(self, stage: str) -> dict[str, Any]:
        """Return the facts of a stage that this one reads."""
        return read_json(self.inputs[stage] / RECORD)["facts"]

    def part(self, number: int, work: Callable[["Context"], None]) -> Path:
        """Return the folder of a part of this stage, doing its work unless it is complete.

        One process at a time works on a part, whether it does the whole stage or this part alone.

        Args:
            number: Of the part, 0 or more.
            work: Gets a context whose folder is the part's own.
        """
        folder = part_folder(self.folder, number)
        name = self.folder.name.partition("-")[0]
        with locked(lock_of(folder), name, self.on_progress):
            # The stage removes its parts once its record is written: look there first
            if not any((place / RECORD).exists() for place in (*_places(self.folder), folder)):
                folder.mkdir(exist_ok=True)
                work(replace(self, folder=folder))
                write_json(folder / RECORD, {"name": name, "part": number})
        return folder

    def finished_parts(self) -> list[int]:
        """Return the numbers of the parts that are complete, by whichever process."""
        stem = part_folder(self.folder, 0).name.removesuffix("0000")
        found = self.folder.parent.glob(f"{stem}*/{RECORD}")
        return sorted(int(path.parent.name.removeprefix(stem)) for path in found)


def part_folder(folder: Path, number: int) -> Path:
    """Return where a part lies: beside the folder of the stage, or of another part of it."""
    stem = folder.name.partition(".")[0]
    return folder.with_name(f"{stem}.part-{number:04d}")


def _places(stage_folder: Path) -> tuple[Path, Path]:
    """Return where a stage is while it is written, and where it is when complete."""
    final = stage_folder.with_name(stage_folder.name.removesuffix(PARTIAL))
    return final.with_name(final.name + PARTIAL), final


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a job."""

    name: str
    version: int
    """Raised by hand when the output of equal inputs changes."""
    reads: tuple[str, ...]
    """Names of the stages whose folders it reads."""
    settings: Callable[[DistillConfig], dict[str, Any]]
    """The part of the configuration that its output depends on."""
    run: Callable[[Context], StageOutput]
    """Does the work."""
    is_shared: bool = False
    """Whether its folder is in the cache, where other jobs find it."""
    parts: "Parts | None" = None
    """How its work falls into parts that other processes can do ahead of it."""
    aside: tuple["Stage", ...] = ()
    """Those of the stages that it reads that are aside (`generator.aside`), as it is itself."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of a stage, each finished in a folder of its own by `Context.part`."""

    count: Callable[[Context], int]
    """How many there are."""
    run: Callable[[Context, int], object]
    """Does the part of a number, unless it is complete."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A complete stage."""

    name: str
    folder: Path
    record: Mapping[str, Any]
    was_cached: bool
    """Whether it was complete before this run."""
    hold: Hold | None = None
    """Keeps its folder from being removed; None for a stage of the job's own."""


def stage_key(stage: Stage, config: DistillConfig, inputs: Mapping[str, Finished]) -> str:
    """Return the digest that names a stage's folder."""
    return digest_json(
        {
            "name": stage.name,
            "version": stage.version,
            "settings": stage.settings(config),
            "inputs": {name: inputs[name].record["digest"] for name in stage.reads},
        }
    )


def run_stage(
    stage: Stage,
    config: DistillConfig,
    inputs: Mapping[str, Finished],
    *,
    root: Path,
    on_progress: OnProgress,
    job: Mapping[str, Any] | None = None,
    checkpoint_interval_s: float = 10.0,
    used_by: str = "",
    phase: str | None = None,
) -> Finished:
    """Return the complete stage under `root`, doing or finishing its work where need be.

    A shared one cannot be removed from the cache while the returned value lives.

    Args:
        stage: To do.
        config: Resolved.
        inputs: The stages before it.
        root: Folder that its own lies in.
        on_progress: Told of the work and of waiting; may raise `Cancelled`.
        job: What the report tells of the job.
        checkpoint_interval_s: Seconds between two checkpoints.
        used_by: Name of the job.
        phase: What waiting is told as; None: the stage's name.
    """
    key, final = _place(stage, config, inputs, root)
    hold = note_use(final, used_by) if stage.is_shared else None
    if (final / RECORD).exists():
        return Finished(stage.name, final, read_json(final / RECORD), True, hold)
    with locked(lock_of(final), phase or stage.name, on_progress):
        if (final / RECORD).exists():  # another process has just finished it
            return Finished(stage.name, final, read_json(final / RECORD), True, hold)
        partial = root / f"{final.name}{PARTIAL}"
        partial.mkdir(exist_ok=True)
        if not (partial / RECORD).exists():  # else it was killed when all but the name was there
            started = time.monotonic()
            folders = {name: inputs[name].folder for name in stage.reads}
            context = Context(
                config, partial, folders, on_progress, job or {}, checkpoint_interval_s
            )
            output, seconds = stage.run(context), time.monotonic() - started
            record = _record(stage, key, config, inputs, partial, output, seconds)
            write_json(partial / RECORD, record)
        _finish(stage, partial, final, on_progress)
    return Finished(stage.name, final, read_json(final / RECORD), False, hold)


def _finish(stage: Stage, partial: Path, final: Path, on_progress: OnProgress) -> None:
    """Give a stage that has its record its name, without what was needed on the way only."""
    # Only now: until the record is there, a killed run goes on from its checkpoints
    _remove_parts(partial, stage.name, on_progress)
    for path in partial.iterdir():
        if _is_temporary(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.rename(partial, final)
    sync_folder(final.parent)


def part_context(
    stage: Stage,
    config: DistillConfig,
    inputs: Mapping[str, Finished],
    *,
    root: Path,
    on_progress: OnProgress,
    checkpoint_interval_s: float = 10.0,
    used_by: str = "",
) -> Context:
    """Return the context in which a part of a stage is done ahead of the stage itself."""
    _, final = _place(stage, config, inputs, root)
    hold = note_use(final, used_by) if stage.is_shared else None
    folders = {name: inputs[name].folder for name in stage.reads}
    partial = root / f"{final.name}{PARTIAL}"
    holds = (hold, *(finished.hold for finished in inputs.values()))
    return Context(config, partial, folders, on_progress, {}, checkpoint_interval_s, holds)


def _place(
    stage: Stage, config: DistillConfig, inputs: Mapping[str, Finished], root: Path
) -> tuple[str, Path]:
    """Return a stage's key, and its folder when complete; makes the folder around it."""
    key = stage_key(stage, config, inputs)
    root.mkdir(parents=True, exist_ok=True)
    return key, root / f"{stage.name}-{key[:16]}"


def _remove_parts(partial: Path, name: str, on_progress: OnProgress) -> None:
    """Remove the folders of parts, which are in the stage's own files by now."""
    stem = part_folder(partial, 0).name.removesuffix("0000")
    for folder in sorted(partial.parent.glob(f"{stem}*")):
        with locked(lock_of(folder), name, on_progress):
            shutil.rmtree(folder)


def _is_temporary(path: Path) -> bool:
    """Say whether an entry of a stage's folder is needed on the way only."""
    return path.name.startswith((".", "checkpoint-"))


class locked:  # noqa: N801  (reads as a statement)
    """Hold a file lock; while another holds it, report so that the wait can be cancelled."""

    def __init__(
        self, path: Path, name: str, on_progress: OnProgress, message: str = WAITING
    ) -> None:
        self.path, self.name, self.on_progress = path, name, on_progress
        self.message = message

    def __enter__(self) -> None:
        while (hold := take_within(self.path, 1.0)) is None:
            self.on_progress(Progress(self.name, 0, 1, self.message))
        self.hold = hold

    def __exit__(self, *_: object) -> None:
        self.hold.release()


def _record(
    stage: Stage, key: str, config: DistillConfig, inputs: Mapping[str, Finished], folder: Path,
    output: StageOutput, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Return the stage's record: what it came from, and the digests of what it wrote."""
    kept = [path for path in folder.iterdir() if not _is_temporary(path)]
    below = [path for top in kept for path in (top.rglob("*") if top.is_dir() else [top])]
    names = sorted(str(path.relative_to(folder)) for path in below if path.is_file())
    files = {name: digest_file(folder / name) for name in names}
    facts = dict(output.facts)
    return {
        "name": stage.name,
        "version": stage.version,
        "key": key,
        "settings": stage.settings(config),
        "inputs": {name: inputs[name].record["digest"] for name in stage.reads},
        "files": files,
        "facts": facts,
        "digest": output.digest or digest_json({"files": files, "facts": facts}),
        "summary": output.summary,
        "seconds": round(seconds, 2),
    }
