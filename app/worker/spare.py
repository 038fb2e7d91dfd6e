"""The children of a worker: one at a stage, one that has imported everything and waits.

A child needs seconds to import the torch stack, so the next one is started ahead. On a CPU a
child goes on with the next stage of the same job; on a GPU every stage gets a process of its own,
which leaves no memory behind.
"""

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from app.worker.tasks import StageTask
from app.worker.wire import task_to_dict
from generator.stage_names import STAGE_NAMES

LEASE_S = 0.5
SPARE_DELAY_S = 3.0
"""A new spare is started so long after a stage, whose first seconds it would slow down."""
COMMAND = (sys.executable, "-m", "app.worker.child")


class Child:
    """A child process, its lines as they come, and its lease."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None,
                 keep_open: Sequence[int]) -> None:  # fmt: skip
        """Start the process. Call from a thread that lives on: Linux ends the child with it."""
        self.keep_open = tuple(keep_open)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
            pass_fds=self.keep_open, start_new_session=True,
        )  # fmt: skip
        self.job_id = ""
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._is_released = threading.Event()
        self._stdin_lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def begin(self, task: StageTask) -> None:
        """Hand over a task and give signs of life until `release`."""
        self.job_id = task.job_id
        self._is_released.clear()
        self._write(json.dumps(task_to_dict(task)).encode() + b"\n")
        threading.Thread(target=self._lease, args=(self._is_released,), daemon=True).start()

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the child's next line, None when it has closed its output.

        Raises:
            queue.Empty: If nothing came in time.
        """
        return self._lines.get(timeout=timeout_s)

    def release(self) -> None:
        """Stop the signs of life: the task is over."""
        self._is_released.set()
        self._is_released = threading.Event()

    def ask_to_stop(self) -> None:
        """Send SIGTERM: the stage saves its state and ends."""
        if self.is_alive:
            self.process.send_signal(signal.SIGTERM)

    def close(self, *, wait_s: float = 5.0) -> int:
        """End the process, by force where it does not end by itself; returns its exit code."""
        self.release()
        with self._stdin_lock:
            if self.process.stdin is not None and not self.process.stdin.closed:
                try:
                    self.process.stdin.close()
                except BrokenPipeError:
                    pass  # it has gone before it read everything
        try:
            return self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _lease(self, released: threading.Event) -> None:
        while not released.wait(LEASE_S) and self._write(b"\n"):
            pass

    def _write(self, content: bytes) -> bool:
        """Write to the child; says whether it still reads."""
        with self._stdin_lock:
            try:
                assert self.process.stdin is not None
                self.process.stdin.write(content)
                self.process.stdin.flush()
            except (BrokenPipeError, ValueError):  # dead, or closed by us
                return False
        return True

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(json.loads(line))
        self._lines.put(None)


class Children:
    """Starts children, keeps one ahead, and lets a job go on in the child that it has."""

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        keep_open: Sequence[int] = (),
        command: Sequence[str] = COMMAND,
        spare_delay_s: float = SPARE_DELAY_S,
    ) -> None:
        """Start nothing yet.

        Args:
            environment: Of the children, see `app.settings.child_environment`.
            keep_open: File handles that they inherit.
            command: What a child runs.
            spare_delay_s: Seconds after a start until the next child is started ahead.
        """
        self._environment, self._keep_open = environment, tuple(keep_open)
        self._command, self._delay_s = tuple(command), spare_delay_s
        # one thread for all starts, as long as there are children, see `Child`
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="children")
        self._lock = threading.Lock()
        self._spare: Future[Child] | None = None
        self._resting: Child | None = None
        self._timer: threading.Timer | None = None
        self._is_closed = False

    def prepare(self) -> None:
        """Start a child ahead, unless there is one."""
        with self._lock:
            if not self._is_closed and not (self._spare is not None and _lives(self._spare)):
                self._spare = self._starter.submit(self._start)

    def take(self, task: StageTask) -> Child:
        """Return a child for a task: the one at rest after the job's last stage, or a spare."""
        with self._lock:
            resting, self._resting = self._resting, None
        if resting is not None:
            if resting.is_alive and resting.job_id == task.job_id and task.device == "cpu":
                return resting
            resting.close()
        with self._lock:  # several parts of a stage may ask at once
            if self._is_closed:
                raise RuntimeError("no child can be started: the worker is closing")
            spare, self._spare = self._spare, None
            if spare is None or not _lives(spare):
                spare = self._starter.submit(self._start)
            self._timer = threading.Timer(self._delay_s, self.prepare)
            self._timer.daemon = True
            self._timer.start()
        return spare.result()

    def give_back(self, child: Child, task: StageTask) -> None:
        """Let a child that has finished a task rest for the next stage of its job."""
        child.release()
        with self._lock:
            is_free = self._resting is None and not self._is_closed
            is_kept = is_free and task.device == "cpu" and task.stage != STAGE_NAMES[-1]
            if is_kept:
                self._resting = child
        if not is_kept:
            child.close()

    def close(self) -> None:
        """End the children that are not at a stage."""
        with self._lock:
            self._is_closed = True
            timer, spare, resting = self._timer, self._spare, self._resting
            self._timer = self._spare = self._resting = None
        if timer is not None:
            timer.cancel()
        for child in (spare.result() if spare is not None else None, resting):
            if child is not None:
                child.close()
        self._starter.shutdown()

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def _start(self) -> Child:
        return Child(self._command, self._environment, self._keep_open)


def _lives(spare: Future[Child]) -> bool:
    """Say whether a child that was started ahead is still there, or about to be."""
    return not spare.done() or (spare.exception() is None and spare.result().is_alive)


def exit_reason(code: int) -> str:
    """Return in words how a process ended."""
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    return f"ended with exit code {code}"
