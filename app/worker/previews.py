"""Pictures of a job on its way: samples as the pool fills, the chosen images, the refined ones.

Each is a grid with a row for each class, written to `previews/` in the job's folder and replaced
as it grows. Drawing takes at most a twentieth of a stage's time.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.worker.tasks import StageTask
from distillery.bundle.preview import MAX_COLUMNS, MAX_ROWS, preview_png
from distillery.data.dataset import Dataset
from distillery.files import read_json, write_bytes
from distillery.tensorfile import read_tensors
from generator.one_stage import class_names
from generator.pipeline import JOB_FILE
from generator.stage import PARTIAL, Finished
from generator.stages.generate import BATCHES, POOL
from generator.stages.refine import REFINED
from generator.stages.score import CHOSEN

FOLDER = "previews"
SAMPLES = "samples"
FIRST_S, LEAST_S, SHARE = 0.5, 2.0, 0.05
OF_STAGE = {
    "generate": (SAMPLES, POOL),
    "score": ("chosen", CHOSEN),
    "refine": ("refined", REFINED),
}
"""Name of the picture and file of the images, by stage."""


class Previews:
    """The pictures of one task."""

    def __init__(self, task: StageTask, on_preview: Callable[[Mapping[str, Any]], None]) -> None:
        """Draw nothing yet; `on_preview` is told of each new picture."""
        self._task, self._on_preview = task, on_preview
        self._next, self._version, self._seen = time.monotonic() + FIRST_S, 0, 0
        self._batches: dict[Path, dict[str, np.ndarray]] = {}
        self._classes: tuple[str, ...] | None = None
        self.folder: Path | None = None
        """Where the stage writes."""

    def tick(self) -> None:
        """Draw the samples that there are, if there are new ones and it is time."""
        if self._task.stage != "generate" or self.folder is None or time.monotonic() < self._next:
            return
        started = time.monotonic()
        new = [path for path in self._paths() if path not in self._batches]
        self._batches |= {path: _shown(read_tensors(path)[0]) for path in new}
        if new and self._class_names():
            parts = list(self._batches.values())
            joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            order = np.argsort(joined["labels"], kind="stable")
            self._draw(self._name, joined["images"][order], joined["labels"][order])
        now = time.monotonic()
        self._next = now + max(LEAST_S, (now - started) / SHARE)

    def after(self, done: Mapping[str, Finished]) -> None:
        """Draw what a complete stage made, unless the picture of it is there."""
        if self._task.stage not in OF_STAGE:
            return
        name, file = OF_STAGE[self._task.stage]
        finished = done[self._task.stage]
        path = self._task.folder / FOLDER / f"{name}.png"
        if finished.was_cached and path.exists():
            return
        self._classes = Dataset.load(done["prepare"].folder).class_names
        arrays = read_tensors(finished.folder / file)[0]
        self._draw(name, arrays["images"], arrays["labels"])

    @property
    def _name(self) -> str:
        return SAMPLES if self._task.group is None else f"{SAMPLES}-{self._task.group:04d}"

    def _paths(self) -> list[Path]:
        """Return the finished batches of this task's parts, in order; not those of the control."""
        assert self.folder is not None
        stem = self.folder.name.removesuffix(PARTIAL)
        part = "*" if self._task.group is None else f"{self._task.group:04d}"
        return sorted(self.folder.parent.glob(f"{stem}.part-{part}/{BATCHES[0]}*"))

    def _class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, from the prepared data of the job."""
        if self._classes is None:
            job = read_json(self._task.folder / JOB_FILE)
            self._classes = class_names(self._task.folder, job, cache=self._task.cache)
        return self._classes

    def _draw(self, name: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Write one picture and tell of it."""
        assert self._classes is not None
        folder = self._task.folder / FOLDER
        folder.mkdir(exist_ok=True)
        file = f"{name}.png"
        write_bytes(folder / file, preview_png(images, labels, self._classes))
        self._version += 1
        url = f"/jobs/{self._task.job_id}/files/{FOLDER}/{file}?v={time.time_ns() // 10**6:x}"
        self._on_preview({"name": name, "url": url, "images": len(images)})


def _shown(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the part of a batch that a picture can hold, so that large pools stay on disk."""
    most = MAX_COLUMNS * MAX_ROWS
    return {key: batch[key][:most] for key in ("images", "labels")}
