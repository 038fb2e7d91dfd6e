"""What the engine hands to the supervisor of a stage, and what it gets back.

Values only: the workflow code knows nothing of processes, the supervisor nothing of the queue.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

PLAN = "plan"
"""Name of the first stage of a job, which makes its `job.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTask:
    """One stage of one job, or one class group of it."""

    job_id: str
    folder: Path
    """The job's folder."""
    cache: Path
    """Folder of shared stages."""
    stage: str
    """`plan`, or the name of a stage of `generator.pipeline`."""
    group: int | None = None
    """Number of the part (`generator.one_stage.run_one_part`) that runs ahead of the stage,
    beside the others; None: the whole stage, which gathers the parts that are there."""
    device: str = "cpu"
    """`cpu` or `cuda`: what this worker has."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """What the user asked for; read by `plan` alone."""
    datasets: tuple[Path, ...] = ()
    """Folders that uploaded and mounted datasets lie in."""
    models: Path | None = None
    """Folder of DiT pipelines that `plan` may take as the base."""
    keep_open: tuple[int, ...] = ()
    """File handles that the child inherits: the lock of this worker's id, so that no other worker
    takes that id while the child lives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """How a stage ended."""

    kind: Literal["done", "canceled", "failed", "lost"]
    """`lost`: the child died without a verdict, or this worker must stop; run the stage again. Too
    many deaths in a row are `failed`, by the supervisor's own count."""
    error: dict[str, Any] | None = None
    """Of a failed stage: `{"code", "message", "hint", "phase", "retryable", "log_tail"}`."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Of a done stage: `{"seconds", "summary", "cached"}`. Of `plan`: `{"config", "decisions",
    "warnings"}` as in the job's record, and `num_parts`, how many parts each stage falls into
    where they are worth a process each. Of `bundle` also `{"result"}`, as in the record."""


def hide_paths(text: str, task: StageTask) -> str:
    """Return a text without the places of the worker's folders, which are not a client's affair."""
    for place, name in ((task.folder, "the job's folder"), (task.cache, "the cache")):
        text = text.replace(str(place), name)
    for datasets in map(str, task.datasets):
        # a dataset keeps its name alone; an upload lies in a folder of its own
        text = re.sub(rf"{re.escape(datasets)}/([0-9a-f]{{32}}/)?", "", text)
        text = text.replace(datasets, "the folder of datasets")
    if task.models is not None:  # a pipeline keeps its name alone
        text = text.replace(f"{task.models}/", "").replace(str(task.models), "the models")
    return text


class Hooks(Protocol):
    """What the supervisor calls while a stage runs; none of them blocks for long."""

    def on_progress(self, progress: Mapping[str, Any]) -> None:
        """Take the job's progress: the fields of its record, and `metrics` of the stage."""

    def on_event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take an event of kind `log`, `preview` or `artifact`."""

    def should_cancel(self) -> bool:
        """Say whether someone asked to stop this job; asked about twice a second."""

    def should_stop(self) -> bool:
        """Say whether this worker must let go of the stage, which will run again elsewhere."""
