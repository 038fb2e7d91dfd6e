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
from distillery.bundle.preview import MAX_ROWS, preview_png
from distillery.data.dataset import Dataset
from distillery.files import read_json, write_bytes
from distillery.tensorfile import read_tensors
from generator.entries import PARTIAL
from generator.one_stage import class_names
from generator.pipeline import JOB_FILE
from generator.stage import Finished
from generator.stages.generate import BATCHES, POOL
from generator.stages.refine import REFINED
from generator.stages.score import CHOSEN

FOLDER = "previews"
SAMPLES = "samples"
COLUMNS = 10
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
        self._next = time.monotonic() + FIRST_S
        self._read: set[Path] = set()
        self._num_images = 0
        self._shown = np.empty(0), np.empty(0, np.int64)
        self._classes: tuple[str, ...] | None = None
        self.folder: Path | None = None
        """Where the stage writes."""

    def tick(self) -> None:
        """Draw the samples that there are, if there are new ones and it is time."""
        if self._task.stage != "generate" or self.folder is None or time.monotonic() < self._next:
            return
        started = time.monotonic()
        new = [path for path in self._paths() if path not in self._read]
        for path in new:
            self._add(read_tensors(path)[0])
        self._read |= set(new)
        if new and self._class_names():
            self._draw(self._name, *self._shown, self._num_images)
        now = time.monotonic()
        self._next = now + max(LEAST_S if new else FIRST_S, (now - started) / SHARE)

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
        shown = _first(arrays["images"], arrays["labels"])
        self._draw(name, *shown, len(arrays["labels"]))

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

    def _add(self, batch: Mapping[str, np.ndarray]) -> None:
        """Take what the picture has room for; large pools stay on the disk."""
        images, labels = batch["images"], batch["labels"]
        self._num_images += len(labels)
        if len(self._shown[1]):
            images = np.concatenate([self._shown[0], images])
            labels = np.concatenate([self._shown[1], labels])
        self._shown = _first(images, labels)

    def _draw(self, name: str, images: np.ndarray, labels: np.ndarray, num_images: int) -> None:
        """Write one picture and tell of it."""
        assert self._classes is not None
        folder = self._task.folder / FOLDER
        folder.mkdir(exist_ok=True)
        file = f"{name}.png"
        write_bytes(folder / file, preview_png(images, labels, self._classes))
        url = f"/jobs/{self._task.job_id}/files/{FOLDER}/{file}?v={time.time_ns() // 10**6:x}"
        self._on_preview({"name": name, "url": url, "images": num_images})


def _first(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of each class, sorted by class, as many as a picture shows."""
    order = np.argsort(labels, kind="stable")
    labels = labels[order]
    rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
    keep = (rank < COLUMNS) & np.isin(labels, np.unique(labels)[:MAX_ROWS])
    return images[order[keep]], labels[keep]
