"""What the tests of the supervisor share: hooks that remember, and children without torch."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from app.worker.spare import Children
from app.worker.tasks import StageTask

ROOT = Path(__file__).parents[3]
FAKE = (sys.executable, str(Path(__file__).with_name("fake_child.py")))


class FakeHooks:
    """Remembers what it is told; asks to cancel or to stop once a report makes it so."""

    def __init__(
        self,
        cancel: Callable[["FakeHooks"], bool] = lambda _: False,
        stop: Callable[["FakeHooks"], bool] = lambda _: False,
    ) -> None:
        self._cancel, self._stop = cancel, stop
        self.reports: list[Mapping[str, Any]] = []
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.began_at = self.asked_at = 0.0

    def on_progress(self, progress: Mapping[str, Any]) -> None:
        self.began_at = self.began_at or time.monotonic()
        self.reports.append(progress)

    def on_event(self, kind: str, data: Mapping[str, Any]) -> None:
        self.events.append((kind, data))

    def should_cancel(self) -> bool:
        is_asked = self._cancel(self)
        self.asked_at = self.asked_at or (time.monotonic() if is_asked else 0.0)
        return is_asked

    def should_stop(self) -> bool:
        return self._stop(self)


def has_begun(hooks: FakeHooks) -> bool:
    """Say whether the stage has reported."""
    return bool(hooks.reports)


def fake_children(**options: Any) -> Children:
    """Return children without torch; they see the repository."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    return Children(environment, command=FAKE, **{"spare_delay_s": 60.0, **options})


def task_of(folder: Path, *steps: list, **fields: Any) -> StageTask:
    """Return a task that takes these steps."""
    values = {
        "job_id": "job_1", "folder": folder / "job", "cache": folder / "cache",
        "stage": "finetune", "request": {"do": list(steps)},
    }  # fmt: skip
    return StageTask(**{**values, **fields})
