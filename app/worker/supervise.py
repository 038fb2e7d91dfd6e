"""One stage in a child process, watched: progress, cancel, deaths, and how it ended.

The supervisor's own process stays light: it never imports torch.
"""

import logging
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app.settings import child_environment
from app.worker.attempts import MAX_DEATHS, count_death, forget, marks_of
from app.worker.codes import describe
from app.worker.link import EXIT_CANCELED, EXIT_ORPHAN, EXIT_SILENCE, LAST_WORDS
from app.worker.spare import Child, Children, exit_reason
from app.worker.standing import JobProgress
from app.worker.tasks import Hooks, StageOutcome, StageTask, hide_paths

log = logging.getLogger(__name__)

LOG_FILE = "job.log"
TAIL_LINES, TAIL_BYTES = 40, 4096
POLL_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long things may take."""

    cancel_s: float = 30.0
    """From the request to stop until the process is killed."""
    ask_s: float = 0.3
    """Between two questions whether to stop."""


def run_stage_process(
    task: StageTask,
    hooks: Hooks,
    *,
    children: Children | None = None,
    limits: Limits | None = None,
) -> StageOutcome:
    """Run a stage in a child process and return how it ended.

    A child that dies is replaced by another, which goes on from the last checkpoint; after
    `MAX_DEATHS` deaths in a row without a new one the stage has failed.

    Args:
        task: What to do; its folder is made where it is missing.
        hooks: Told of progress and events, asked whether to stop. What they raise ends the child
            and is raised from here.
        children: Where the process comes from; None: one that is started for this task.
        limits: How long things may take.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    if children is None:
        with Children(child_environment(), keep_open=task.keep_open) as own:
            return run_stage_process(task, hooks, children=own, limits=limits)
    while True:
        outcome = _Run(task, hooks, children, limits or Limits()).follow()
        if outcome is not None:
            return outcome


class _Run:
    """One child at one task."""

    def __init__(self, task: StageTask, hooks: Hooks, children: Children, limits: Limits) -> None:
        self._task, self._hooks, self._limits = task, hooks, limits
        self._children = children
        self._key = task.stage if task.group is None else f"{task.stage}-{task.group:04d}"
        self._progress = JobProgress(task)
        self._log_start = _size(task.folder / LOG_FILE)
        self._work: Path | None = None
        self._marks = marks_of(None)
        self._has_started = False
        self._stopping: Literal["canceled", "lost"] | None = None
        self._kill_at = self._ask_at = 0.0

    def follow(self) -> StageOutcome | None:
        """Return how the task ended; None: its child died, and another one may try."""
        child = self._children.take(self._task)
        is_kept = False
        try:
            child.begin(self._task)
            end = self._watch(child)
            is_kept = end is not None and end[0] == "done" and self._stopping is None
        except BaseException:
            child.process.kill()  # whoever we report to has gone: so must the child
            raise
        finally:
            if is_kept:
                self._children.give_back(child, self._task)
            else:
                code = child.close()
        return self._outcome(end, 0 if is_kept else code)

    def _watch(self, child: Child) -> tuple[str, Any] | None:
        """Pass on what the child says until it says its last word, or dies."""
        while True:
            self._ask_and_stop(child)
            lines, is_over = _received(child)
            newest = [value for kind, value in lines if kind == "progress"]
            for report in newest[-1:]:  # a slow hook must not make us lag behind
                self._hooks.on_progress(self._progress.update(report))
            self._has_started = self._has_started or bool(lines)
            for kind, value in lines:
                if kind in LAST_WORDS:
                    return kind, value
                if kind == "work":
                    self._work = Path(value["folder"])
                    self._marks = {path: (size, at) for path, (size, at) in value["marks"].items()}
                elif kind in ("log", "preview"):
                    self._hooks.on_event(kind, value)
            if is_over:
                return None

    def _ask_and_stop(self, child: Child) -> None:
        """Ask whether to stop; once asked to, wait no longer than the limit."""
        now = time.monotonic()
        if self._stopping is not None:
            if now >= self._kill_at:
                log.warning("%s did not stop in time and is killed", self._key)
                child.process.kill()
            return
        if now < self._ask_at:
            return
        self._ask_at = now + self._limits.ask_s
        if self._hooks.should_stop():
            self._stopping = "lost"
        elif self._hooks.should_cancel():
            self._stopping = "canceled"
        if self._stopping is not None:
            self._kill_at = now + self._limits.cancel_s
            child.ask_to_stop()

    def _outcome(self, end: tuple[str, Any] | None, code: int) -> StageOutcome | None:
        """Judge the last word, or the exit code where there was none."""
        kind, value = end or ("", {})
        if kind == "done":
            forget(self._task.folder, self._key)
            return StageOutcome(kind="done", facts=value)
        if kind == "error" and self._stopping is None:
            forget(self._task.folder, self._key)
            return StageOutcome(kind="failed", error=value | {"log_tail": self._tail()})
        if self._stopping is not None:
            return StageOutcome(kind=self._stopping)
        if kind == "canceled" or code == EXIT_CANCELED:  # someone else's SIGTERM
            return StageOutcome(kind="lost")
        return self._died(code)

    def _died(self, code: int) -> StageOutcome | None:
        """Count a death that nobody asked for."""
        reason = exit_reason(code)
        log.warning("job %s: the process of %s %s", self._task.job_id, self._key, reason)
        if code in (EXIT_ORPHAN, EXIT_SILENCE):  # we ourselves stood still: not the stage's fault
            return None
        now = marks_of(self._work)
        got_somewhere = any(self._marks.get(path) != mark for path, mark in now.items())
        deaths = count_death(self._task.folder, self._key, reason, got_somewhere=got_somewhere)
        if deaths < MAX_DEATHS:
            message = (
                f"the process of {self._task.stage} {reason}; it goes on from its last checkpoint"
            )
            self._hooks.on_event("log", {"level": "warning", "message": message})
            return None
        forget(self._task.folder, self._key)
        message = (
            f"the process of {self._task.stage} died {deaths} times in a row without a new "
            f"checkpoint; the last {reason}"
        )
        if not self._has_started:
            message = (
                f"no process for {self._task.stage} could be started, {deaths} times in a row; the "
                f"last {reason}, and the worker's own log says why"
            )
        return StageOutcome(
            kind="failed",
            error=describe(
                "stage_died", message, phase=self._task.stage, log_tail=self._tail()
            ),
        )  # fmt: skip

    def _tail(self) -> str:
        """Return the end of what this child has logged."""
        return tail_of(self._task.folder / LOG_FILE, self._log_start, self._task)


def tail_of(path: Path, start: int, task: StageTask) -> str:
    """Return the end of a log, from byte `start` on at the most; empty where there is none."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(start, _size(path) - TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return hide_paths("\n".join(lines[-TAIL_LINES:]), task)


def _received(child: Child) -> tuple[list[tuple[str, Any]], bool]:
    """Return what the child has said since, after a short wait, and whether that was the last."""
    found: list[tuple[str, Any]] = []
    timeout_s = POLL_S
    while True:
        try:
            line = child.receive(timeout_s)
        except queue.Empty:
            return found, False
        if line is None:
            return found, True
        found.extend(line.items())
        timeout_s = 0.0


def _size(path: Path) -> int:
    """Return the size of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0
