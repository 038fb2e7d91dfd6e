"""A task as the JSON that a supervisor writes to its child."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.worker.tasks import StageTask


def task_to_dict(task: StageTask) -> dict[str, Any]:
    """Return a task as JSON values."""
    return {
        "job_id": task.job_id,
        "folder": str(task.folder.absolute()),  # the child works in the job's folder
        "cache": str(task.cache.absolute()),
        "stage": task.stage,
        "group": task.group,
        "device": task.device,
        "request": dict(task.request),
        "datasets": [str(place.absolute()) for place in task.datasets],
        "models": None if task.models is None else str(task.models.absolute()),
    }


def task_from_dict(values: Mapping[str, Any]) -> StageTask:
    """Return the task that `task_to_dict` wrote."""
    paths = {name: Path(values[name]) for name in ("folder", "cache")}
    datasets = tuple(Path(place) for place in values["datasets"])
    models = None if values["models"] is None else Path(values["models"])
    return StageTask(**{**values, **paths, "datasets": datasets, "models": models})
