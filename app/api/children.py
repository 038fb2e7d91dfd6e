"""Child processes that open what users sent: with limits on time and memory, and no secrets.

Torch, image decoders and archive readers run there, never in the API's own process.
"""

import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from app.api.problems import Problem

MODULE = "app.api.inspect"
MAX_ANSWER_BYTES = 4 << 20
MAX_KNOWN = 64
MAX_WAITING = 4
"""So many may wait for their turn; each holds one of the threads that answer everything else."""
TURN_S = 30.0
LOG = logging.getLogger(__name__)


class Children:
    """Runs at most so many inspections at once; a few others wait for their turn."""

    def __init__(self, environment: Mapping[str, str], *, at_once: int = 2) -> None:
        """Take the variables that a child gets."""
        self.environment = dict(environment)
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._free = threading.BoundedSemaphore(at_once)
        self._num_waiting, self._lock = 0, threading.Lock()

    def ask(
        self, task: dict[str, Any], *, timeout_s: float = 120.0, reuse_s: float = 0.0,
        max_waiting: int = MAX_WAITING,
    ) -> dict[str, Any]:  # fmt: skip
        """Run a task in a child and return its answer.

        Args:
            task: For `app.api.inspect`, with its `kind`.
            timeout_s: After which the child is killed.
            reuse_s: An answer to the same task that is not older is given again.
            max_waiting: Where so many wait already, it is refused at once.

        Raises:
            Problem: What the child says is wrong, or that it did not finish.
        """
        key = json.dumps(task, sort_keys=True)
        known = self._known.get(key) if reuse_s else None
        if known is not None and known[0] + reuse_s > time.monotonic():
            return known[1]
        self._wait_for_turn(max_waiting)
        try:
            answer = self._run(task, timeout_s)
        finally:
            self._free.release()
        if reuse_s and "problem" not in answer:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[key] = (time.monotonic(), answer)
        if "problem" in answer:
            code, detail = answer["problem"]["code"], answer["problem"]["detail"]
            raise Problem(code, detail[:1000], errors=[
                {"pointer": answer["problem"].get("pointer", "#"), "code": code,
                 "detail": detail[:1000]}
            ])  # fmt: skip
        return answer

    def _wait_for_turn(self, max_waiting: int) -> None:
        """Take a turn.

        Raises:
            Problem: If too many wait, or none ends in time.
        """
        if self._free.acquire(blocking=False):
            return
        busy = Problem("inspection_failed", "too many inspections at once", retry_after_s=10)
        with self._lock:
            if self._num_waiting >= max_waiting:
                raise busy
            self._num_waiting += 1
        try:
            if not self._free.acquire(timeout=TURN_S):
                raise busy
        finally:
            with self._lock:
                self._num_waiting -= 1

    def _run(self, task: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="distillery-inspect-") as empty:
            try:
                done = subprocess.run(
                    [sys.executable, "-P", "-m", MODULE], input=json.dumps(task).encode(),
                    capture_output=True, timeout=timeout_s, cwd=empty, env=self.environment,
                    check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                detail = f"the inspection took over {timeout_s:.0f} s and was stopped"
                raise Problem("inspection_failed", detail, retry_after_s=60) from None
        if done.returncode != 0 or len(done.stdout) > MAX_ANSWER_BYTES:
            LOG.error("inspection ended with %s: %s", done.returncode, done.stderr[-2000:])
            kind = "needed too much memory or time" if done.returncode < 0 else "failed"
            raise Problem("inspection_failed", f"the inspection {kind}", retry_after_s=60)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
