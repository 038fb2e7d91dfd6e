"""Where a finished job stands today: its bundle may lack files, its cache or images be others.

A finished job is shown again without work; this says when that would be wrong or not be all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.config import from_dict
from generator.entries import RECORD
from generator.notes import read_notes
from generator.pipeline import STAGES, is_whole, stage_root
from generator.stage import stage_key


@dataclass(frozen=True, slots=True)
class Standing:
    """What has become of a finished job."""

    is_whole: bool
    """Whether every file of its bundle is there."""
    images_changed: bool
    """Whether the dataset is no longer the one that the job read."""
    missing: tuple[str, ...]
    """Shared stages that are gone from the cache."""


def standing_of(folder: Path, job: Mapping[str, Any], *, cache: Path) -> Standing:
    """Return where a finished job stands.

    Args:
        folder: Of the job, with its bundle.
        job: Content of its `job.json`.
        cache: Folder of shared stages.
    """
    notes, prepare = read_notes(folder), STAGES[0]
    began_with = notes.get(prepare.name)
    changed = began_with is not None and began_with["key"] != stage_key(
        prepare, from_dict(job["config"]), {}
    )
    missing = tuple(
        stage.name
        for stage in STAGES
        if stage.is_shared and stage.name in notes
        and not (
            stage_root(stage, folder, cache)
            / f"{stage.name}-{notes[stage.name]['key'][:16]}" / RECORD
        ).exists()
    )  # fmt: skip
    return Standing(is_whole(folder / "bundle"), changed, missing)
