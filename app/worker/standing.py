"""A stage's reports as the progress of its job: share done and time left, in the light process.

What is expected of each stage was estimated with the plan; what is complete has its notes in the
job's folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.cli.tracker import Standing, Tracker
from app.worker.tasks import PLAN, StageTask
from distillery.files import read_json
from distillery.progress import Progress
from generator.stage_names import STAGE_NAMES

PHASES = (PLAN, *STAGE_NAMES)
ESTIMATE_FILE, NOTES_FILE = "estimate.json", "stages.json"


class JobProgress:
    """The progress of one job while one of its stages runs."""

    def __init__(self, task: StageTask) -> None:
        """Read what the job's folder says of the stages before this one."""
        self._tracker = Tracker(STAGE_NAMES, _read(task.folder / ESTIMATE_FILE))
        notes = _read(task.folder / NOTES_FILE)
        for name in STAGE_NAMES[: max(PHASES.index(task.stage) - 1, 0)]:
            note = notes.get(name, {})
            self._tracker.finish(
                name, note.get("seconds", 0.0), was_cached=note.get("cached", True)
            )

    def update(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return a report with the job's standing beside it; before the plan there is no ETA."""
        progress = Progress(report["phase"], report["step"], report["total"], report["message"])
        standing: Standing | None = None
        if progress.phase != PLAN:
            standing = self._tracker.update(progress)
        left_s = standing.left_s if standing is not None else None
        return dict(report) | {
            "phase_index": PHASES.index(progress.phase) if progress.phase in PHASES else 0,
            "phases_total": len(PHASES),
            "value": round(standing.overall, 4) if standing is not None else 0.0,
            "eta_seconds": round(left_s, 1) if left_s is not None else None,
        }


def _read(path: Path) -> dict[str, Any]:
    """Return a file that may not be there yet."""
    return read_json(path) if path.exists() else {}
